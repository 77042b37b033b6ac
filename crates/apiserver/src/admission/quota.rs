//! ResourceQuota: what a namespace may hold and use in all. A write is measured, charged to every quota that counts it,
//! and refused if one of them would be exceeded.
//!
//! The charge is a change of the quota's status, on the condition that it is still the one that was looked at; so two
//! writes never use the same remainder. A write that is refused after its charge gives it back, unless somebody else (the
//! quota controller) has written the quota's status meanwhile: whoever counts anew counts what is there, and the refused
//! write is not. Where it is not known whether a write was stored, its charge stays until the controller counts again.

mod limits;
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
const CLASSES: (&str, &str, &str) = ("resource.k8s.io", "v1", "deviceclasses");
const CLAIMS: (&str, &str, &str) = ("resource.k8s.io", "v1", "resourceclaims");
const PODS: (&str, &str, &str) = ("", "v1", "pods");

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

/// Measures a write and charges it, step by step as upstream's `CheckRequest`.
pub(crate) async fn charge(world: &World, write: &Write<'_>, object: &Value) -> Result<Charges, Status> {
    if !super::is_on(world, "ResourceQuota") || write.namespace.is_empty() || !is_counted(write, object) {
        return Ok(Charges::default());
    }
    let quotas = world.list(QUOTAS, write.namespace);
    let limited = items(&world.config().admission.of("ResourceQuota")["limitedResources"]);
    if quotas.is_empty() && limited.is_empty() {
        return Ok(Charges::default());
    }
    let (group, resource) = (write.row.resource.group.as_str(), write.row.resource.resource.as_str());
    let concerns = |quota: &Value| amounts::of(&quota["status"]["hard"]).keys().any(|name| amounts::is_of(group, resource, name));
    let matching: Vec<&Arc<Value>> = quotas.iter().filter(|q| concerns(q) && amounts::selects(q, group, resource, object)).collect();
    for quota in &matching {
        ready(write, object, quota)?;
    }
    let uses = measure(world, write, object);
    let old = write.old.filter(|_| write.operation == Operation::Update);
    let more = old.map_or_else(|| uses.clone(), |old| beyond(&uses, &measure(world, write, old)));
    let charged = |quota: &Arc<Value>| {
        // What a quota has not counted before is charged to it whole.
        let knew = old.is_some_and(|old| amounts::selects(quota, group, resource, old));
        without_zeros(if knew { &more } else { &uses })
    };
    let deltas: Vec<(&Arc<Value>, Amounts)> = matching.iter().map(|quota| (*quota, charged(quota))).filter(|(_, delta)| !delta.is_empty()).collect();
    if deltas.is_empty() && (!matching.is_empty() || without_zeros(&more).is_empty()) {
        return Ok(Charges::default());
    }
    limits::covered(write, object, &matching, limited, &uses)?;
    limits::scoped(write, object, &quotas, limited)?;
    // First everything is looked at, so that a quota is not charged for what another refuses.
    for (quota, delta) in &deltas {
        examine(write, object, quota, delta)?;
    }
    let mut charges = Charges { namespace: write.namespace.to_owned(), all: Vec::new() };
    if write.dry_run {
        return Ok(charges);
    }
    for (quota, delta) in deltas.iter().filter(|(quota, delta)| !masked(delta, quota).is_empty()) {
        match commit(world, write, object, quota, delta).await {
            Ok(charge) => charges.all.extend(charge),
            Err(error) => {
                charges.refund(world).await;
                return Err(error);
            }
        }
    }
    Ok(charges)
}

/// What an object uses; a claim of devices also of the resources by which pods ask for them.
fn measure(world: &World, write: &Write<'_>, object: &Value) -> Amounts {
    let mut uses = amounts::measure(&write.row.resource.group, &write.row.resource.resource, object);
    if is(write, CLAIMS.0, CLAIMS.2) {
        let named = |class: &str| {
            let class = world.get(CLASSES, "", class)?;
            Some(text(&class["spec"], "extendedResourceName").to_owned()).filter(|name| !name.is_empty())
        };
        let pod = amounts::made_for(object).and_then(|(name, _)| world.get(PODS, write.namespace, name));
        // They may be many, and are read only where the pod does not name its claim.
        let claims = std::iter::once_with(|| world.list(CLAIMS, write.namespace)).flatten();
        let pod = pod.filter(|pod| amounts::is_made_for(object, pod, claims));
        amounts::charge_extended(&mut uses, named, pod.as_deref());
    }
    uses
}

