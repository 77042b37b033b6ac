//! A profile: the plugins of each extension point, for the pods that ask for it by name.
//!
//! What a plugin is at a point stands in the registry (`plugins`); which of them a profile has, at which point and in which order, is
//! worked out from its configuration as the original's framework does, with its errors. A point at which no plugin of this version
//! does anything (`permit`, `postBind`, the points of placements) is only checked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::config::raw::{Args, PluginSet, PreemptionArgs, RawPlugin, RawPlugins, RawProfile};
use crate::config::validate;
use crate::framework::Plugin;
use crate::metrics::{ProfileMetrics, Stage};
use crate::plugins::{self, Point, dynamic_resources};

/// The sum that weighed scores may have at most (upstream `MaxTotalScore`).
const TOTAL_MAX: i64 = i64::MAX;

/// Resources that an extender looks after and no plugin counts.
pub type Ignored = BTreeSet<String>;

/// The rules for the pods of one name.
#[derive(Clone)]
pub struct Profile {
    /// The `schedulerName` of its pods.
    pub name: String,
    /// Per cent of the nodes that are looked for; none or 0: by the size of the cluster.
    pub percentage_of_nodes: Option<i32>,
    /// Those who speak before nodes are looked at, and those who judge each node; in order.
    pub pre_filter: Vec<Arc<dyn Plugin>>,
    /// Those who judge each node, in order.
    pub filter: Vec<Arc<dyn Plugin>>,
    /// Those who score, with their weights.
    pub score: Vec<(Arc<dyn Plugin>, i64)>,
    /// Whether gates hold pods back.
    pub gates: bool,
    /// Whether others may have to go, and how many nodes are tried; none: nobody has to.
    pub preemption: Option<PreemptionArgs>,
    /// Whether claims get their volumes before the pod is bound, and how long that may take.
    pub volumes: Option<Duration>,
    /// Whether claims get their devices before the pod is bound, and how long drivers may take to bind them.
    pub devices: Option<Duration>,
    /// Whether pods whose claims of devices are not made yet are held back.
    pub waits_for_claims: bool,
    /// What is counted of it.
    pub metrics: Arc<ProfileMetrics>,
}

impl std::fmt::Debug for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Profile").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Profile {
    /// Makes a profile of its configuration, which has its defaults.
    ///
    /// # Errors
    /// It cannot be made, in the original's words.
    pub fn new(raw: &RawProfile, args: &Args, ignored: &Ignored) -> Result<Self, String> {
        let name = raw.scheduler_name.clone().unwrap_or_default();
        make(raw, args, ignored, &name).map_err(|why| format!("initializing profiles: creating profile for scheduler name {name}: {why}"))
    }

    /// The plugin of this name, if the profile has it anywhere.
    #[must_use]
    pub fn plugin(&self, name: &str) -> Option<&dyn Plugin> {
        let all = self.pre_filter.iter().chain(&self.filter).chain(self.score.iter().map(|(plugin, _)| plugin));
        { all }.map(AsRef::as_ref).find(|plugin| plugin.name() == name)
    }
}

/// The profiles, by name.
#[derive(Clone, Debug)]
pub struct Profiles(Vec<Arc<Profile>>);

impl Profiles {
    /// These; their names differ.
    #[must_use]
    pub fn new(profiles: Vec<Profile>) -> Self {
        Self(profiles.into_iter().map(Arc::new).collect())
    }

    /// The profile of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<Profile>> {
        self.0.iter().find(|profile| profile.name == name)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Profile>> {
        self.0.iter()
    }
}

