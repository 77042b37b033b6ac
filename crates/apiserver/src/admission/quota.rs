//! ResourceQuota: what a namespace may hold and use in all. A write is measured, charged to every quota that counts it,
//! and refused if one of them would be exceeded.
//!
//! The charge is a change of the quota's status, on the condition that it is still the one that was looked at; so two
//! writes never use the same remainder. A write that is refused after its charge gives it back, unless somebody else (the
//! quota controller) has written the quota's status meanwhile: whoever counts anew counts what is there, and the refused
//! write is not. Where it is not known whether a write was stored, its charge stays until the controller counts again.

mod usage;

use super::{
    amounts::{self, Amounts},
    forbidden, is, items, text,
};
use crate::{Operation, Write, own, world::World};
use machinery::{Value, quantity::Quantity, status::Status};
use serde_json::json;
use std::{collections::HashSet, sync::Arc, time::SystemTime};

const QUOTAS: (&str, &str, &str) = ("", "v1", "resourcequotas");

/// Forgets the pages of quotas that are gone.
pub(crate) fn tidy(world: &World) {
    // Before the quotas are read: a page that comes later belongs to one that is there.
    let known: Vec<String> = world.ledger().known();
    if known.is_empty() {
        return;
    }
    let quotas = world.list(QUOTAS, "");
    let there: HashSet<&str> = quotas.iter().map(|quota| text(&quota["metadata"], "uid")).collect();
    known.iter().filter(|uid| !there.contains(uid.as_str())).for_each(|uid| world.ledger().forget(uid));
}

/// What one write was charged.
#[derive(Debug, Default)]
#[must_use = "a write that is refused gives its charges back"]
pub(crate) struct Charges {
    namespace: String,
    all: Vec<Charge>,
}

#[derive(Debug)]
struct Charge {
    quota: String,
    uid: String,
    amounts: Amounts,
    epoch: u64,
}

/// Measures a write and charges it.
pub(crate) async fn charge(world: &World, write: &Write<'_>, object: &Value) -> Result<Charges, Status> {
    if !super::is_on(world, "ResourceQuota")
        || write.namespace.is_empty()
        || !write.row.strategy.charged(write.subresource, write.operation == Operation::Update)
    {
        return Ok(Charges::default());
    }
    let quotas = world.list(QUOTAS, write.namespace);
    let limited = items(&world.config().admission.of("ResourceQuota")["limitedResources"]);
    if quotas.is_empty() && limited.is_empty() {
        return Ok(Charges::default());
    }
    let resource = &write.row.resource;
    let new = amounts::measure(&resource.group, &resource.resource, object);
    let old = write.old.map(|old| amounts::measure(&resource.group, &resource.resource, old)).unwrap_or_default();
    let delta: Amounts = new.iter().map(|(name, amount)| (name.clone(), *amount - old.get(name).copied().unwrap_or_default())).collect();
    let matching: Vec<&Arc<Value>> = quotas.iter().filter(|q| amounts::selects(q, &resource.group, &resource.resource, object)).collect();
    covered(write, object, &matching, limited, &new)?;
    // First everything is looked at, so that a quota is not charged for what another refuses.
    for quota in &matching {
        examine(write, object, quota, &delta)?;
    }
    let grows = |quota: &Value| masked(&delta, quota).values().any(|amount| *amount > Quantity::ZERO);
    let mut charges = Charges { namespace: write.namespace.to_owned(), all: Vec::new() };
    if write.dry_run {
        return Ok(charges);
    }
    for quota in matching.into_iter().filter(|q| grows(q)) {
        match commit(world, write, object, quota, &delta).await {
            Ok(charge) => charges.all.extend(charge),
            Err(error) => {
                charges.refund(world).await;
                return Err(error);
            }
        }
    }
    Ok(charges)
}

/// What is limited by default is used by those alone whose use a quota bounds.
fn covered(write: &Write<'_>, object: &Value, matching: &[&Arc<Value>], limited: &[Value], new: &Amounts) -> Result<(), Status> {
    let resource = &write.row.resource;
    let own = limited.iter().filter(|limit| text(limit, "apiGroup") == resource.group && text(limit, "resource") == resource.resource);
    let parts: Vec<&str> = own.flat_map(|limit| items(&limit["matchContains"])).filter_map(Value::as_str).collect();
    let bounded = |name: &str| matching.iter().any(|quota| !quota["status"]["hard"][name].is_null());
    let uncovered: Vec<&str> = new.keys().map(String::as_str).filter(|name| parts.iter().any(|part| name.contains(part)) && !bounded(name)).collect();
    if uncovered.is_empty() {
        return Ok(());
    }
    Err(forbidden(write, object, format!("insufficient quota to consume: {}", uncovered.join(","))))
}

