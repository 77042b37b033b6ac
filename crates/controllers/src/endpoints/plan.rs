//! How endpoints are laid out in slices (upstream `staging/.../endpointslice/reconciler.go`): no input, no output.
//!
//! A slice holds endpoints of one set of ports. What stays stays where it is, so that a change touches as few slices as
//! can be: changed endpoints in place, new ones into slices that are written anyway, then into one with room for all of
//! them, and only then into new slices.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;

use super::{TRIGGER_TIME, set_trigger};
use crate::meta::{Map, annotations, labels};

/// Endpoints of a slice at most (upstream `--max-endpoints-per-slice`).
pub(super) const ENDPOINTS_MAX: usize = 100;

/// What the slices of one owner and address type have in common.
pub(super) struct Template {
    pub(super) namespace: String,
    /// Names begin with it.
    pub(super) prefix: String,
    pub(super) labels: Map,
    /// None: whatever is there stays.
    pub(super) annotations: Option<Map>,
    pub(super) owner: OwnerReference,
    pub(super) family: &'static str,
    /// Endpoints of a slice at most.
    pub(super) endpoints_max: usize,
}

/// The endpoints that are to be, by their ports.
#[derive(Default)]
pub(super) struct Desired {
    groups: BTreeMap<String, Group>,
}

#[derive(Default)]
struct Group {
    ports: Vec<EndpointPort>,
    endpoints: Vec<Endpoint>,
}

/// What is to be written.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) create: Vec<EndpointSlice>,
    pub(super) update: Vec<EndpointSlice>,
    pub(super) delete: Vec<Arc<EndpointSlice>>,
    /// Endpoints that are to be, those of them that are new, and those that were and are not to be.
    pub(super) desired: usize,
    pub(super) added: usize,
    pub(super) removed: usize,
    /// How many slices it would take.
    pub(super) wanted_slices: usize,
}

impl Plan {
    /// Adds what is to be written of another family.
    pub(super) fn extend(&mut self, other: Plan) {
        self.create.extend(other.create);
        self.update.extend(other.update);
        self.delete.extend(other.delete);
        self.desired += other.desired;
        self.added += other.added;
        self.removed += other.removed;
        self.wanted_slices += other.wanted_slices;
    }

    /// Adds slices that are to go.
    pub(super) fn remove(&mut self, slices: impl IntoIterator<Item = Arc<EndpointSlice>>) {
        for slice in slices {
            self.removed += slice.endpoints.as_ref().map_or(0, Vec::len);
            self.delete.push(slice);
        }
    }
}

impl Desired {
    pub(super) fn add(&mut self, ports: Vec<EndpointPort>, endpoint: Endpoint) {
        let group = self.groups.entry(ports_key(&ports)).or_default();
        group.ports = ports;
        group.endpoints.push(endpoint);
    }
}

/// Equal for the same ports in any order.
fn ports_key(ports: &[EndpointPort]) -> String {
    let mut texts: Vec<String> = ports.iter().map(|p| serde_json::to_string(p).unwrap_or_default()).collect();
    texts.sort();
    texts.concat()
}

/// Equal for the same endpoint in two states.
fn endpoint_key(endpoint: &Endpoint) -> String {
    let target = endpoint.target_ref.as_ref().and_then(|t| t.uid.as_deref()).unwrap_or_default();
    let mut addresses: Vec<&str> = endpoint.addresses.iter().map(String::as_str).collect();
    addresses.sort_unstable();
    format!("{target} {}", addresses.join(" "))
}

/// The writes that make the slices of one owner and address type hold what is desired.
pub(super) fn plan(template: &Template, mut desired: Desired, existing: &[Arc<EndpointSlice>], trigger: Option<Timestamp>) -> Plan {
    let mut out = Plan::default();
    let mut by_ports: HashMap<String, Vec<Arc<EndpointSlice>>> = HashMap::new();
    for slice in existing {
        let key = ports_key(slice.ports.as_deref().unwrap_or_default());
        if desired.groups.contains_key(&key) {
            by_ports.entry(key).or_default().push(slice.clone());
        } else {
            out.remove([slice.clone()]);
        }
    }
    for (key, group) in std::mem::take(&mut desired.groups) {
        lay_out(template, group, by_ports.remove(&key).unwrap_or_default(), &mut out);
    }
    if out.create.is_empty() && out.delete.len() == existing.len() {
        placeholder(template, &mut out);
    }
    template.reuse(&mut out);
    for slice in out.create.iter_mut().chain(&mut out.update) {
        set_trigger(slice, trigger);
    }
    out
}

/// Without any endpoint one empty slice tells that this is known.
fn placeholder(template: &Template, out: &mut Plan) {
    let empty = template.slice(Vec::new(), Vec::new());
    let is_placeholder = |s: &EndpointSlice| s.endpoints.iter().flatten().next().is_none() && s.ports.iter().flatten().next().is_none();
    match out.delete.iter().position(|s| is_placeholder(s)) {
        Some(at) => {
            let kept = out.delete.remove(at);
            out.update.extend(template.refreshed(&kept));
        }
        None => out.create.push(empty),
    }
}

