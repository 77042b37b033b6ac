//! Devices that claims bring to pods (KEP 4381; upstream `pkg/kubelet/cm/dra`): before a pod's sandbox is made the drivers of its claims
//! prepare them, its containers get what that names (`cdi`), and after its last container has ended they are taken back.
//!
//! What is prepared, and for which pods, is written to disk before a driver is asked and after it has answered (`state`), so a process that
//! dies in between asks again: drivers take a call that is repeated. A claim of several pods is prepared once, and taken back when the
//! last of them is gone. Pods that went while no kubelet ran are found by the kubelet's sweep. Until all is taken back a pod is not told to have
//! ended, and is not deleted: whoever hears that gives its devices to others. Drivers are known by their sockets (`plugins`), and may tell how
//! their devices are (`health`).

mod cdi;
#[cfg(test)]
pub(crate) mod driven;
mod health;
pub(crate) mod metrics;
mod plugins;
mod state;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use ::client::devices::{claim_of, is_reserved_for, made_for, pod_claims, results};
use ::volume::DeviceClaim;
use k8s_openapi::api::core::v1::{Container, Pod, PodStatus, ResourceStatus};
use k8s_openapi::api::resource::v1::ResourceClaim;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::SharedApi;
use crate::cri::PodUid;
use crate::util;
use health::Health;
use metrics::Counts;
use plugins::{Driver, News, Plugins};
use state::{Record, Stage, State};

pub use cdi::Edits;
pub use state::Given;

/// Where specifications of devices lie, in the order of their weight.
const CDI_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// What a container has of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// The claim's namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What each of its drivers has prepared.
    pub devices: Vec<(String, Given)>,
}

/// The devices of this node's pods. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Devices(Arc<Inner>);

struct Inner {
    api: SharedApi,
    plugins: Arc<Plugins>,
    state: State,
    health: Arc<Health>,
    counts: Arc<Counts>,
}

impl Devices {
    /// Those of a node, with what a former process has prepared. `wake` hears of pods of which something is to be told anew. Blocks on the disk.
    ///
    /// # Errors
    /// The disk does not give what a former process has noted.
    pub fn new(root: &Path, node: &str, api: SharedApi, wake: Arc<dyn Fn(&PodUid) + Send + Sync>, stop: CancellationToken) -> io::Result<Self> {
        let (state, health, counts) = (State::read(root)?, Arc::<Health>::default(), Arc::<Counts>::default());
        let known = state.clone();
        let news: News = Arc::new(move |driver: &str, devices: &[(String, String)]| users_of(&known, driver, devices).iter().for_each(|uid| wake(uid)));
        let plugins = Plugins::new(Arc::clone(&api), node, Arc::clone(&health), news, Arc::clone(&counts), stop);
        Ok(Self(Arc::new(Inner { api, plugins, state, health, counts })))
    }

    /// Who is told of drivers that come and go.
    #[must_use]
    pub fn plugins(&self) -> Arc<Plugins> {
        Arc::clone(&self.0.plugins)
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.0.counts
    }

    /// How many claims are prepared by each driver; in the end by any.
    #[must_use]
    pub fn in_use(&self) -> (BTreeMap<String, usize>, usize) {
        self.0.state.look(|all| {
            let prepared: Vec<&Record> = all.iter().filter(|record| record.stage == Stage::Prepared).collect();
            let mut drivers = BTreeMap::new();
            prepared.iter().flat_map(|record| record.drivers.keys()).for_each(|driver| *drivers.entry(driver.clone()).or_default() += 1);
            (drivers, prepared.len())
        })
    }

    /// Prepares what the claims of a pod have, until it is called off. (A caller who stops awaiting this one would not know what is noted.)
    ///
    /// # Errors
    /// A claim cannot be used, or a driver did not prepare it: why, for users.
    pub async fn prepare(&self, pod: &Pod, cancel: &CancellationToken) -> Result<(), String> {
        let begun = Instant::now();
        let done = self.prepare_all(pod, cancel).await;
        self.0.counts.operation("PrepareResources", done.is_err(), begun.elapsed());
        done.map_err(|error| format!("prepare dynamic resources: {error}"))
    }

