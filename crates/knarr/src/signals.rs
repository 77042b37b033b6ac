//! What tells the program to end.

use tokio::signal::unix::{SignalKind, signal};

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Ctrl-C: the pods of this node end as well.
    Interrupt,
    /// SIGTERM, or the terminal is gone: another knarr will go on with what runs here.
    Terminate,
}

/// Waits for a signal.
pub async fn ended() -> std::io::Result<End> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => End::Interrupt,
        _ = terminate.recv() => End::Terminate,
        _ = hang_up.recv() => End::Terminate,
    })
}
