//! The IPAddress objects that show which addresses are taken (KEP-1880). They follow the Services; what is missing or too
//! much after a crash is repaired.

use super::Kept;
use crate::{own, rows::Row, storage, world::World};
use machinery::{Value, status::Status};
use serde_json::json;
use std::{net::IpAddr, sync::Arc, time::SystemTime};

/// Who makes them, as upstream's allocator signs.
pub(super) const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");

/// The row of IPAddresses; `None` where they are not served.
pub(super) fn row(world: &World) -> Option<Arc<Row>> {
    world.row("networking.k8s.io", "v1", "ipaddresses")
}

/// Whether an IPAddress stands for this address, whoever made it.
pub(super) fn is_there(world: &World, ip: IpAddr) -> bool {
    row(world).is_some_and(|row| storage::get(world.store(), &row, &row.resource.key("", &ip.to_string())).is_some())
}

/// What a committed write has taken is shown, and what it no longer uses is free.
pub(crate) async fn settle(world: &World, kept: Kept<'_>, namespace: &str, name: &str) {
    for ip in &kept.taken {
        show(world, *ip, namespace, name).await;
    }
    hide(world, &kept.freed, namespace, name).await;
    kept.free();
}

/// A Service is gone: so are its addresses.
pub(crate) async fn gone(world: &World, service: &Value) {
    let meta = &service["metadata"];
    let text = |field: &str| meta[field].as_str().unwrap_or_default();
    hide(world, &super::addresses(service), text("namespace"), text("name")).await;
    world.services().removed(service);
}

fn parent(namespace: &str, name: &str) -> Value {
    json!({"resource": "services", "namespace": namespace, "name": name})
}

/// Why there can be no IPAddress that shows a Service's address, as of a Service without a name: upstream makes it before it looks at the
/// Service, and tells of nothing else then.
pub(super) fn unshowable(ip: IpAddr, service: &Value) -> Option<String> {
    let (meta, name) = (&service["metadata"], ip.to_string());
    let text = |field: &str| meta[field].as_str().unwrap_or_default();
    let object = json!({"metadata": {"name": name}, "spec": {"parentRef": parent(text("namespace"), text("name"))}});
    let errors = kinds::strategy("networking.k8s.io", "ipaddresses").validate(&object);
    (!errors.is_empty()).then(|| Status::invalid("networking.k8s.io", "IPAddress", &name, errors).message)
}

/// Whether an IPAddress names a Service as its parent.
pub(super) fn is_of(object: &Value, namespace: &str, name: &str) -> bool {
    let told = &object["spec"]["parentRef"];
    [("group", ""), ("resource", "services"), ("namespace", namespace), ("name", name)]
        .iter()
        .all(|(field, text)| told[*field].as_str().unwrap_or_default() == *text)
}

/// Makes the IPAddress of a Service, or has one that was left over name it.
pub(super) async fn show(world: &World, ip: IpAddr, namespace: &str, name: &str) {
    let Some(row) = row(world) else { return };
    let now = SystemTime::now();
    let object = json!({
        "kind": "IPAddress",
        "apiVersion": "networking.k8s.io/v1",
        "metadata": {"name": ip.to_string(), "labels": {
            "ipaddress.kubernetes.io/ip-family": if ip.is_ipv4() { "IPv4" } else { "IPv6" },
            (MANAGED_BY.0): MANAGED_BY.1,
        }},
        "spec": {"parentRef": parent(namespace, name)},
    });
    let written = async {
        if own::create(world.store(), &row, now, object).await?.is_some() {
            return Ok(());
        }
        let mend = |old: &Value| {
            let mut value = old.clone();
            value["spec"]["parentRef"] = parent(namespace, name);
            Ok((value != *old).then_some(value))
        };
        own::amend(world.store(), &row, ("", &ip.to_string()), own::Owns::By(""), now, mend).await.map(drop)
    };
    if let Err(error) = written.await {
        tracing::warn!(%ip, %error, "the IPAddress of a Service could not be written; it will be repaired");
    }
}

/// Removes the IPAddresses that name a Service as their parent.
pub(super) async fn hide(world: &World, ips: &[IpAddr], namespace: &str, name: &str) {
    let Some(row) = row(world) else { return };
    for ip in ips {
        if let Err(error) = own::remove(world.store(), &row, &ip.to_string(), |object| is_of(object, namespace, name)).await {
            tracing::warn!(%ip, %error, "the IPAddress of a Service could not be removed; it will be repaired");
        }
    }
}
