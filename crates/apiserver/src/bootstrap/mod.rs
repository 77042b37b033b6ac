//! The objects that the API server makes by itself, so that a new cluster is one: system namespaces, RBAC defaults,
//! priority classes, flow control, APIServices, the Service `kubernetes` with its endpoints, what extension servers read.
//!
//! Runs at every start and changes nothing that is as it should be; what exists is reconciled by upstream's rules for its
//! kind (`reconcile`). Of some of them upstream does not let go afterwards: its loops that make a deleted Service
//! `kubernetes`, a namespace or a flow schema again, and take back what others wrote into them, are [`keep`], at the same
//! periods. Roles, bindings and priority classes are made at starts alone, there as here. Objects are written concurrently, so that the store's group commit takes a first start's two
//! hundred writes in a few syncs: first what has no namespace, then what lies in one.

mod data;
mod kubernetes;
mod reconcile;
mod status;

use crate::{consumption, world::World, writer::Writer};
use futures_util::future::try_join_all;
use machinery::{Value, status::Status};
use serde_json::{Map, json};
use std::time::SystemTime;

/// How often an object is tried again that somebody else has changed meanwhile.
const ATTEMPTS_MAX: usize = 5;

/// Whom upstream has make the objects of flow control.
const FLOW_PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";

/// Group, version and plural name of a resource.
type Gvr = (&'static str, &'static str, &'static str);

/// What happens to an object that is there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Policy {
    /// It stays as it is.
    Keep,
    /// Rules and selectors that are missing are added (roles).
    Role,
    /// Subjects that are missing are added; a binding to another role is made anew (bindings).
    Binding,
    /// Its spec is set while an annotation says so (flow control).
    FlowControl,
    /// The ports of its spec are set (the Service).
    Ports,
    /// Its whole spec is set at starts, as long as its label says that it is ours (APIServices); between them a group that somebody
    /// has given to another server is that server's.
    Registration,
    /// Ranges that are missing at the end of its list are added (the ServiceCIDR).
    Longer,
    /// These parts of it are set.
    Set(&'static [&'static str]),
}

/// An object as it should be.
#[derive(Debug, Clone)]
struct Wanted {
    resource: Gvr,
    policy: Policy,
    value: Value,
}

impl Wanted {
    fn meta(&self, field: &str) -> &str {
        self.value["metadata"][field].as_str().unwrap_or_default()
    }
}

/// The priorities of a group and of its version in discovery; none for those that the original does not register.
pub(crate) fn priorities(group: &str, version: &str) -> Option<(i64, i64)> {
    data::priorities(group, version)
}

pub(crate) use status::follow;

/// Makes everything; called before the server says that it is ready.
///
/// # Errors
/// An object can neither be made nor be left as it is.
pub(crate) async fn run(world: &World) -> Result<(), Status> {
    let mut wanted = data::wanted(of_metrics(world));
    wanted.extend(kubernetes::wanted(world, SystemTime::now()));
    wanted.retain(|w| is_served(world, w));
    let (namespaced, cluster): (Vec<Wanted>, Vec<Wanted>) = wanted.into_iter().partition(|w| !w.meta("namespace").is_empty());
    for batch in [cluster, namespaced] {
        try_join_all(batch.iter().map(|w| ensure(world, w))).await?;
    }
    status::settle(world).await
}

/// Who may see projects may see what they use, if that is served here: the role that the add-on brings, by its name.
fn of_metrics(world: &World) -> Vec<Wanted> {
    let labels = ["view", "edit", "admin"].map(|role| (format!("rbac.authorization.k8s.io/aggregate-to-{role}"), json!("true")));
    let role = Wanted {
        resource: ("rbac.authorization.k8s.io", "v1", "clusterroles"),
        policy: Policy::Role,
        value: json!({
            "kind": "ClusterRole", "apiVersion": "rbac.authorization.k8s.io/v1",
            "metadata": {"name": "system:aggregated-metrics-reader", "labels": Map::from_iter(labels)},
            "rules": [{"apiGroups": [consumption::GROUP], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]}],
        }),
    };
    Some(role).filter(|_| world.config().resource_metrics).into_iter().collect()
}