/// One group of ports.
fn lay_out(template: &Template, group: Group, slices: Vec<Arc<EndpointSlice>>, out: &mut Plan) {
    let mut wanted: BTreeMap<String, Endpoint> = group.endpoints.into_iter().map(|e| (endpoint_key(&e), e)).collect();
    out.desired += wanted.len();
    out.wanted_slices += wanted.len().div_ceil(template.endpoints_max.max(1));
    let (mut touched, mut untouched) = (Vec::new(), Vec::new());
    for slice in slices {
        let (mut kept, mut changed) = (Vec::new(), false);
        for old in slice.endpoints.iter().flatten() {
            match wanted.remove(&endpoint_key(old)) {
                Some(new) => {
                    changed |= new != *old;
                    kept.push(new);
                }
                None => {
                    changed = true;
                    out.removed += 1;
                }
            }
        }
        if changed && kept.is_empty() {
            // Filled again below if there is something for it, rather than deleted and created.
            touched.push((slice, kept));
        } else if changed || template.refreshed(&slice).is_some() {
            touched.push((slice, kept));
        } else {
            untouched.push(slice);
        }
    }
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    out.added += rest.len();
    // The fullest first, so that the others may become empty in time.
    touched.sort_by_key(|(_, kept)| std::cmp::Reverse(kept.len()));
    for (_, kept) in &mut touched {
        let room = template.endpoints_max.saturating_sub(kept.len()).min(rest.len());
        kept.extend(rest.drain(..room));
    }
    if !rest.is_empty() && rest.len() < template.endpoints_max {
        let room = |s: &EndpointSlice| template.endpoints_max.saturating_sub(s.endpoints.as_ref().map_or(0, Vec::len));
        let fitting = untouched.iter().enumerate().filter(|(_, s)| room(s) >= rest.len()).min_by_key(|(_, s)| room(s));
        if let Some(at) = fitting.map(|(at, _)| at) {
            let slice = untouched.swap_remove(at);
            let mut all = slice.endpoints.clone().unwrap_or_default();
            all.append(&mut rest);
            touched.push((slice, all));
        }
    }
    for (slice, endpoints) in touched {
        if endpoints.is_empty() {
            out.delete.push(slice);
            continue;
        }
        let mut next = template.refreshed(&slice).unwrap_or_else(|| (*slice).clone());
        next.endpoints = Some(endpoints);
        out.update.push(next);
    }
    let mut rest = rest.into_iter().peekable();
    while rest.peek().is_some() {
        out.create.push(template.slice(group.ports.clone(), rest.by_ref().take(template.endpoints_max).collect()));
    }
}

impl Template {
    fn slice(&self, ports: Vec<EndpointPort>, endpoints: Vec<Endpoint>) -> EndpointSlice {
        EndpointSlice {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", self.prefix)),
                namespace: Some(self.namespace.clone()),
                labels: Some(self.labels.clone()),
                annotations: self.annotations.clone().filter(|a| !a.is_empty()),
                owner_references: Some(vec![self.owner.clone()]),
                ..ObjectMeta::default()
            },
            address_type: self.family.to_owned(),
            endpoints: Some(endpoints),
            ports: Some(ports),
        }
    }

    /// What is to go is filled anew before another is made (upstream `finalize`): so the first endpoint comes into the empty slice that was
    /// there, and other ports into those of the former ones, and nobody sees one go and another come.
    fn reuse(&self, out: &mut Plan) {
        let mut gone = Vec::new();
        for old in std::mem::take(&mut out.delete) {
            if self.owns(&old)
                && let Some(new) = out.create.pop()
            {
                let mut next = (*old).clone();
                let meta = next.meta_mut();
                (meta.labels, meta.annotations) = (new.metadata.labels, new.metadata.annotations);
                (next.endpoints, next.ports) = (new.endpoints, new.ports);
                out.update.push(next);
            } else {
                gone.push(old);
            }
        }
        out.delete = gone;
    }

    fn owns(&self, slice: &EndpointSlice) -> bool {
        slice.metadata.owner_references.as_deref().is_some_and(|owners| owners.contains(&self.owner))
    }

    /// The slice with today's labels, annotations and owner; none if it has them. An owner of the same name that was made anew has
    /// another UID: what still names the one before would be collected with it.
    fn refreshed(&self, slice: &EndpointSlice) -> Option<EndpointSlice> {
        let noted = self.annotations.as_ref().map(|wanted| {
            let mut wanted = wanted.clone();
            wanted.extend(annotations(slice).get(TRIGGER_TIME).map(|t| (TRIGGER_TIME.to_owned(), t.clone())));
            wanted
        });
        let same_notes = noted.as_ref().is_none_or(|n| n == annotations(slice));
        let same_owner = self.owns(slice);
        if *labels(slice) == self.labels && same_notes && same_owner {
            return None;
        }
        let mut next = slice.clone();
        next.meta_mut().labels = Some(self.labels.clone());
        if !same_owner {
            next.meta_mut().owner_references = Some(vec![self.owner.clone()]);
        }
        if noted.is_some() {
            next.meta_mut().annotations = noted.filter(|a| !a.is_empty());
        }
        Some(next)
    }
}