    async fn prepare_all(&self, pod: &Pod, cancel: &CancellationToken) -> Result<(), String> {
        let ended = || "the pod is to stop".to_owned();
        // Nothing is noted before all is found fit: what is noted has to be taken back by its drivers.
        let (records, drivers) = cancel.run_until_cancelled(self.wanted(pod)).await.ok_or_else(ended)??;
        if records.is_empty() {
            return Ok(());
        }
        let uid = util::uid(pod).to_owned();
        let open = self.0.state.change(move |all| records.into_iter().filter_map(|record| join(all, record, &uid).transpose()).collect()).await?;
        let open: Vec<Record> = open;
        for (name, claims) in batches(&open) {
            let Some(driver) = drivers.get(&name) else { continue };
            let found = cancel.run_until_cancelled(driver.prepare(&claims)).await.ok_or_else(ended)??;
            self.0.state.change(move |all| found.into_iter().try_for_each(|(uid, devices)| record_given(all, &uid, &name, devices))).await?;
        }
        self.0
            .state
            .change(move |all| {
                for record in &open {
                    let known = all.iter_mut().find(|known| known.uid == record.uid).ok_or_else(|| unknown(&record.name, &record.namespace))?;
                    if known.stage == Stage::Known {
                        known.stage = Stage::Prepared;
                    }
                }
                Ok(())
            })
            .await
    }

    /// The claims of a pod, as the server has them now, and their drivers.
    async fn wanted(&self, pod: &Pod) -> Result<(Vec<Record>, HashMap<String, Driver>), String> {
        let (mut records, mut drivers) = (Vec::new(), HashMap::new());
        for (name, own) in claims(pod)? {
            let claim = self.0.api.get_resource_claim(util::namespace(pod), name).await.map_err(|error| format!("fetch ResourceClaim {name}: {error}"))?;
            if own {
                made_for(pod, &claim)?;
            }
            let uid = claim.metadata.uid.as_deref().unwrap_or_default();
            if !is_reserved_for(&claim, util::uid(pod)) {
                return Err(format!("pod {} ({}) is not allowed to use ResourceClaim {name} ({uid})", util::name(pod), util::uid(pod)));
            }
            if ::client::devices::allocation(&claim).is_none() {
                return Err(format!("ResourceClaim {name}: not allocated"));
            }
            let record = record(&claim);
            for driver in record.drivers.keys() {
                drivers.insert(driver.clone(), self.0.plugins.get(driver)?);
            }
            if !records.contains(&record) {
                records.push(record);
            }
        }
        Ok((records, drivers))
    }

    /// The names of what a container gets of the claims that it names, by which specifications describe it.
    ///
    /// # Errors
    /// A claim is not prepared: why, for users.
    pub fn names(&self, pod: &Pod, container: &Container) -> Result<Vec<String>, String> {
        let mut names: Vec<String> = Vec::new();
        for (claim, request) in asked(pod, container)? {
            // It may be another pod's claim of the name, where this one's record was lost.
            let record = self.record(util::namespace(pod), &claim).filter(|record| record.pods.contains(util::uid(pod)));
            let record = record.ok_or_else(|| unknown(&claim, util::namespace(pod)))?;
            let devices = record.drivers.into_values().flatten();
            let wanted = devices.filter(|one| request.is_empty() || one.requests.is_empty() || one.requests.contains(&request));
            names.extend(wanted.flat_map(|one| one.cdi));
        }
        let mut seen = BTreeSet::new();
        names.retain(|name| seen.insert(name.clone()));
        Ok(names)
    }

    /// The claims that a container names, whole, if all of them are prepared; each once. (What has no answer is nothing, as upstream.)
    #[must_use]
    pub fn held(&self, pod: &Pod, container: &Container) -> Vec<Held> {
        let mut named: Vec<String> = asked(pod, container).unwrap_or_default().into_iter().map(|(claim, _)| claim).collect();
        let mut seen = BTreeSet::new();
        named.retain(|claim| seen.insert(claim.clone()));
        let held = |name: String| {
            let record = self.record(util::namespace(pod), &name).filter(|record| record.pods.contains(util::uid(pod)))?;
            let devices = record.drivers.into_iter().flat_map(|(driver, all)| all.into_iter().map(move |given| (driver.clone(), given)));
            Some(Held { namespace: record.namespace, name, devices: devices.collect() })
        };
        named.into_iter().map(held).collect::<Option<_>>().unwrap_or_default()
    }