/// Whether a write may use more than before (upstream's evaluators' `Handles`).
fn is_counted(write: &Write<'_>, object: &Value) -> bool {
    let (create, update) = (write.operation == Operation::Create, write.operation == Operation::Update);
    match (write.row.resource.group.as_str(), write.row.resource.resource.as_str(), write.subresource) {
        // Of a pod, the time that it has decides on what counts it.
        ("", "pods", "") => create || update && write.old.is_some_and(|old| is_timed(old) != is_timed(object)),
        ("", "pods", "resize") | ("", "persistentvolumeclaims", "status") => update,
        ("", "services" | "persistentvolumeclaims", "") | ("resource.k8s.io", "resourceclaims", "") => create || update,
        ("", "namespaces" | "bindings" | "events", _) | ("events.k8s.io" | "authentication.k8s.io" | "authorization.k8s.io", ..) => false,
        (_, _, part) => create && part.is_empty(),
    }
}

fn is_timed(pod: &Value) -> bool {
    pod["spec"]["activeDeadlineSeconds"].as_i64().is_some_and(|seconds| seconds >= 0)
}

/// What is used more than before; what is used less is given back by whoever counts.
fn beyond(now: &Amounts, before: &Amounts) -> Amounts {
    let more = |name: &str, amount: &Quantity| (*amount - before.get(name).copied().unwrap_or_default()).max(Quantity::ZERO);
    now.iter().map(|(name, amount)| (name.clone(), more(name, amount))).collect()
}

fn without_zeros(amounts: &Amounts) -> Amounts {
    amounts.iter().filter(|(_, amount)| !amount.is_zero()).map(|(name, amount)| (name.clone(), *amount)).collect()
}

/// Those of the amounts that a quota bounds.
fn masked(amounts: &Amounts, quota: &Value) -> Amounts {
    let hard = &quota["status"]["hard"];
    amounts.iter().filter(|(name, _)| !hard[name.as_str()].is_null()).map(|(n, a)| (n.clone(), *a)).collect()
}

/// Whether an object says what a quota wants to know, and the quota is counted; 403 in upstream's words.
fn ready(write: &Write<'_>, object: &Value, quota: &Value) -> Result<(), Status> {
    let (name, resource) = (text(&quota["metadata"], "name"), &write.row.resource);
    let mut hard = amounts::of(&quota["status"]["hard"]);
    hard.retain(|amount, _| amounts::is_of(&resource.group, &resource.resource, amount));
    if is(write, "", "pods") {
        usage::said(object, &hard).map_err(|why| forbidden(write, object, format!("failed quota: {name}: {why}")))?;
    }
    if hard.keys().all(|amount| !quota["status"]["used"][amount.as_str()].is_null()) {
        return Ok(());
    }
    let all: Vec<&str> = hard.keys().map(String::as_str).collect();
    Err(forbidden(write, object, format!("status unknown for quota: {name}, resources: {}", all.join(","))))
}

/// Whether a quota that is [`ready`] has room for a write; 403 in upstream's words.
fn examine(write: &Write<'_>, object: &Value, quota: &Value, delta: &Amounts) -> Result<(), Status> {
    let name = text(&quota["metadata"], "name");
    let (hard, used) = (amounts::of(&quota["status"]["hard"]), amounts::of(&quota["status"]["used"]));
    let asked = masked(delta, quota);
    let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or_default();
    // What a status tells is so already.
    let exceeded: Vec<&String> = match write.subresource {
        "status" => Vec::new(),
        _ => asked.iter().filter(|(n, amount)| of(&used, n) + **amount > of(&hard, n)).map(|(n, _)| n).collect(),
    };
    if exceeded.is_empty() {
        return Ok(());
    }
    let print = |amounts: &Amounts| {
        let list: Vec<String> = exceeded.iter().map(|n| format!("{n}={}", of(amounts, n))).collect();
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
        ready(write, object, present)?;
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
