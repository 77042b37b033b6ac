//! The way of the parts in this process to the API server: no TLS and no HTTP, but an identity, and everything that the
//! server does with a request.

use apiserver::ApiServer;
use bytes::Bytes;
use client::{Body, Client, Error, Transport};
use http::{Request, Response};
use identity::User;
use std::{future::Future, pin::Pin, sync::Arc};

struct Local {
    server: ApiServer,
    user: Arc<User>,
}

impl Transport for Local {
    fn send(&self, request: Request<Bytes>) -> Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send + 'static>> {
        let (server, user) = (self.server.clone(), Arc::clone(&self.user));
        Box::pin(async move {
            let mut request = request.map(apiserver::full);
            request.extensions_mut().insert(user);
            Ok(server.handle(request).await)
        })
    }
}

/// A client with this identity.
pub fn client(server: &ApiServer, user: User) -> Client {
    Client::new(Arc::new(Local { server: server.clone(), user: Arc::new(user) }))
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
