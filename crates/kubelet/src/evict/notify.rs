//! News from the kernel that memory runs short (`--kernel-memcg-notification`), so that nobody waits for the next look.
//!
//! Version 1 of cgroups tells when what a cgroup uses crosses a number; the number follows what can be given back, and is set anew every ten
//! seconds (upstream's `notifierRefreshInterval`). Version 2 has no such news, and the original has none from it either.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::future::select_all;
use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::net::unix::pipe;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::observe::memory_of;
use super::signals::{Signal, Threshold};
use crate::pod::Context;

/// One number of one cgroup.
struct Crossing(pipe::Receiver);

impl Crossing {
    fn of(dir: &Path, bytes: i64) -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        let usage = fs::File::open(dir.join("memory.usage_in_bytes"))?;
        fs::write(dir.join("cgroup.event_control"), format!("{} {} {bytes}", event.as_fd().as_raw_fd(), usage.as_raw_fd()))?;
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(event.into())?))
    }

    async fn crossed(&self) {
        if self.0.readable().await.is_err() {
            std::future::pending().await
        }
    }
}

/// The cgroup whose use tells of a threshold.
fn directory(cx: &Context, t: &Threshold) -> Option<PathBuf> {
    let base = cx.cgroups.memory_base()?;
    match t.signal {
        Signal::Memory => Some(base),
        Signal::AllocatableMemory => Some(base.join(cx.cgroups.node_path().trim_start_matches('/'))),
        _ => None,
    }
}

/// Tells `hurry` when a threshold of memory is crossed.
pub async fn tell(cx: Arc<Context>, hurry: Arc<Notify>, stop: CancellationToken) {
    // The kernel tells only of version 1.
    if cx.cgroups.memory_base().is_none() {
        return;
    }
    let thresholds = &cx.config.settings.eviction.thresholds;
    while !stop.is_cancelled() {
        let mut crossings = Vec::new();
        for t in thresholds {
            let Some(dir) = directory(&cx, t) else { continue };
            let Some((capacity, usage, working_set)) = memory_of(&cx, t.signal).await else { continue };
            // What is used without being needed comes on top.
            let at = capacity.saturating_sub(t.below.of(capacity).value()).saturating_add(usage.saturating_sub(working_set));
            match Crossing::of(&dir, at) {
                Ok(crossing) => crossings.push(crossing),
                Err(error) => tracing::info!(%error, "no news of memory from the kernel"),
            }
        }
        let crossed = async {
            if crossings.is_empty() {
                std::future::pending::<()>().await;
            }
            select_all(crossings.iter().map(|c| Box::pin(c.crossed()))).await;
            hurry.notify_one();
            // One look is hurried for; the next number is set with the next round.
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = crossed => {}
            () = tokio::time::sleep(super::LOOK) => {}
            () = stop.cancelled() => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_kernel_is_told_the_number_and_its_news_are_heard() {
        let dir = crate::testing::TempDir::new("memcg");
        fs::write(dir.path().join("memory.usage_in_bytes"), "5").unwrap();
        let crossing = Crossing::of(dir.path(), 4096).unwrap();
        let told = fs::read_to_string(dir.path().join("cgroup.event_control")).unwrap();
        assert!(told.ends_with(" 4096") && told.split(' ').count() == 3, "{told}");
        nix::unistd::write(&crossing.0, &1_u64.to_ne_bytes()).unwrap();
        tokio::time::timeout(std::time::Duration::from_secs(30), crossing.crossed()).await.expect("news");
        assert!(Crossing::of(Path::new("/nowhere"), 1).is_err());
    }
}