/// Whose objects are looked at every minute, as upstream's loops of the system's namespaces, of flow control, of local
/// APIServices and of what extension servers read.
const EVERY_MINUTE: [&str; 5] = ["namespaces", "flowschemas", "prioritylevelconfigurations", "apiservices", "configmaps"];

/// What [`keep`] looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Round {
    /// By what clients inside the cluster find the server: every ten seconds.
    Short,
    /// All that is kept: every minute.
    Long,
}

/// Makes what somebody has deleted since, and takes back what nobody else may write. What cannot be made now is told, and tried
/// again at the next round.
pub(crate) async fn keep(world: &World, round: Round) {
    let mut wanted = kubernetes::wanted(world, SystemTime::now());
    // When tokens of the old kind began to be tracked is known at the first start only.
    wanted.retain(|w| w.resource.2 != "configmaps" || round == Round::Long && w.policy != Policy::Keep);
    if round == Round::Long {
        let kept = data::wanted(Vec::new()).into_iter().filter(|w| EVERY_MINUTE.contains(&w.resource.2));
        // What is there of these is set right at starts alone.
        wanted.extend(kept.map(|w| if w.policy == Policy::Registration { Wanted { policy: Policy::Keep, ..w } } else { w }));
    }
    wanted.retain(|w| is_served(world, w));
    // Namespaces stand before what lies in them.
    wanted.sort_by_key(|w| !w.meta("namespace").is_empty());
    for one in &wanted {
        if let Err(error) = ensure(world, one).await {
            tracing::warn!(resource = one.resource.2, name = one.meta("name"), %error, "an object of the cluster's own is not as it should be");
        }
    }
    if round == Round::Long
        && let Err(error) = status::settle(world).await
    {
        tracing::warn!(%error, "what is said of the cluster's own objects could not be written");
    }
}

/// What is not served cannot be made; an APIService stands for a version that must be served itself.
fn is_served(world: &World, wanted: &Wanted) -> bool {
    let (group, version, resource) = wanted.resource;
    let spec = &wanted.value["spec"];
    let stands_for = || world.rows().has_version(spec["group"].as_str().unwrap_or_default(), spec["version"].as_str().unwrap_or_default());
    world.row(group, version, resource).is_some() && (resource != "apiservices" || stands_for())
}

/// Makes an object or brings the present one to what it should be.
async fn ensure(world: &World, wanted: &Wanted) -> Result<(), Status> {
    let (namespace, name) = (wanted.meta("namespace"), wanted.meta("name"));
    let writer = match wanted.policy {
        Policy::FlowControl => Writer::known_as(world, FLOW_PRODUCER),
        _ => Writer::new(world),
    };
    let mut last = None;
    for _ in 0..ATTEMPTS_MAX {
        let outcome = match world.read(wanted.resource, namespace, name) {
            Err(_) => writer.create(wanted.resource, namespace, wanted.value.clone()).await.map(drop),
            Ok(present) => match reconcile::next(wanted, &present) {
                reconcile::Next::Nothing => return Ok(()),
                reconcile::Next::Update(value) => writer.update(wanted.resource, namespace, name, *value).await.map(drop),
                reconcile::Next::Replace => match writer.delete(wanted.resource, namespace, name).await {
                    Ok(()) => writer.create(wanted.resource, namespace, wanted.value.clone()).await.map(drop),
                    Err(error) => Err(error),
                },
            },
        };
        match outcome {
            Ok(()) => return Ok(()),
            Err(error) if matches!(error.code, 404 | 409) => last = Some(error),
            Err(error) if error.code == 422 => {
                // What is refused today is refused tomorrow; a cluster that lacks it is better than none.
                tracing::error!(resource = wanted.resource.2, name, %error, "an object of the cluster's own is refused");
                return Ok(());
            }
            Err(error) => {
                tracing::error!(resource = wanted.resource.2, name, %error, "an object of the cluster's own could not be made");
                return Err(error);
            }
        }
    }
    Err(last.unwrap_or_else(|| Status::internal("nothing was tried")))
}
