//! A certificate that is shown in handshakes and can be replaced while a server serves and a client calls: the next handshake
//! shows the new one, connections that exist go on.

use super::Credential;
use crate::Error;
use parking_lot::RwLock;
use rustls::{
    SignatureScheme,
    client::ResolvesClientCert,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use std::sync::Arc;

/// A certificate with its key, as handshakes show it.
#[derive(Debug)]
pub struct Renewable(RwLock<Arc<CertifiedKey>>);

fn certified(own: &Credential) -> Result<Arc<CertifiedKey>, Error> {
    let provider = rustls::crypto::ring::default_provider();
    Ok(Arc::new(CertifiedKey::from_der(vec![own.cert()?], own.key()?, &provider)?))
}

impl Renewable {
    /// Shows this one.
    ///
    /// # Errors
    /// The credential is not usable.
    pub fn new(own: &Credential) -> Result<Arc<Renewable>, Error> {
        Ok(Arc::new(Renewable(RwLock::new(certified(own)?))))
    }

    /// Shows another from now on.
    ///
    /// # Errors
    /// As [`Renewable::new`]; the former one stays.
    pub fn replace(&self, own: &Credential) -> Result<(), Error> {
        *self.0.write() = certified(own)?;
        Ok(())
    }

    fn now(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read())
    }
}

impl ResolvesServerCert for Renewable {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Renewable {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}
