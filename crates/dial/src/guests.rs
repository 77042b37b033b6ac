//! Those who reach us: how many there may be, how long they are kept, and what becomes of an accept that fails.
//!
//! A client need not be anybody to open a connection, and each costs a descriptor of the process that also writes the store.
//! So there are so many places for all and fewer for each address ([`Places`]), a connection that is not used ends ([`Idle`]),
//! and where descriptors are wanting anyhow a [`Door`] rests and goes on instead of giving up or spinning.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::socket::{setsockopt, sockopt};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;

/// Time for the first request's head (the originals' `ReadHeaderTimeout`).
const HEAD_MAX: Duration = Duration::from_secs(32);
/// Time between an answer's end and the next request (their `IdleTimeout`). For HTTP/1, hyper's limit for a head begins with the
/// wait for it, so this is the one that it is to be given.
pub const IDLE_MAX: Duration = Duration::from_secs(90);
/// For the farewell of a connection that nobody uses, before it is cut.
const FAREWELL_MAX: Duration = Duration::from_secs(5);
/// After an accept that failed, for want of descriptors mostly: a moment's rest lets some be closed.
const REST: Duration = Duration::from_millis(100);
/// Between two words on the same trouble.
const TELL: Duration = Duration::from_secs(10);
/// How requests of plain HTTP begin, as far as Go's servers look (`tlsRecordHeaderLooksLikeHTTP`).
const PLAIN: [&[u8]; 5] = [b"GET /", b"HEAD ", b"POST ", b"PUT /", b"OPTIO"];
/// What those servers say to them where TLS is spoken.
const NOT_PLAIN: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
/// A silent peer is asked whether it is there, in seconds.
const KEEP_ALIVE_S: u32 = 30;

/// So many of `most` as leave the process enough descriptors for everything else: at most `1/part` of those it may have.
#[must_use]
pub fn at_most(most: usize, part: usize) -> usize {
    let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(usize::MAX, |(soft, _)| usize::try_from(soft).unwrap_or(usize::MAX));
    most.min(descriptors / part)
}

/// Places for clients: so many for all, and fewer for each. Cheap to clone.
#[derive(Clone)]
pub struct Places(Arc<Counted>);

struct Counted {
    all: usize,
    each: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    of: HashMap<IpAddr, usize>,
}

/// A place that is given back when it is dropped.
pub struct Place {
    places: Arc<Counted>,
    client: IpAddr,
}

impl Places {
    /// So many for all, so many for each address.
    #[must_use]
    pub fn new(all: usize, each: usize) -> Self {
        Self(Arc::new(Counted { all, each, taken: Mutex::default() }))
    }

    /// A place for a client, if there is one for him.
    #[must_use]
    pub fn enter(&self, client: IpAddr) -> Option<Place> {
        let mut taken = self.0.taken.lock();
        if taken.all >= self.0.all || taken.of.get(&client).is_some_and(|n| *n >= self.0.each) {
            return None;
        }
        taken.all += 1;
        *taken.of.entry(client).or_default() += 1;
        Some(Place { places: self.0.clone(), client })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.all -= 1;
        if let Some(count) = taken.of.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                taken.of.remove(&self.client);
            }
        }
    }
}

/// Says one thing once in a while.
#[derive(Default)]
pub struct Told(Option<Instant>);

impl Told {
    /// Whether it may be said again.
    pub fn due(&mut self) -> bool {
        let due = self.0.is_none_or(|told| told.elapsed() >= TELL);
        if due {
            self.0 = Some(Instant::now());
        }
        due
    }
}

/// A listener that lets in whom there is a place for.
pub struct Door<L = TcpListener> {
    what: &'static str,
    listener: L,
    places: Places,
    failed: Told,
    full: Told,
}

impl<L: Borrow<TcpListener>> Door<L> {
    /// `what` is served here, as the log calls it.
    #[must_use]
    pub fn new(what: &'static str, listener: L, places: Places) -> Self {
        Self { what, listener, places, failed: Told::default(), full: Told::default() }
    }

