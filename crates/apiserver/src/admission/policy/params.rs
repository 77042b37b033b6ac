//! The objects that are a binding's parameters (upstream's `CollectParams`).

use super::super::attributes::Attributes;
use crate::{
    conversion::Memory,
    gate::policies::{Binding, Policy},
    rows::Row,
    storage,
    world::World,
};
use machinery::Value;
use std::sync::Arc;

/// Whether the kind of a policy's parameters is served.
pub(super) fn known(world: &World, policy: &Policy) -> Result<(), String> {
    let Some((api, kind)) = &policy.params else { return Ok(()) };
    row(world, api, kind).map(drop).ok_or_else(|| {
        let (group, version) = api.split_once('/').unwrap_or(("", api));
        format!("failed to find resource referenced by paramKind: '{}/{version}, Kind={kind}'", group)
    })
}

/// The row of a kind, if it is served.
pub(super) fn row(world: &World, api: &str, kind: &str) -> Option<Arc<Row>> {
    let rows = world.rows();
    rows.iter().find(|row| row.api_version == api && row.resource.kind.kind == kind).cloned()
}

/// The parameters of a binding, one at a time; a single none if it has none.
pub(super) async fn of(asked: &Attributes<'_>, policy: &Policy, binding: &Binding) -> Result<Vec<Option<Arc<Value>>>, String> {
    let (Some((api, kind)), Some(wanted)) = (&policy.params, &binding.params) else { return Ok(vec![None]) };
    let Some(row) = row(asked.world, api, kind) else { return Err(format!("paramKind kind `{}` not known", shown(api, kind))) };
    let mut namespace = "";
    if row.resource.namespaced {
        namespace = if wanted.namespace.is_empty() { asked.namespace() } else { &wanted.namespace };
        if namespace.is_empty() {
            return Err("cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into());
        }
    } else if !wanted.namespace.is_empty() {
        return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into());
    }
    let found: Vec<Arc<Value>> = match &wanted.selector {
        _ if !wanted.name.is_empty() => named(asked.world, &row, namespace, &wanted.name).await?.into_iter().collect(),
        None => return Err("one of name or selector must be provided".into()),
        Some(Err(why)) => return Err(why.clone()),
        Some(Ok(selector)) => {
            let all = all(asked.world, &row, namespace).await?.into_iter();
            let selected = |object: &Arc<Value>| {
                let labels = object["metadata"]["labels"].as_object();
                selector.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
            };
            all.filter(selected).collect()
        }
    };
    if found.is_empty() && wanted.required {
        return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
    }
    Ok(found.into_iter().map(Some).collect())
}

/// A kind of parameters as Go shows it.
fn shown(api: &str, kind: &str) -> String {
    format!("&ParamKind{{APIVersion:{api},Kind:{kind},}}")
}

/// Why parameters cannot be read that a webhook does not convert: upstream's informer of them never has them all.
fn unread(row: &Row, why: &str) -> String {
    let kind = shown(&row.api_version, &row.resource.kind.kind);
    tracing::debug!(kind, why, "parameters cannot be read");
    format!("paramKind kind `{kind}` not yet synced to use for admission")
}

async fn named(world: &World, row: &Row, namespace: &str, name: &str) -> Result<Option<Arc<Value>>, String> {
    let present = storage::present(world.store(), row, &row.resource.key(namespace, name), Memory::Enough).await;
    let present = present.map_err(|error| unread(row, &error.undecodable()))?;
    Ok(present.map(|entry| storage::value(row, &entry)))
}

async fn all(world: &World, row: &Row, namespace: &str) -> Result<Vec<Arc<Value>>, String> {
    let prefix = if namespace.is_empty() { row.root_key.clone() } else { format!("{}{namespace}/", row.root_key) };
    let Some(snapshot) = storage::snapshot(world.store(), row, None) else { return Ok(Vec::new()) };
    let entries = storage::seen(world.store(), row, snapshot.range(&prefix, "").cloned().collect()).await;
    Ok(entries.map_err(|error| unread(row, &error.message))?.iter().map(|entry| storage::value(row, entry)).collect())
}
