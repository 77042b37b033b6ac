//! Bytes carried both ways between two ends that have upgraded.
//!
//! Upstream (`UpgradeAwareHandler`) ends both ways as soon as one has ended. An end may still have something to say when the other has said
//! its last word, so here the other way stands as long as something moves on it; what is silent then is ended, since an end that is gone
//! looks the same as one that only listens, and a backend that never speaks would hold the connection for ever.

use futures_util::future::Either;
use std::{
    io,
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::{Instant, sleep_until},
};

/// Bytes that a tunnel holds in each direction.
const BUFFER: usize = 16 * 1024;
/// How long one way may be silent after the other has ended.
const HALF_OPEN_MAX: Duration = Duration::from_secs(30);

/// When something moved last, in milliseconds since the beginning.
struct Moved {
    begun: Instant,
    last_ms: AtomicU64,
}

impl Moved {
    fn note(&self) {
        self.last_ms.store(u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Returns when nothing has moved for as long as is allowed.
    async fn silence(&self) {
        loop {
            let end = self.begun + Duration::from_millis(self.last_ms.load(Ordering::Relaxed)) + HALF_OPEN_MAX;
            if end <= Instant::now() {
                return;
            }
            sleep_until(end).await;
        }
    }
}

/// Carries bytes between two ends until both ways have ended, or one has and the other is silent.
///
/// # Errors
/// One of the ends is gone.
pub(super) async fn carry(one: impl AsyncRead + AsyncWrite, other: impl AsyncRead + AsyncWrite) -> io::Result<()> {
    let (one_reads, one_writes) = split(one);
    let (other_reads, other_writes) = split(other);
    let moved = Moved { begun: Instant::now(), last_ms: AtomicU64::new(0) };
    let mut there = pin!(way(one_reads, other_writes, &moved));
    let mut back = pin!(way(other_reads, one_writes, &moved));
    let (ended, rest) = tokio::select! {
        ended = &mut there => (ended, Either::Left(back)),
        ended = &mut back => (ended, Either::Right(there)),
    };
    ended?;
    // The end of one way is a word of its own: the other has its time from here.
    moved.note();
    tokio::select! {
        ended = rest => ended,
        () = moved.silence() => Ok(()),
    }
}

async fn way(from: impl AsyncRead, to: impl AsyncWrite, moved: &Moved) -> io::Result<()> {
    let (mut from, mut to) = (pin!(from), pin!(to));
    let mut buffer = vec![0; BUFFER];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            read => {
                moved.note();
                to.write_all(&buffer[..read]).await?;
                to.flush().await?;
                moved.note();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::DuplexStream;

    fn tunnel() -> (DuplexStream, DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let ((client, near), (far, backend)) = (tokio::io::duplex(64), tokio::io::duplex(64));
        (client, backend, tokio::spawn(carry(near, far)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_end_is_not_waited_for_when_the_other_is_gone() {
        for client_goes in [true, false] {
            let (client, backend, carried) = tunnel();
            tokio::time::sleep(100 * HALF_OPEN_MAX).await;
            assert!(!carried.is_finished(), "two who are there may be silent");
            let (mut goes, mut stays) = if client_goes { (client, backend) } else { (backend, client) };
            goes.shutdown().await.unwrap();
            let begun = Instant::now();
            assert_eq!(stays.read(&mut [0; 8]).await.unwrap(), 0, "the end is told at once");
            carried.await.unwrap().unwrap();
            assert_eq!(begun.elapsed().as_secs(), HALF_OPEN_MAX.as_secs());
            assert!(stays.write_all(b"late").await.is_err(), "and both ends are closed");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_still_has_something_to_say_is_heard_to_the_end() {
        let (mut client, mut backend, carried) = tunnel();
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        backend.read_to_string(&mut asked).await.unwrap();
        let mut heard = vec![0; 4];
        for _ in 0..10 {
            tokio::time::sleep(HALF_OPEN_MAX * 9 / 10).await;
            backend.write_all(b"part").await.unwrap();
            client.read_exact(&mut heard).await.unwrap();
        }
        assert_eq!((asked.as_str(), heard.as_slice()), ("question", b"part".as_slice()));
        // An answer that nobody takes moves nothing.
        let stuck = tokio::spawn(async move { backend.write_all(&[0; 1 << 20]).await });
        carried.await.unwrap().unwrap();
        assert!(stuck.await.unwrap().is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_altogether_ends_it_when_something_comes_for_him() {
        let (client, mut backend, carried) = tunnel();
        drop(client);
        backend.write_all(b"x").await.unwrap();
        let begun = Instant::now();
        assert!(carried.await.unwrap().is_err());
        assert_eq!(begun.elapsed().as_secs(), 0);
    }
}
