//! What tells the program to end.

use std::{future::Future, io};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Ctrl-C: the pods of this node end as well.
    Interrupt,
    /// SIGTERM, or the terminal is gone: another knarr will go on with what runs here.
    Terminate,
}

/// The signals that are heard from the moment at which this is made: none that comes while nobody waits is lost, and none ends the
/// process by itself any more. So it is made before whatever must be ended in order.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Begins to hear.
    pub fn listen() -> io::Result<Signals> {
        Ok(Signals { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())?, hang_up: signal(SignalKind::hangup())? })
    }

    /// Waits for the next one.
    pub async fn ended(&mut self) -> End {
        tokio::select! {
            _ = self.interrupt.recv() => End::Interrupt,
            _ = self.terminate.recv() => End::Terminate,
            _ = self.hang_up.recv() => End::Terminate,
        }
    }
}

/// Waits for the first signal from now on, not only from when this is polled.
pub fn ended() -> impl Future<Output = io::Result<End>> {
    let signals = Signals::listen();
    async move { Ok(signals?.ended().await) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::{sys::signal::Signal::SIGHUP, unistd::Pid};

    #[tokio::test]
    async fn what_comes_before_anybody_waits_is_heard() {
        let (mut signals, told) = (Signals::listen().unwrap(), ended());
        nix::sys::signal::kill(Pid::this(), SIGHUP).unwrap();
        assert_eq!(signals.ended().await, End::Terminate);
        assert_eq!(told.await.unwrap(), End::Terminate);
        // Twice is two, for who asks again does not want to wait.
        nix::sys::signal::kill(Pid::this(), SIGHUP).unwrap();
        assert_eq!(signals.ended().await, End::Terminate);
    }
}
