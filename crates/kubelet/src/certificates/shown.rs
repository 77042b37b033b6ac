//! The certificate that a server shows, which comes when the server serves already, and may be replaced: the next handshake shows the new
//! one, connections that exist go on.

use std::sync::Arc;

use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Pair;

/// A certificate as handshakes show it. Without one they fail, as with upstream's kubelet while its request is not signed.
#[derive(Debug, Default)]
pub struct Shown(RwLock<Option<Arc<CertifiedKey>>>);

impl Shown {
    /// Shows this one from now on.
    pub fn show(&self, pair: &Pair) {
        *self.0.write() = Some(pair.certified());
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().clone()
    }
}
