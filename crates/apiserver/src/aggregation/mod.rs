//! Groups of the API that other servers serve, behind this one: APIServices that name a Service.
//!
//! [`Aggregation::of`] says whose a request is. An APIService that names a Service stands before everything that is served here
//! under the same group and version, built in or defined; one that names none leaves it to us, as upstream's aggregator does,
//! which stands before the other two servers. The table is compared with the store's revision at each request
//! ([`crate::gate::source`]), so an APIService counts for the next request, and a cluster that has none pays one look at a number.
//!
//! The parts: [`remote`] an APIService compiled · [`connect`] how its server is reached · [`forward`] a request passed on ·
//! [`headers`] who asks, and addresses as Go writes them · [`ask`] what we ask ourselves · [`availability`] the condition ·
//! [`catalog`] discovery · [`openapi`] descriptions · [`keeper`] who does all that.

mod ask;
mod availability;
mod catalog;
mod connect;
pub(crate) mod forward;
pub(crate) mod headers;
pub(crate) mod keeper;
mod openapi;
mod remote;

pub(crate) use openapi::Answered;

use crate::{Body, discovery, gate::source::Source, negotiate::Accept, path::RequestInfo, rows::Rows};
use catalog::Catalog;
use http::{HeaderMap, Response};
use identity::pki::Credential;
use machinery::Value;
use openapi::Descriptions;
use remote::{Compiler, LEGACY, Remote};
use std::sync::Arc;
use store::Store;

/// What is known of other servers.
#[derive(Debug)]
pub(crate) struct Aggregation {
    remotes: Source<Remote>,
    catalog: Catalog,
    descriptions: Descriptions,
}

impl Aggregation {
    /// Over the objects of a store, with what is shown to those servers.
    pub(crate) fn new(store: &Store, shown: Option<Credential>) -> Aggregation {
        let compiler = Compiler::new(shown);
        let remotes = Source::new(store, "/registry/apiregistration.k8s.io/apiservices/", move |object| compiler.compile(object).into_iter().collect());
        Aggregation { remotes, catalog: Catalog::default(), descriptions: Descriptions::default() }
    }

    /// Whose a request is; none if it is ours.
    pub(crate) fn of(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let remotes = self.remotes.at_once();
        if remotes.is_empty() {
            return None;
        }
        let is = |remote: &&Arc<Remote>| match info.prefix {
            "api" => remote.name == LEGACY,
            "apis" => !info.group.is_empty() && remote.group == info.group && remote.version == info.version,
            _ => false,
        };
        remotes.iter().find(is).cloned()
    }

    /// The paths that other servers have at the root.
    pub(crate) fn paths(&self) -> Vec<String> {
        let remotes = self.remotes.at_once();
        let grouped = remotes.iter().filter(|remote| !remote.group.is_empty());
        grouped.flat_map(|remote| [format!("/apis/{}", remote.group), format!("/apis/{}/{}", remote.group, remote.version)]).collect()
    }

    /// `/apis` and `/apis/GROUP`, in their older form; none if no other server has anything to do with it.
    pub(crate) fn plain(&self, rows: &Rows, path: &str, accept: &Accept<'_>) -> Option<Value> {
        // The path beside it has no other form.
        if path == "/apis" && discovery::aggregated_encoding(accept).is_some() {
            return None;
        }
        catalog::plain(rows, &self.remotes.at_once(), path)
    }

    /// Aggregated discovery; none if no other server has anything to do with it.
    pub(crate) fn aggregated(&self, rows: &Arc<Rows>, path: &str, headers: &HeaderMap, accept: &Accept<'_>) -> Option<Response<Body>> {
        self.catalog.answer(rows, path, headers, accept)
    }

    /// Whether any server has described what it serves.
    pub(crate) fn describes(&self) -> bool {
        !self.descriptions.is_empty()
    }

    /// An OpenAPI path; none if no other server has anything to do with it.
    pub(crate) fn described(&self, rows: &Rows, path: &str, headers: &HeaderMap) -> Option<Answered> {
        match self.descriptions.answer(rows, path, headers)? {
            // Whether it is there is said by its present state.
            Answered::By(remote) => self.remotes.at_once().iter().find(|present| present.is_same(&remote)).cloned().map(Answered::By),
            here => Some(here),
        }
    }

    fn forget(&self, name: &str) {
        self.catalog.set(name, None);
        self.descriptions.forget(name);
    }
}
