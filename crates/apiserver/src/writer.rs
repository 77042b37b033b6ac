//! What the server itself writes by the path: with defaults, admission, validation and everything else that a request passes but
//! authorisation, as `system:apiserver`. Upstream has its loopback client for it.

use crate::{
    context::Context,
    own,
    path::RequestInfo,
    query::Query,
    registry::{self, Call, Change, DeleteOptions, WriteOptions},
    rows::Row,
    world::{Gvr, World},
};
use http::HeaderMap;
use machinery::{Value, apply, status::Status, time};
use std::{sync::Arc, time::SystemTime};

/// A writer over a world.
#[derive(Clone, Copy)]
pub(crate) struct Writer<'a> {
    world: &'a World,
    manager: &'static str,
}

impl<'a> Writer<'a> {
    /// Whose writes are the server's.
    pub(crate) fn new(world: &'a World) -> Self {
        Self { world, manager: own::MANAGER }
    }

    /// As one of the parts of the server that upstream knows by names of their own.
    pub(crate) fn known_as(world: &'a World, manager: &'static str) -> Self {
        Self { world, manager }
    }

    /// Creates an object.
    ///
    /// # Errors
    /// As a create by anybody.
    pub(crate) async fn create(&self, resource: Gvr<'_>, namespace: &str, mut value: Value) -> Result<Value, Status> {
        let row = self.world.expect_row(resource)?;
        let cx = self.context(&row, "create", namespace, "");
        own::default(&row, &mut value);
        let options = WriteOptions::internal(self.manager);
        let (query, headers) = (Query::default(), HeaderMap::new());
        let answer = registry::create_value(&self.call(&cx, &row, &query, &headers), &row, namespace, &options, value, registry::Made::Created).await?;
        Ok(answer.into_value(&row))
    }

    /// Replaces an object; `value` names the resourceVersion that it stems from, or none.
    ///
    /// # Errors
    /// As an update by anybody.
    pub(crate) async fn update(&self, resource: Gvr<'_>, namespace: &str, name: &str, value: Value) -> Result<Value, Status> {
        let row = self.world.expect_row(resource)?;
        self.change(&row, (namespace, name), "", |_| {
            let mut value = value.clone();
            own::default(&row, &mut value);
            Ok(value)
        })
        .await
    }

    /// Changes an object through an endpoint of it, from its present state.
    ///
    /// # Errors
    /// As an update by anybody; what `make` says.
    pub(crate) async fn change<F>(&self, row: &Arc<Row>, (namespace, name): (&str, &str), subresource: &str, make: F) -> Result<Value, Status>
    where
        F: FnMut(Option<&Value>) -> Result<Value, Status> + Send,
    {
        self.change_by(row, (namespace, name), subresource, false, make).await
    }

    /// Applies a configuration to an endpoint of an object, whoever else owns what it says.
    ///
    /// # Errors
    /// As an apply by anybody.
    pub(crate) async fn apply(&self, row: &Arc<Row>, name: &str, subresource: &str, configuration: &Value) -> Result<Value, Status> {
        let now = time::rfc3339(SystemTime::now());
        let exclude = row.reset_fields(subresource);
        let make = |old: Option<&Value>| {
            let mut value = apply::apply(row.ty(), old, configuration, self.manager, &row.api_version, subresource, true, &now, exclude)?;
            own::default(row, &mut value);
            Ok(value)
        };
        self.change_by(row, ("", name), subresource, true, make).await
    }

    async fn change_by<F>(&self, row: &Arc<Row>, (namespace, name): (&str, &str), subresource: &str, applied: bool, make: F) -> Result<Value, Status>
    where
        F: FnMut(Option<&Value>) -> Result<Value, Status> + Send,
    {
        let cx = self.context(row, "update", namespace, subresource);
        let options = WriteOptions::internal(self.manager);
        let (query, headers) = (Query::default(), HeaderMap::new());
        let change = Change { row, namespace, name, subresource, options: &options, may_create: false, applied, derived: true };
        let answer = registry::change(&self.call(&cx, row, &query, &headers), &change, make).await?;
        Ok(answer.into_value(row))
    }

    /// Deletes an object.
    ///
    /// # Errors
    /// As a delete by anybody.
    pub(crate) async fn delete(&self, resource: Gvr<'_>, namespace: &str, name: &str) -> Result<(), Status> {
        let row = self.world.expect_row(resource)?;
        self.delete_as(&row, (namespace, name), &DeleteOptions::default()).await
    }

    /// Deletes an object of a row in some way.
    ///
    /// # Errors
    /// As a delete by anybody.
    pub(crate) async fn delete_as(&self, row: &Arc<Row>, (namespace, name): (&str, &str), options: &DeleteOptions) -> Result<(), Status> {
        let cx = self.context(row, "delete", namespace, "");
        let (query, headers) = (Query::default(), HeaderMap::new());
        registry::delete_named(&self.call(&cx, row, &query, &headers), row, namespace, name, options).await?;
        Ok(())
    }

    fn call<'c>(&'c self, cx: &'c Context, row: &'c Arc<Row>, query: &'c Query<'c>, headers: &'c HeaderMap) -> Call<'c> {
        Call { world: self.world, cx, row, query, headers, accepted: Default::default() }
    }

    fn context(&self, row: &Row, verb: &'static str, namespace: &str, subresource: &str) -> Context {
        let info = RequestInfo {
            is_resource: true,
            verb,
            group: row.resource.group.clone(),
            version: row.resource.version.clone(),
            resource: row.resource.resource.clone(),
            namespace: namespace.to_owned(),
            subresource: subresource.to_owned(),
            ..RequestInfo::default()
        };
        Context::new(self.world.own_user(), info, "kube-apiserver".into(), SystemTime::now())
    }
}
