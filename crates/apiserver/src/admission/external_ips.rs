//! DenyServiceExternalIPs: no Service takes addresses that the cluster has not given (CVE-2020-8554).

use super::{Plugin, World, forbidden, is, items};
use crate::{Operation, Write};
use machinery::{Value, status::Status};

pub(super) struct DenyServiceExternalIps;

impl Plugin for DenyServiceExternalIps {
    fn name(&self) -> &'static str {
        "DenyServiceExternalIPs"
    }

    fn validate(&self, _world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
        if !is(write, "", "services") || !write.subresource.is_empty() || !matches!(write.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        let had = write.old.map_or(&[][..], |old| items(&old["spec"]["externalIPs"]));
        if items(&object["spec"]["externalIPs"]).iter().all(|ip| had.contains(ip)) {
            return Ok(());
        }
        Err(forbidden(write, object, "Use of external IPs is denied by admission control"))
    }
}
