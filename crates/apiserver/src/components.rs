//! `componentstatuses`: how the parts of the control plane are, found out when they are asked for; none is stored.
//!
//! Deprecated since v1.19 and still served. Upstream asks scheduler and controller manager at their usual ports on its own
//! machine, and each server of etcd. A part that runs in this process lives and dies with it, and so does the embedded
//! store: whoever gets an answer knows that they are well.

use crate::{
    proxy,
    registry::{Call, Selectors},
    respond::Answer,
};
use http::StatusCode;
use machinery::{Value, status::Status};
use serde_json::json;

/// The programs that may run elsewhere on this machine, with the ports of their health, in upstream's order.
const PROGRAMS: [(&str, u16); 2] = [("controller-manager", 10257), ("scheduler", 10259)];
/// The store has the name of upstream's first.
const STORE: &str = "etcd-0";

/// All of them that are selected.
pub(crate) async fn list(call: &Call<'_>) -> Result<Answer, Status> {
    let selectors = Selectors::of(call.query, call.row)?;
    let labelled = selectors.labels.as_ref().is_none_or(|s| s.matches(|_| None));
    let wanted = |name: &str| labelled && selectors.fields.as_ref().is_none_or(|s| s.matches(|field| (field == "metadata.name").then_some(name)));
    let names = PROGRAMS.into_iter().map(|(name, _)| name).chain([STORE]).filter(|name| wanted(name));
    let found = futures_util::future::join_all(names.map(|name| component(call, name))).await;
    Ok(Answer::Computed(found.into_iter().flatten().collect()))
}

/// The one that the path names.
pub(crate) async fn get(call: &Call<'_>) -> Result<Answer, Status> {
    let found = component(call, call.name()).await;
    found.map(|value| Answer::Object(StatusCode::OK, value)).ok_or_else(|| Status::not_found("", "componentstatus", call.name()))
}

/// A part by its name; `None` if there is no such part.
async fn component(call: &Call<'_>, name: &str) -> Option<Value> {
    let program = PROGRAMS.into_iter().find(|(known, _)| *known == name);
    let health = match program {
        Some((known, _)) if call.world.config().resident.contains(&known) => Ok("ok".to_owned()),
        Some((_, port)) => proxy::health(port).await,
        None if name == STORE => Ok("ok".to_owned()),
        None => return None,
    };
    let (status, message) = match health {
        Ok(message) => ("True", message),
        Err(message) => ("False", message),
    };
    Some(json!({
        "kind": "ComponentStatus", "apiVersion": "v1",
        "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": status, "message": message}],
    }))
}