fn make(raw: &RawProfile, args: &Args, ignored: &Ignored, name: &str) -> Result<Profile, String> {
    let sets = raw.plugins.clone().unwrap_or_default();
    let needed: BTreeSet<&str> = Point::ALL.iter().map(|p| p.of(&sets)).chain([&sets.multi_point]).flat_map(|s| &s.enabled).map(|p| p.name.as_str()).collect();
    if needed.contains("NodeResourcesFit") {
        validate::fit(args).map_err(|why| format!("initializing plugin \"NodeResourcesFit\": {why}"))?;
    }
    let made: BTreeMap<&str, Arc<dyn Plugin>> = needed.iter().filter_map(|name| Some((*name, plugins::make(name, args, ignored)?))).collect();
    // First what is named at each point must be right, then what is named for all.
    for point in Point::ALL {
        named(point, point.of(&sets))?;
    }
    let mut at: BTreeMap<Point, Vec<String>> = BTreeMap::new();
    for point in Point::ALL {
        at.insert(point, expanded(point, &sets)?);
    }
    if at[&Point::QueueSort].len() != 1 {
        return Err(format!("only one queue sort plugin required for profile with scheduler name {name:?}, but got {}", at[&Point::QueueSort].len()));
    }
    if at[&Point::Bind].is_empty() {
        return Err(format!("at least one bind plugin is needed for profile with scheduler name {name:?}"));
    }
    let weights = weights(&sets)?;
    let here = |point: Point| -> Vec<Arc<dyn Plugin>> { at[&point].iter().filter_map(|name| made.get(name.as_str()).cloned()).collect() };
    let has = |point: Point, name: &str| at[&point].iter().any(|n| n == name);
    for absent in needed.iter().filter(|name| plugins::absent(name).is_some()) {
        tracing::warn!(plugin = absent, profile = name, "this plugin is not here: it does nothing");
    }
    let (pre_filter, filter, score) = (here(Point::PreFilter), here(Point::Filter), here(Point::Score));
    let counted = [(Stage::PreFilter, &pre_filter), (Stage::Filter, &filter), (Stage::PreScore, &score), (Stage::Score, &score)];
    let counted = counted.into_iter().flat_map(|(stage, plugins)| plugins.iter().map(move |plugin| (stage, plugin.name())));
    let metrics = Arc::new(ProfileMetrics::new(name, counted));
    Ok(Profile {
        name: name.to_owned(),
        percentage_of_nodes: raw.percentage_of_nodes_to_score,
        pre_filter,
        filter,
        score: score.into_iter().map(|plugin| (weights.get(plugin.name()).copied().unwrap_or(1), plugin)).map(|(weight, p)| (p, weight)).collect(),
        gates: has(Point::PreEnqueue, "SchedulingGates"),
        preemption: has(Point::PostFilter, "DefaultPreemption").then(|| args.preemption.clone()),
        volumes: (has(Point::Reserve, "VolumeBinding") && has(Point::PreBind, "VolumeBinding"))
            .then(|| Duration::from_secs(args.volumes.bind_timeout_seconds.unwrap_or_default().unsigned_abs())),
        devices: (has(Point::Reserve, dynamic_resources::NAME) && has(Point::PreBind, dynamic_resources::NAME)).then(|| args.devices.patience()),
        waits_for_claims: has(Point::PreEnqueue, dynamic_resources::NAME),
        metrics,
    })
}

/// Whether what is named at a point may be there.
fn named(point: Point, set: &PluginSet) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for plugin in &set.enabled {
        let Some(points) = plugins::points(&plugin.name) else {
            return Err(format!("{} {:?} does not exist", point.interface(), plugin.name));
        };
        if !points.contains(&point) {
            return Err(format!("plugin {:?} does not extend {} plugin", plugin.name, point.interface()));
        }
        if !seen.insert(&plugin.name) {
            return Err(format!("plugin {:?} already registered as {:?}", plugin.name, point.interface()));
        }
    }
    Ok(())
}

/// The plugins of a point: those that are named there and for all points, as they are named there; then those that are named for all;
/// then the others.
fn expanded(point: Point, sets: &RawPlugins) -> Result<Vec<String>, String> {
    let own = point.of(sets);
    let listed: Vec<&String> = own.enabled.iter().map(|p| &p.name).collect();
    let off = |name: &str| own.disabled.iter().any(|p| p.name == name);
    if off("*") {
        return Ok(listed.into_iter().cloned().collect());
    }
    let (mut for_all, mut anew) = (Vec::new(), BTreeSet::new());
    for RawPlugin { name, .. } in &sets.multi_point.enabled {
        let Some(points) = plugins::points(name) else {
            return Err(format!("{} {name:?} does not exist", point.interface()));
        };
        if !points.contains(&point) || off(name) {
            continue;
        }
        if listed.contains(&name) {
            anew.insert(name);
        } else if for_all.contains(&name) {
            return Err(format!("plugin {name:?} already registered as {:?}", point.interface()));
        } else {
            for_all.push(name);
        }
    }
    let (first, last): (Vec<&String>, Vec<&String>) = listed.into_iter().partition(|name| anew.contains(name));
    Ok(first.into_iter().chain(for_all).chain(last).cloned().collect())
}

/// The weight of each plugin that scores; what is said at the point counts more than what is said for all.
fn weights(sets: &RawPlugins) -> Result<BTreeMap<String, i64>, String> {
    let mut weights: BTreeMap<String, i64> = BTreeMap::new();
    let mut total: i64 = 0;
    let all = sets.score.enabled.iter().chain(&sets.multi_point.enabled);
    for plugin in all.filter(|p| plugins::points(&p.name).is_some_and(|points| points.contains(&Point::Score))) {
        if weights.contains_key(&plugin.name) {
            continue;
        }
        let weight = i64::from(plugin.weight.filter(|w| *w != 0).unwrap_or(1));
        // 32 bits times a hundred cannot overflow; the sum of some could.
        let most = weight * crate::framework::SCORE_MAX;
        if most > TOTAL_MAX - total {
            return Err("score plugins: total score of Score plugins could overflow".to_owned());
        }
        total += most;
        weights.insert(plugin.name.clone(), weight);
    }
    Ok(weights)
}
