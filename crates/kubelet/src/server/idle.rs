//! Connections that nobody uses end: each holds one of a limited number of places, and a client need not be anybody to have one.
//!
//! A new connection must bring its first request's head in good time, and one whose answers are all sent may wait a while for
//! the next (the original's `ReadHeaderTimeout` and `IdleTimeout`). A stream that was upgraded is no longer a connection here.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use parking_lot::Mutex;
use tokio::time::Instant;

/// Time for the first request's head.
const HEAD_MAX: Duration = Duration::from_secs(32);
/// Time between an answer's end and the next request.
const IDLE_MAX: Duration = Duration::from_secs(90);

struct State {
    under_way: usize,
    until: Instant,
}

/// What a connection is doing.
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

impl Busy {
    /// A body that counts as under way until it is gone.
    pub fn body(self, body: UnsyncBoxBody<Bytes, Infallible>) -> UnsyncBoxBody<Bytes, Infallible> {
        body.map_frame(move |frame| {
            let _under_way = &self;
            frame
        })
        .boxed_unsync()
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_let_go_and_who_is_served_is_not() {
        let begun = Instant::now();
        Idle::new().too_long().await;
        assert_eq!(begun.elapsed(), HEAD_MAX);
        let idle = Idle::new();
        let busy = idle.begin();
        assert!(tokio::time::timeout(10 * IDLE_MAX, idle.too_long()).await.is_err(), "an answer may take as long as it likes");
        let body = busy.body(Full::new(Bytes::from_static(b"x")).boxed_unsync());
        assert!(tokio::time::timeout(10 * IDLE_MAX, idle.too_long()).await.is_err());
        drop(body);
        let begun = Instant::now();
        idle.too_long().await;
        assert_eq!(begun.elapsed(), IDLE_MAX);
    }
}