/// Those of the amounts that a quota bounds.
fn masked(amounts: &Amounts, quota: &Value) -> Amounts {
    let hard = &quota["status"]["hard"];
    amounts.iter().filter(|(name, _)| !hard[name.as_str()].is_null()).map(|(n, a)| (n.clone(), *a)).collect()
}

/// Whether a quota has room for a write; 403 in upstream's words.
fn examine(write: &Write<'_>, object: &Value, quota: &Value, delta: &Amounts) -> Result<(), Status> {
    let name = text(&quota["metadata"], "name");
    let (hard, used) = (amounts::of(&quota["status"]["hard"]), amounts::of(&quota["status"]["used"]));
    if write.operation == Operation::Create && is(write, "", "pods") {
        usage::said(object, &hard).map_err(|why| forbidden(write, object, format!("failed quota: {name}: {why}")))?;
    }
    let asked = masked(delta, quota);
    let unknown: Vec<&str> = asked.keys().filter(|n| !used.contains_key(*n)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(forbidden(write, object, format!("status unknown for quota: {name}, resources: {}", unknown.join(","))));
    }
    let exceeded: Vec<&String> = asked
        .iter()
        .filter(|(n, amount)| **amount > Quantity::ZERO && used.get(*n).copied().unwrap_or_default() + **amount > hard.get(*n).copied().unwrap_or_default())
        .map(|(n, _)| n)
        .collect();
    if exceeded.is_empty() {
        return Ok(());
    }
    let print = |amounts: &Amounts| {
        let list: Vec<String> = exceeded.iter().map(|n| format!("{n}={}", amounts.get(*n).copied().unwrap_or_default())).collect();
        list.join(",")
    };
    let why = format!("exceeded quota: {name}, requested: {}, used: {}, limited: {}", print(&asked), print(&used), print(&hard));
    Err(forbidden(write, object, why))
}

/// Adds a write's usage to a quota's status; `None` if the quota is gone, which bounds nothing.
async fn commit(world: &World, write: &Write<'_>, object: &Value, quota: &Value, delta: &Amounts) -> Result<Option<Charge>, Status> {
    let (group, version, resource) = QUOTAS;
    let Some(row) = world.row(group, version, resource) else { return Ok(None) };
    let (name, uid) = (text(&quota["metadata"], "name"), text(&quota["metadata"], "uid"));
    let page = world.ledger().page(uid);
    let mut page = page.lock().await;
    let mut amounts = Amounts::new();
    let outcome = own::amend(world.store(), &row, (write.namespace, name), own::Owns::By("status"), write.cx.now, |present| {
        examine(write, object, present, delta)?;
        amounts = masked(delta, present);
        Ok(Some(add(present, &amounts)))
    });
    match outcome.await {
        Ok((before, after)) => {
            if page.revision != before.revision {
                page.epoch += 1;
            }
            page.revision = after.revision;
            Ok(Some(Charge { quota: name.to_owned(), uid: uid.to_owned(), amounts, epoch: page.epoch }))
        }
        Err(error) if error.code == 404 => {
            world.ledger().forget(uid);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// A quota with so much more used.
fn add(quota: &Value, amounts: &Amounts) -> Value {
    let mut value = quota.clone();
    for (name, amount) in amounts {
        let used = amounts::parse(&value["status"]["used"][name.as_str()]).unwrap_or_default();
        value["status"]["used"][name.as_str()] = json!((used + *amount).to_string());
    }
    value
}

impl Charges {
    /// Gives back what a write was charged that is certain not to be stored.
    pub(crate) async fn refund(self, world: &World) {
        for charge in &self.all {
            if let Err(error) = self.give_back(world, charge).await {
                tracing::warn!(quota = charge.quota, %error, "a quota's charge could not be given back; its controller will count again");
            }
        }
    }

    async fn give_back(&self, world: &World, charge: &Charge) -> Result<(), Status> {
        let (group, version, resource) = QUOTAS;
        let Some(row) = world.row(group, version, resource) else { return Ok(()) };
        let page = world.ledger().page(&charge.uid);
        let mut page = page.lock().await;
        let known = page.revision.to_string();
        if page.epoch != charge.epoch {
            return Ok(());
        }
        let back: Amounts = charge.amounts.iter().map(|(name, amount)| (name.clone(), Quantity::ZERO - *amount)).collect();
        let target = (self.namespace.as_str(), charge.quota.as_str());
        let outcome = own::amend(world.store(), &row, target, own::Owns::By("status"), SystemTime::now(), |present| {
            // Another's writing, or another quota of that name: it was counted anew.
            Ok((text(&present["metadata"], "resourceVersion") == known).then(|| add(present, &back)))
        });
        match outcome.await {
            Ok((before, after)) => {
                if before.revision == page.revision {
                    page.revision = after.revision;
                }
                Ok(())
            }
            Err(error) if error.code == 404 => Ok(()),
            Err(error) => Err(error),
        }
    }
}