    /// What these names stand for.
    ///
    /// # Errors
    /// Nothing says what one is, or it cannot be given: why, for users.
    pub async fn edits(names: Vec<String>) -> Result<Edits, String> {
        if names.is_empty() {
            return Ok(Edits::default());
        }
        util::blocking(move || cdi::resolve(&CDI_DIRS.map(Path::new), &names)).await
    }

    fn record(&self, namespace: &str, name: &str) -> Option<Record> {
        self.0.state.look(|all| all.iter().find(|record| record.name == name && record.namespace == namespace).cloned())
    }

    /// Takes back what was prepared for a pod.
    ///
    /// # Errors
    /// A driver did not do so: why. It is tried again.
    pub async fn unprepare(&self, uid: &PodUid) -> Result<(), String> {
        let begun = Instant::now();
        let done = self.unprepare_all(uid).await;
        self.0.counts.operation("UnprepareResources", done.is_err(), begun.elapsed());
        done.map_err(|error| format!("unprepare dynamic resources: {error}"))
    }

    async fn unprepare_all(&self, uid: &PodUid) -> Result<(), String> {
        if !self.holds(uid) {
            return Ok(());
        }
        let pod = uid.0.clone();
        let going = self.0.state.change(move |all| Ok(leave(all, &pod))).await?;
        for (driver, claims) in batches(&going) {
            self.0.plugins.get(&driver)?.unprepare(&claims).await?;
        }
        let gone: HashSet<String> = going.into_iter().map(|record| record.uid).collect();
        let forget = move |all: &mut Vec<Record>| {
            all.retain(|record| !gone.contains(&record.uid));
            Ok(())
        };
        self.0.state.change(forget).await
    }

    /// Whether something is prepared for a pod.
    #[must_use]
    pub fn holds(&self, uid: &PodUid) -> bool {
        self.0.state.look(|all| all.iter().any(|record| record.pods.contains(&uid.0)))
    }

    /// The pods for which something is prepared.
    #[must_use]
    pub fn users(&self) -> BTreeSet<String> {
        self.0.state.look(|all| all.iter().flat_map(|record| record.pods.iter().cloned()).collect())
    }

    /// Tells in a pod's status how its devices are.
    pub fn tell(&self, pod: &Pod, status: &mut PodStatus) {
        if pod_claims(pod).next().is_none() {
            return;
        }
        for told in status.container_statuses.iter_mut().flatten() {
            let Some(spec) = pod.spec.iter().flat_map(|spec| &spec.containers).find(|c| c.name == told.name) else { continue };
            let named = spec.resources.iter().flat_map(|r| r.claims.iter().flatten());
            let told_of = |wanted: &k8s_openapi::api::core::v1::ResourceClaim| -> Option<ResourceStatus> {
                let claim = pod_claims(pod).find(|claim| claim.name == wanted.name)?;
                let record = self.record(util::namespace(pod), claim_of(pod, claim).ok()??.name)?;
                let request = wanted.request.as_deref().unwrap_or_default();
                let name = if request.is_empty() { format!("claim:{}", wanted.name) } else { format!("claim:{}/{request}", wanted.name) };
                self.0.health.status(name, &record, request)
            };
            let all: Vec<ResourceStatus> = named.filter_map(told_of).collect();
            told.allocated_resources_status = (!all.is_empty()).then_some(all);
        }
    }
}

/// The pods that have one of these devices.
fn users_of(state: &State, driver: &str, devices: &[(String, String)]) -> BTreeSet<PodUid> {
    let has = |given: &Given| devices.iter().any(|(pool, device)| *pool == given.pool && *device == given.device);
    state.look(|all| {
        let having = all.iter().filter(|record| record.drivers.get(driver).is_some_and(|all| all.iter().any(has)));
        having.flat_map(|record| record.pods.iter().cloned().map(PodUid)).collect()
    })
}

/// The names of a pod's claims, and whether each must have been made for it.
fn claims(pod: &Pod) -> Result<Vec<(&str, bool)>, String> {
    let mut named = Vec::new();
    for claim in pod_claims(pod) {
        named.extend(claim_of(pod, claim)?.map(|claim| (claim.name, claim.own)));
    }
    // The scheduler made it for the pod's extended resources (KEP 5004): it is the pod's own by its reservation.
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    named.extend(extended.map(|extended| (extended.resource_claim_name.as_str(), false)));
    Ok(named)
}

