//! Calls of drivers: an end for each, and failures in the words that upstream has for them.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use ::volume::{Abilities, Access, Code, Failure};

/// For one call of a driver (upstream's `csiTimeout`).
const CALL_MAX: Duration = Duration::from_secs(120);

/// Why a volume is not ready; the message is the Event's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The Event's reason; empty: it is told with the pod's others.
    pub reason: &'static str,
    /// The Event's message.
    pub message: String,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Trouble {
    /// A step of mounting a volume failed.
    pub(super) fn mount(step: &str, volume: &str, why: impl fmt::Display) -> Self {
        Self { reason: "FailedMount", message: format!("{step} failed for volume {volume:?} : {why}") }
    }

    /// A step of giving a device failed.
    pub(super) fn map(step: &str, volume: &str, why: impl fmt::Display) -> Self {
        Self { reason: "FailedMapVolume", message: format!("{step} failed for volume {volume:?} : {why}") }
    }

    /// What is behind a volume is not to be had yet.
    pub(super) fn unprocessed(why: String) -> Self {
        Self { reason: "", message: why }
    }
}

/// A call with an end. What the driver does then goes on unseen, as far as it is known.
pub(super) async fn ends<T>(call: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let late = || Failure::new(Code::DeadlineExceeded, "context deadline exceeded");
    tokio::time::timeout(CALL_MAX, call).await.unwrap_or_else(|_| Err(late()))
}

/// A failure as gRPC writes it.
pub(super) fn rpc(failure: &Failure) -> String {
    failure.rpc()
}

/// How a volume is used, as CSI names it (upstream's mappers: the first mode counts).
pub(super) fn access(modes: &[String], can: Abilities) -> Access {
    match modes.first().map_or("ReadWriteOnce", String::as_str) {
        "ReadOnlyMany" => Access::MultiNodeReaderOnly,
        "ReadWriteMany" => Access::MultiNodeMultiWriter,
        "ReadWriteOncePod" if can.single_node_multi_writer => Access::SingleNodeSingleWriter,
        _ if can.single_node_multi_writer => Access::SingleNodeMultiWriter,
        _ => Access::SingleNodeWriter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_as_grpc_writes_them() {
        assert_eq!(rpc(&Failure::new(Code::NotFound, "no such volume")), "rpc error: code = NotFound desc = no such volume");
        assert_eq!(rpc(&Failure::new(Code::Other(2), "?")), "rpc error: code = Unknown desc = ?");
        let told = Trouble::mount("MountVolume.SetUp", "pv", rpc(&Failure::new(Code::Internal, "broken")));
        assert_eq!(
            (told.reason, told.message.as_str()),
            ("FailedMount", "MountVolume.SetUp failed for volume \"pv\" : rpc error: code = Internal desc = broken")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_driver_that_hangs_is_left_after_two_minutes() {
        let begun = tokio::time::Instant::now();
        let failure = ends::<()>(std::future::pending()).await.unwrap_err();
        assert_eq!(rpc(&failure), "rpc error: code = DeadlineExceeded desc = context deadline exceeded");
        assert!(!failure.is_final());
        assert_eq!(begun.elapsed(), CALL_MAX);
    }

    #[test]
    fn access_is_told_in_the_words_that_the_driver_knows() {
        let modes = |m: &str| vec![m.to_owned()];
        let (old, new) = (Abilities::default(), Abilities { single_node_multi_writer: true, ..Abilities::default() });
        assert_eq!(access(&[], old), Access::SingleNodeWriter);
        assert_eq!(access(&modes("ReadWriteOncePod"), old), Access::SingleNodeWriter);
        assert_eq!(access(&modes("ReadWriteOncePod"), new), Access::SingleNodeSingleWriter);
        assert_eq!(access(&modes("ReadWriteOnce"), new), Access::SingleNodeMultiWriter);
        assert_eq!(access(&modes("ReadOnlyMany"), new), Access::MultiNodeReaderOnly);
    }
}
