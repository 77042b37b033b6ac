//! Whether the server of a connection that several calls share is still there, by client-go's times.

use h2::{Ping, PingPong};
use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{Instant, Sleep, sleep};

/// A connection of HTTP/2 that was silent so long while somebody waits is asked for a sign of life, and has so long to give it.
pub(crate) const PING_AFTER: Duration = Duration::from_secs(30);
pub(crate) const PING_MAX: Duration = Duration::from_secs(15);

/// When it was heard last, and whether it is asked just now. The timer is set once for many calls: it is looked at what was heard
/// meanwhile when it ends.
pub(super) struct Life {
    ping: Option<PingPong>,
    heard: Instant,
    asked: bool,
    timer: Pin<Box<Sleep>>,
}

impl Life {
    /// Of a connection whose pings are these.
    pub(super) fn new(ping: Option<PingPong>) -> Life {
        Life { ping, heard: Instant::now(), asked: false, timer: Box::pin(sleep(PING_AFTER)) }
    }

    /// There was a sign of life.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// Ready when it has ended without a word. `awaited` is whether somebody waits for an answer.
    pub(super) fn poll_end(&mut self, awaited: bool, cx: &mut Context<'_>) -> Poll<()> {
        let Some(ping) = &mut self.ping else { return Poll::Pending };
        loop {
            if self.asked {
                if ping.poll_pong(cx).is_pending() {
                    return self.timer.as_mut().poll(cx);
                }
                self.asked = false;
                self.heard = Instant::now();
                self.timer.as_mut().reset(self.heard + PING_AFTER);
            }
            if !awaited || self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let (now, due) = (Instant::now(), self.heard + PING_AFTER);
            if due > now {
                self.timer.as_mut().reset(due);
                continue;
            }
            self.asked = ping.send_ping(Ping::opaque()).is_ok();
            self.timer.as_mut().reset(now + if self.asked { PING_MAX } else { PING_AFTER });
        }
    }
}
