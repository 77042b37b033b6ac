//! The way of the parts in this process to the API server: no TLS and no HTTP, but an identity, and everything that the
//! server does with a request.
//!
//! A request is handled on the API's threads, whoever sends it: a part that is busy does not delay what it has asked for, nor
//! does the API's work take the part's time. As with a server elsewhere, what was sent is done, also if nobody waits for it.

use apiserver::ApiServer;
use bytes::Bytes;
use client::{Body, Client, Error, Transport};
use http::{Request, Response};
use identity::User;
use std::{future::Future, pin::Pin, sync::Arc};
use tokio::runtime::Handle;

struct Local {
    server: ApiServer,
    user: Arc<User>,
    room: Handle,
}

impl Transport for Local {
    fn send(&self, request: Request<Bytes>) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send + 'static>> {
        let (server, user) = (self.server.clone(), Arc::clone(&self.user));
        let handled = self.room.spawn(async move {
            let mut request = request.map(apiserver::full);
            request.extensions_mut().insert(user);
            server.handle(request).await
        });
        Box::pin(async move { handled.await.map_err(|e| Error::Transport(format!("the API server gave no answer: {e}"))) })
    }
}

/// The API server, and the room in which it handles requests. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    server: ApiServer,
    room: Handle,
}

impl Door {
    /// Of a server whose room is the one that this is called in.
    pub fn new(server: &ApiServer) -> Door {
        Door { server: server.clone(), room: Handle::current() }
    }

    /// A client with this identity.
    pub fn client(&self, user: User) -> Client {
        Client::new(Arc::new(Local { server: self.server.clone(), user: Arc::new(user), room: self.room.clone() }))
    }
}

/// A user as a certificate or a token would name it.
pub fn user(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().copied().chain(["system:authenticated"]).map(str::to_owned).collect();
    User { name: name.to_owned(), uid: String::new(), groups, extra: Default::default() }
}

/// A service account of `kube-system`.
pub fn service_account(name: &str) -> User {
    user(&format!("system:serviceaccount:kube-system:{name}"), &["system:serviceaccounts", "system:serviceaccounts:kube-system"])
}
