//! The connections to one server, kept for the next call.
//!
//! Upstream speaks HTTP/1.1 to all but this host, since a connection of HTTP/2 would have all calls reach one backend of a Service; so it is
//! here. Of HTTP/1.1 a hook has connections of its own, kept as many as Go keeps for a host. One of HTTP/2 is shared by the calls under
//! way, of all hooks at that server, so that what they ask at once leaves in one piece; where it carries [`CALLS_MAX`], or what the
//! server takes, another is made, and only one at a time.

use super::{
    Services, connect,
    connect::{Place, Sender},
    trust::{self, Identity},
};
use crate::offload;
use parking_lot::Mutex;
use rustls::ClientConfig as Tls;
use rustls_pki_types::{CertificateDer, ServerName};
use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// Idle connections that are kept to one server, as client-go's transport does.
const IDLE_MAX: usize = 25;
/// How long a connection is kept idle, as Go's default transport does.
const IDLE_LIFE: Duration = Duration::from_secs(90);
/// Calls that one connection of HTTP/2 carries at a time, where the server does not take fewer.
const CALLS_MAX: usize = 100;

/// By what connections are the same: where they lead, whom to believe there, and who to be.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    place: Place,
    bundle: Vec<u8>,
    chain: Vec<CertificateDer<'static>>,
    secret: Vec<u8>,
}

/// The pools of shared connections that there are, by what tells them apart.
#[derive(Default, Clone)]
pub(crate) struct Pools(Arc<Mutex<HashMap<Key, Weak<Pool>>>>);

impl fmt::Debug for Pools {
    /// Without the keys: secrets are among them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pools").finish_non_exhaustive()
    }
}

impl Pools {
    /// The connections to a server of this name, which these authorities vouch for.
    ///
    /// # Errors
    /// They cannot be used.
    pub(super) fn get(&self, place: Place, name: ServerName<'static>, bundle: &[u8], identity: Option<Identity>) -> Result<Arc<Pool>, String> {
        let two = matches!(&place, Place::Host { host, .. } if is_local(host));
        let (chain, secret) = identity.as_ref().map(|(chain, key)| (chain.clone(), key.secret_der().to_vec())).unwrap_or_default();
        let make = |place| Ok(Arc::new(Pool::new(place, name, trust::config(bundle, identity, two)?, two)));
        if !two {
            return make(place);
        }
        let key = Key { place: place.clone(), bundle: bundle.to_vec(), chain, secret };
        let mut pools = self.0.lock();
        if let Some(known) = pools.get(&key).and_then(Weak::upgrade) {
            return Ok(known);
        }
        let pool = make(place)?;
        pools.retain(|_, pool| pool.strong_count() > 0);
        pools.insert(key, Arc::downgrade(&pool));
        Ok(pool)
    }
}

/// See the module's head.
pub(super) struct Pool {
    place: Place,
    name: ServerName<'static>,
    tls: Arc<Tls>,
    idle: Mutex<Vec<(Instant, Sender)>>,
    /// Whether the next connection may be one that is shared.
    shares: AtomicBool,
    /// Held while such a one is made.
    making: tokio::sync::Mutex<()>,
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("place", &self.place).finish_non_exhaustive()
    }
}

impl Pool {
    fn new(place: Place, name: ServerName<'static>, tls: Tls, two: bool) -> Pool {
        Pool { place, name, tls: Arc::new(tls), idle: Mutex::default(), shares: AtomicBool::new(two), making: tokio::sync::Mutex::default() }
    }

    /// A connection that takes a request, and whether it was kept: such a one may be closed just now.
    ///
    /// # Errors
    /// None can be made; in Go's words.
    pub(super) async fn take(&self, services: &dyn Services) -> Result<(Sender, bool), String> {
        if let Some(kept) = self.kept() {
            return Ok((kept, true));
        }
        // Of those who come at once all but the first share what it makes.
        let making = if self.shares() { Some(self.making.lock().await) } else { None };
        let _making = making.filter(|_| self.shares());
        if let Some(kept) = self.kept() {
            return Ok((kept, true));
        }
        // Few calls make one, and it is large.
        let made = Box::pin(self.connect(services)).await?;
        self.shares.store(made.is_two(), Ordering::Relaxed);
        self.idle.lock().extend(made.shared(CALLS_MAX).map(|shared| (Instant::now(), shared)));
        Ok((made, false))
    }

    fn shares(&self) -> bool {
        self.shares.load(Ordering::Relaxed)
    }

    async fn connect(&self, services: &dyn Services) -> Result<Sender, String> {
        let (host, port) = connect::locate(&self.place, services)?;
        let (name, tls) = (self.name.clone(), Arc::clone(&self.tls));
        offload::at_home(async move { connect::connect(&host, port, name, tls).await }).await
    }

    fn kept(&self) -> Option<Sender> {
        let mut idle = self.idle.lock();
        idle.retain(|(since, sender)| since.elapsed() < IDLE_LIFE && !sender.is_closed());
        if let Some((since, shared)) = idle.iter_mut().find_map(|(since, sender)| Some((since, sender.shared(CALLS_MAX)?))) {
            *since = Instant::now();
            return Some(shared);
        }
        let alone = idle.iter().rposition(|(_, sender)| !sender.is_two())?;
        Some(idle.remove(alone).1)
    }

    /// Keeps what one call at a time may use, for the next.
    pub(super) fn keep(&self, sender: Sender) {
        let mut idle = self.idle.lock();
        if !sender.is_two() && idle.len() < IDLE_MAX && !sender.is_closed() {
            idle.push((Instant::now(), sender));
        }
    }
}

fn is_local(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}