    /// The next who has a place. Whoever has his share already is hung up on; the others do not wait for him. May be dropped
    /// at any time.
    pub async fn next(&mut self) -> Guest {
        loop {
            let (stream, address) = match self.listener.borrow().accept().await {
                Ok(accepted) => accepted,
                // It gave up before he was heard.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => {
                    if self.failed.due() {
                        tracing::warn!(what = self.what, %error, "connections cannot be accepted");
                    }
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Some(place) = self.places.enter(address.ip()) else {
                if self.full.due() {
                    tracing::warn!(what = self.what, client = %address.ip(), "too many connections; one is turned away");
                }
                continue;
            };
            // What cannot be set leaves a connection as it is.
            let _ = stream.set_nodelay(true);
            let _ = setsockopt(&stream, sockopt::KeepAlive, &true);
            let _ = setsockopt(&stream, sockopt::TcpKeepIdle, &KEEP_ALIVE_S);
            let _ = setsockopt(&stream, sockopt::TcpKeepInterval, &KEEP_ALIVE_S);
            return Guest { stream, address, _place: place };
        }
    }
}

/// A connection with its place, which it has for as long as it is open, whoever it is handed on to. Who vanishes without a
/// word is noticed, also while nothing is to be sent.
pub struct Guest {
    stream: TcpStream,
    address: SocketAddr,
    _place: Place,
}

impl Guest {
    /// Who it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for the first word of who is to speak TLS. Whether it was one of plain HTTP: then the client was told so, and there is
    /// nothing more to say.
    ///
    /// # Errors
    /// The connection has failed.
    pub async fn speaks_plainly(&mut self) -> io::Result<bool> {
        let mut first = [0; 5];
        let heard = self.stream.peek(&mut first).await?;
        if !PLAIN.contains(&&first[..heard]) {
            return Ok(false);
        }
        // What is not read is answered by a reset, which would overtake what is said here.
        let _ = self.stream.try_read(&mut [0; 4096]);
        self.stream.write_all(NOT_PLAIN).await?;
        Ok(true)
    }
}

impl AsyncRead for Guest {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

struct State {
    under_way: usize,
    until: Instant,
}

/// What a connection is doing. A new one must bring its first request's head in good time, and one whose answers are all sent
/// may wait a while for the next. A stream that was upgraded is no longer a connection here.
#[derive(Clone)]
pub struct Idle(Arc<Mutex<State>>);

/// A request under way, until its answer's body is sent or dropped.
pub struct Busy(Idle);

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = self.0.0.lock();
        state.under_way -= 1;
        state.until = Instant::now() + IDLE_MAX;
    }
}

impl Default for Idle {
    fn default() -> Self {
        Self::new()
    }
}

impl Idle {
    /// A connection that has just come.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(State { under_way: 0, until: Instant::now() + HEAD_MAX })))
    }

    /// A request has come.
    #[must_use]
    pub fn begin(&self) -> Busy {
        self.0.lock().under_way += 1;
        Busy(self.clone())
    }

    /// Returns when nothing was under way for too long.
    pub async fn too_long(&self) {
        loop {
            let at = {
                let state = self.0.lock();
                if state.under_way > 0 { Instant::now() + IDLE_MAX } else { state.until }
            };
            if at <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(at).await;
        }
    }

    /// Returns when the farewell was said long enough ago, and nothing is under way.
    pub async fn farewell(&self) {
        loop {
            tokio::time::sleep(FAREWELL_MAX).await;
            if self.0.lock().under_way == 0 {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[test]
    fn nobody_has_more_than_his_share() {
        let places = Places::new(3, 2);
        let (a, b) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let first = places.enter(a);
        let second = places.enter(a);
        assert!(first.is_some() && second.is_some() && places.enter(a).is_none());
        let third = places.enter(b);
        assert!(third.is_some() && places.enter(b).is_none(), "there are three in all");
        drop(first);
        assert!(places.enter(b).is_some());
        drop((second, third));
        assert!(places.0.taken.lock().of.is_empty() && places.0.taken.lock().all == 0);
    }

    #[tokio::test]
    async fn a_place_is_held_as_long_as_the_connection_is_open() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut door = Door::new("test", listener, Places::new(8, 1));
        let mut first = TcpStream::connect(at).await.unwrap();
        let guest = door.next().await;
        assert_eq!(guest.address().ip(), at.ip());
        let mut second = TcpStream::connect(at).await.unwrap();
        let mut byte = [0];
        tokio::select! {
            _ = door.next() => panic!("there is one place for each"),
            read = second.read(&mut byte) => assert!(read.is_err() || read.unwrap() == 0, "hung up on"),
        }
        drop(guest);
        assert_eq!(first.read(&mut byte).await.unwrap(), 0);
        let _third = TcpStream::connect(at).await.unwrap();
        door.next().await;
    }

    #[tokio::test]
    async fn who_does_not_speak_tls_is_told_so() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut door = Door::new("test", listener, Places::new(8, 8));
        for (said, plain) in [("GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n", true), ("\x16\x03\x01\x00\x05", false), ("DELETE / HTTP/1.1\r\n\r\n", false)] {
            let mut client = TcpStream::connect(at).await.unwrap();
            client.write_all(said.as_bytes()).await.unwrap();
            let mut guest = door.next().await;
            assert_eq!(guest.speaks_plainly().await.unwrap(), plain, "{said}");
            if plain {
                drop(guest);
                let mut heard = Vec::new();
                client.read_to_end(&mut heard).await.unwrap();
                assert_eq!(heard, NOT_PLAIN);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_let_go_and_who_is_served_is_not() {
        let begun = Instant::now();
        Idle::new().too_long().await;
        assert_eq!(begun.elapsed(), HEAD_MAX);
        let idle = Idle::new();
        let busy = idle.begin();
        assert!(tokio::time::timeout(10 * IDLE_MAX, idle.too_long()).await.is_err(), "an answer may take as long as it likes");
        assert!(tokio::time::timeout(10 * FAREWELL_MAX, idle.farewell()).await.is_err());
        drop(busy);
        let begun = Instant::now();
        idle.too_long().await;
        assert_eq!(begun.elapsed(), IDLE_MAX);
    }

    #[test]
    fn descriptors_are_left_for_others() {
        let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        assert_eq!(at_most(usize::MAX, 2), usize::try_from(soft).unwrap() / 2);
        assert_eq!(at_most(3, 2), 3);
    }
}
