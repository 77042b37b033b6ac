//! The parts of a process (API server, kubelet, proxy, …) by name: they run until they are told to end, and none ends by itself.

use anyhow::anyhow;
use std::{future::Future, time::Duration};
use tokio::{runtime::Handle, task::JoinSet};

/// For parts to end when they are told to, requests that are being answered with them.
const DRAIN: Duration = Duration::from_secs(5);
/// The part that would start again what is ended.
pub const KUBELET: &str = "kubelet";

/// The parts that run, with their names.
pub type Parts = JoinSet<(&'static str, anyhow::Result<()>)>;

/// Starts a part in a room.
pub fn spawn<E>(parts: &mut Parts, room: &Handle, name: &'static str, part: impl Future<Output = Result<(), E>> + Send + 'static)
where
    E: Into<anyhow::Error>,
{
    parts.spawn_on(async move { (name, part.await.map_err(Into::into)) }, room);
}

/// Waits until a part ends, and says which, and why.
pub async fn failed(parts: &mut Parts) -> anyhow::Error {
    match parts.join_next().await {
        Some(Ok((name, Ok(())))) => anyhow!("the {name} ended"),
        Some(Ok((name, Err(error)))) => error.context(format!("the {name} failed")),
        Some(Err(error)) => anyhow!("a part failed: {error}"),
        None => anyhow!("no part runs"),
    }
}

/// Waits for the end of the kubelet, which was told to, but not for ever.
pub async fn kubelet_ended(parts: &mut Parts) {
    let kubelet = async { while matches!(parts.join_next().await, Some(Ok((name, _))) if name != KUBELET) {} };
    let _ = tokio::time::timeout(DRAIN, kubelet).await;
}

/// Waits for the end of all, which were told to, but not for ever.
pub async fn all_ended(parts: &mut Parts) {
    let all = async { while parts.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN, all).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_fails_is_named_and_who_does_not_end_is_left() {
        let (mut parts, room) = (Parts::new(), Handle::current());
        spawn(&mut parts, &room, "proxy", async { Err::<(), _>(std::io::Error::other("no rules")) });
        assert_eq!(format!("{:#}", failed(&mut parts).await), "the proxy failed: no rules");
        spawn(&mut parts, &room, KUBELET, async { anyhow::Ok(()) });
        spawn(&mut parts, &room, "DNS", std::future::pending::<anyhow::Result<()>>());
        kubelet_ended(&mut parts).await;
        assert_eq!(parts.len(), 1, "the others run on");
        all_ended(&mut parts).await;
        assert_eq!(parts.len(), 1);
        parts.shutdown().await;
        assert_eq!(failed(&mut parts).await.to_string(), "no part runs");
    }
}