/// What each driver is asked about.
fn batches(records: &[Record]) -> BTreeMap<String, Vec<DeviceClaim>> {
    let mut batches: BTreeMap<String, Vec<DeviceClaim>> = BTreeMap::new();
    for record in records {
        record.drivers.keys().for_each(|driver| batches.entry(driver.clone()).or_default().push(told(record)));
    }
    batches
}

fn unknown(claim: &str, namespace: &str) -> String {
    format!("internal error: unable to get claim info for ResourceClaim {claim} in namespace {namespace}")
}

/// Notes what a driver has prepared for a claim. Its last word counts.
fn record_given(all: &mut [Record], uid: &str, driver: &str, devices: Vec<::volume::PreparedDevice>) -> Result<(), String> {
    let given = devices.into_iter().map(|one| Given { pool: one.pool, device: one.device, requests: one.requests, cdi: one.cdi, share: one.share }).collect();
    let record = all.iter_mut().find(|record| record.uid == uid).ok_or_else(|| unknown(uid, ""))?;
    record.drivers.insert(driver.to_owned(), given);
    Ok(())
}

/// What is to be known of a claim.
fn record(claim: &ResourceClaim) -> Record {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Record {
        namespace: text(&claim.metadata.namespace),
        name: text(&claim.metadata.name),
        uid: text(&claim.metadata.uid),
        pods: BTreeSet::new(),
        drivers: results(claim).map(|result| (result.driver.clone(), Vec::new())).collect(),
        stage: Stage::Known,
    }
}

/// A claim as drivers are told of it.
fn told(record: &Record) -> DeviceClaim {
    DeviceClaim { namespace: record.namespace.clone(), uid: record.uid.clone(), name: record.name.clone() }
}

/// A pod has a claim, too; it, unless it is prepared.
fn join(all: &mut Vec<Record>, record: Record, pod: &str) -> Result<Option<Record>, String> {
    let at = match all.iter().position(|known| known.name == record.name && known.namespace == record.namespace) {
        Some(at) => at,
        None => {
            all.push(record.clone());
            all.len() - 1
        }
    };
    let (known, name) = (&mut all[at], &record.name);
    if known.uid != record.uid {
        let uid = &known.uid;
        return Err(format!("old ResourceClaim with same name {name} and different UID {uid} still exists (previous pod force-deleted?!)"));
    }
    if known.stage == Stage::Unpreparing {
        return Err(format!("ResourceClaim {name} is being unprepared"));
    }
    if !known.drivers.keys().eq(record.drivers.keys()) {
        return Err(format!("ResourceClaim {name} is prepared for another allocation"));
    }
    known.pods.insert(pod.to_owned());
    Ok((known.stage != Stage::Prepared).then(|| known.clone()))
}

/// A pod has its claims no more; those that nobody else has.
fn leave(all: &mut [Record], pod: &str) -> Vec<Record> {
    let mut going = Vec::new();
    for record in all.iter_mut().filter(|record| record.pods.contains(pod)) {
        if record.pods.len() > 1 {
            record.pods.remove(pod);
        } else {
            record.stage = Stage::Unpreparing;
            going.push(record.clone());
        }
    }
    going
}

/// The claims that a container names, each with the request of it; an empty one for all.
fn asked(pod: &Pod, container: &Container) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    let named = container.resources.iter().flat_map(|r| r.claims.iter().flatten());
    for wanted in named {
        for claim in pod_claims(pod).filter(|claim| claim.name == wanted.name) {
            if let Some(claim) = claim_of(pod, claim)? {
                out.push((claim.name.to_owned(), wanted.request.clone().unwrap_or_default()));
            }
        }
    }
    if let Some(extended) = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref()) {
        let requests = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let mine = extended.request_mappings.iter().filter(|mapping| {
            mapping.container_name == container.name && requests.is_some_and(|requests| requests.get(&mapping.resource_name).is_some_and(|q| q.0 != "0"))
        });
        out.extend(mine.map(|mapping| (extended.resource_claim_name.clone(), mapping.request_name.clone())));
    }
    Ok(out)
}
