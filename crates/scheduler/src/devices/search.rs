//! The search for devices: one claim after the other, of it each request, of it each device; a device that does is taken as if it were
//! given, and is put back when nothing further on can be found with it. The first whole solution is the answer.
//!
//! Devices of one request are tried in one order only, so no set of them is tried twice. A request with alternatives takes the first that
//! leads to a solution. The depth of the recursion is bounded by [`LEVELS_MAX`], the work by [`STEPS_MAX`].

use std::collections::HashMap;
use std::sync::Arc;

use client::Meta;
use client::devices::{NO_EXECUTE, NO_SCHEDULE, tolerates};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::resource::v1::{CapacityRequirements, DeviceClass, DeviceRequest, DeviceSelector, DeviceToleration, ExactDeviceRequest, ResourceClaim};
use kubecel::Value;

use super::capacity::{consumed, fits};
use super::constraint::Constraint;
use super::pools::{Counters, Entry, Pool, consume};
use super::{Amounts, RESULTS_MAX, Supply, Taken, selector};

/// Devices that are tried on a node at most. The original ends by its `filterTimeout`.
pub(super) const STEPS_MAX: usize = if cfg!(test) { 2_000 } else { 200_000 };
/// The cost of a selector, in CEL's units, that counts as one of these.
const COST_OF_STEP: u64 = 100;
/// Requests and devices of all claims of a pod at most: each is a level of the recursion.
const LEVELS_MAX: usize = 2_000;

/// Why a search ends before its end.
#[derive(Debug, PartialEq)]
pub(super) enum Stop {
    /// A claim would have more devices than it may.
    TooMany,
    /// It takes too long.
    Late,
    /// Something cannot be read: for users.
    Wrong(String),
}

impl From<String> for Stop {
    fn from(why: String) -> Self {
        Self::Wrong(why)
    }
}

/// A device: its pool, and its place there.
pub(super) type At = (usize, usize);

/// A request, or one of its alternatives.
pub(super) struct Request<'a> {
    name: &'a str,
    /// The request of which it is an alternative.
    parent: Option<&'a str>,
    pub(super) class: Arc<DeviceClass>,
    selectors: &'a [DeviceSelector],
    pub(super) tolerations: &'a [DeviceToleration],
    capacity: Option<&'a CapacityRequirements>,
    admin: bool,
    /// All devices that do, where all are wanted.
    all: Option<Vec<At>>,
    count: usize,
}

impl Request<'_> {
    /// The name by which results refer to it.
    pub(super) fn whole_name(&self) -> String {
        self.parent.map_or_else(|| self.name.to_owned(), |parent| format!("{parent}/{}", self.name))
    }
}

/// A device that is given to a request.
pub(super) struct Given {
    pub at: At,
    pub request: (usize, usize),
    pub share: Option<Amounts>,
    pub admin: bool,
}

/// What taking a device has changed.
struct Undo {
    at: At,
    claim: usize,
    names: (String, String),
    constraints: usize,
    counted: bool,
    shared: bool,
    /// What of its capacity was in use before by this pod's claims, if it is shared.
    before: Option<Amounts>,
}

pub(super) struct Search<'a> {
    pub(super) claims: &'a [Arc<ResourceClaim>],
    pub(super) pools: &'a [Pool<'a>],
    pub(super) node: &'a Node,
    taken: &'a Taken,
    /// By claim, request and alternative.
    pub(super) requests: Vec<Vec<Vec<Request<'a>>>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// The alternative that was chosen, by claim and request.
    pub(super) chosen: Vec<Vec<usize>>,
    pub(super) given: Vec<Vec<Given>>,
    /// Which claims have a device now.
    users: HashMap<At, Vec<usize>>,
    shares: HashMap<At, Amounts>,
    left: HashMap<usize, Counters<'a>>,
    values: HashMap<At, Result<Value<'static>, String>>,
    matches: HashMap<(usize, usize, usize, At), bool>,
    steps: usize,
}

impl<'a> Search<'a> {
    /// Reads the claims.
    pub(super) fn new(supply: &'a Supply<'a>, node: &'a Node, claims: &'a [Arc<ResourceClaim>], pools: &'a [Pool<'a>]) -> Result<Self, Stop> {
        let mut search = Self {
            claims,
            pools,
            node,
            taken: &supply.taken,
            requests: Vec::new(),
            constraints: Vec::new(),
            chosen: Vec::new(),
            given: claims.iter().map(|_| Vec::new()).collect(),
            users: HashMap::new(),
            shares: HashMap::new(),
            left: HashMap::new(),
            values: HashMap::new(),
            matches: HashMap::new(),
            steps: 0,
        };
        let mut levels = 0;
        for (c, claim) in claims.iter().enumerate() {
            let named = claim.key();
            search.requests.push(Vec::new());
            let mut least = 0;
            for request in client::devices::requests(claim) {
                let r = search.requests[c].len();
                search.requests[c].push(Vec::new());
                for exact in alternatives(request) {
                    let read = search.read(supply, &named.to_string(), (c, r), &exact)?;
                    search.requests[c][r].push(read);
                }
                let fewest = search.requests[c][r].iter().map(|one| one.count).min();
                let fewest = fewest.ok_or_else(|| format!("claim {named}, request {}: unknown request type", request.name))?;
                if fewest > RESULTS_MAX - least {
                    return Err(format!(
                        "claim {named}, request {}: adding {fewest} devices exceeds the claim limit of {RESULTS_MAX}, with {least} already accounted for",
                        request.name
                    )
                    .into());
                }
                least += fewest;
            }
            let constraints = client::devices::asked(claim).into_iter().flat_map(|d| d.constraints.iter().flatten()).enumerate();
            let read = |(at, constraint)| Constraint::new(constraint).ok_or(at);
            let read: Result<Vec<_>, usize> = constraints.map(read).collect();
            let unknown = |at| format!("claim {named}, constraint #{at}: empty constraint (unsupported constraint type?)");
            search.constraints.push(read.map_err(unknown)?);
            search.chosen.push(vec![0; search.requests[c].len()]);
            levels += search.requests[c].len() + RESULTS_MAX;
        }
        if levels > LEVELS_MAX {
            return Err(format!("cannot allocate {} claims at once", claims.len()).into());
        }
        Ok(search)
    }

    fn read(&mut self, supply: &Supply<'_>, claim: &str, (c, r): (usize, usize), asked: &Asked<'a>) -> Result<Request<'a>, Stop> {
        let name = asked.name;
        if asked.derived {
            return Err(format!("claim {claim}, request {name}: cannot handle request with derived attributes, the feature is disabled").into());
        }
        if let Some(at) = asked.selectors.iter().position(|selector| selector.cel.is_none()) {
            return Err(format!("claim {claim}, request {name}, selector #{at}: CEL expression empty (unsupported selector type?)").into());
        }
        if asked.class.is_empty() {
            return Err(format!("claim {claim}, request {name}: missing device class name (unsupported request type?)").into());
        }
        let class = supply.class(asked.class).ok_or_else(|| {
            let class = asked.class;
            format!("claim {claim}, request {name}: could not retrieve device class {class}: deviceclass.resource.k8s.io {class:?} not found")
        })?;
        let mut request = Request {
            name,
            parent: asked.parent,
            class,
            selectors: asked.selectors,
            tolerations: asked.tolerations,
            capacity: asked.capacity,
            admin: asked.admin,
            all: None,
            count: 0,
        };
        match asked.mode {
            "ExactCount" => request.count = usize::try_from(asked.count).unwrap_or(usize::MAX),
            "All" => {
                let all = self.all(claim, &request, (c, r, self.requests[c][r].len()))?;
                request.count = all.len();
                request.all = Some(all);
            }
            mode => return Err(format!("claim {claim}, request {name}: unsupported count mode {mode}").into()),
        }
        Ok(request)
    }

    /// All devices that do for a request. Capacity that is in use now is no reason to leave one out.
    fn all(&mut self, claim: &str, request: &Request<'_>, key: (usize, usize, usize)) -> Result<Vec<At>, Stop> {
        let mut all = Vec::new();
        for (p, pool) in self.pools.iter().enumerate() {
            let state = if pool.is_incomplete { "being updated" } else { "invalid" };
            if pool.is_incomplete || pool.is_invalid {
                let name = request.name;
                return Err(format!(
                    "claim {claim}, request {name}: asks for all devices, but resource pool {}/{} is currently {state}",
                    pool.driver, pool.name
                )
                .into());
            }
            for (d, entry) in pool.devices.iter().enumerate() {
                self.step()?;
                if self.selectable(request, key, (p, d))? && self.has_room(key.0, request, entry, &[])? {
                    all.push((p, d));
                }
            }
        }
        Ok(all)
    }

    fn entry(&self, (p, d): At) -> &'a Entry<'a> {
        &self.pools[p].devices[d]
    }

    /// Whether class and request select a device, and the node may have it.
    fn selectable(&mut self, request: &Request<'_>, (c, r, a): (usize, usize, usize), at: At) -> Result<bool, Stop> {
        if let Some(known) = self.matches.get(&(c, r, a, at)) {
            return Ok(*known);
        }
        let entry = self.entry(at);
        let of_class = request.class.spec.iter().flat_map(|s| s.selectors.iter().flatten()).enumerate().map(|(i, selector)| (true, i, selector));
        let mut selected = true;
        for (class, i, selector) in of_class.chain(request.selectors.iter().enumerate().map(|(i, selector)| (false, i, selector))) {
            let text = selector.cel.as_ref().map(|cel| cel.expression.as_str()).unwrap_or_default();
            let device = self.values.entry(at).or_insert_with(|| selector::value(entry));
            let (hit, cost) = selector::selects(text, device, &entry.id).map_err(|why| {
                let whose = if class { format!("class {}", request.class.name()) } else { format!("claim {}", self.claims[c].key()) };
                format!("{whose}: selector #{i}{why}")
            })?;
            selected = hit;
            // Expressions are the claim's author's: what they cost counts as steps do.
            self.spend(usize::try_from(cost / COST_OF_STEP).unwrap_or(usize::MAX).saturating_add(1))?;
            if !selected {
                break;
            }
        }
        let selected = selected && entry.is_here;
        self.matches.insert((c, r, a, at), selected);
        Ok(selected)
    }

    fn has_room(&self, c: usize, request: &Request<'_>, entry: &Entry<'_>, used: &[Option<&Amounts>]) -> Result<bool, String> {
        let wrong = |why| format!("claim {}, request {}: checking capacity for device {}: {why}", self.claims[c].key(), request.name, entry.id);
        fits(entry.capacity(), request.capacity, used).map_err(wrong)
    }

    /// Looks for the first solution.
    pub(super) fn run(&mut self) -> Result<bool, Stop> {
        self.claim(0)
    }

    fn claim(&mut self, c: usize) -> Result<bool, Stop> {
        if c >= self.claims.len() { Ok(true) } else { self.request(c, 0) }
    }

    fn request(&mut self, c: usize, r: usize) -> Result<bool, Stop> {
        let Some(alternatives) = self.requests[c].get(r) else {
            // With other devices for this claim the next one may come out with fewer.
            return match self.claim(c + 1) {
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        };
        if alternatives[0].parent.is_none() {
            return self.device((c, r, 0), 0, (0, 0));
        }
        let mut too_many = true;
        for a in 0..self.requests[c][r].len() {
            match self.device((c, r, a), 0, (0, 0)) {
                Err(Stop::TooMany) => continue,
                Err(stop) => return Err(stop),
                Ok(true) => {
                    self.chosen[c][r] = a;
                    return Ok(true);
                }
                Ok(false) => too_many = false,
            }
        }
        if too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Finds the device of this number for a request, from a place on.
    fn device(&mut self, key: (usize, usize, usize), number: usize, from: At) -> Result<bool, Stop> {
        self.step()?;
        let (c, r, a) = key;
        let request = &self.requests[c][r][a];
        if request.all.as_ref().is_some_and(Vec::is_empty) {
            return Ok(false);
        }
        if number >= request.count {
            return self.request(c, r + 1);
        }
        if request.count - number > RESULTS_MAX - self.given[c].len() {
            return Err(Stop::TooMany);
        }
        if let Some(all) = &request.all {
            let at = all[number];
            return self.with(key, at, true, number, (0, 0));
        }
        let pools = self.pools;
        for (p, pool) in pools.iter().enumerate().skip(from.0) {
            if pool.is_incomplete || pool.is_invalid {
                continue;
            }
            for d in if p == from.0 { from.1 } else { 0 }..pool.devices.len() {
                self.step()?;
                if self.suits(key, (p, d))? && self.with(key, (p, d), false, number, (p, d + 1))? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// One step more; an error when there have been too many.
    fn step(&mut self) -> Result<(), Stop> {
        self.spend(1)
    }

    fn spend(&mut self, steps: usize) -> Result<(), Stop> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > STEPS_MAX { Err(Stop::Late) } else { Ok(()) }
    }

    /// Takes a device and goes on; puts it back if that leads nowhere.
    fn with(&mut self, key: (usize, usize, usize), at: At, must: bool, number: usize, next: At) -> Result<bool, Stop> {
        let Some(undo) = self.take(key, at, must)? else { return Ok(false) };
        match self.device(key, number + 1, next) {
            Ok(true) => Ok(true),
            other => {
                self.given[key.0].pop();
                self.put_back(undo);
                other
            }
        }
    }

    /// Whether a device may be tried for a request.
    fn suits(&mut self, (c, r, a): (usize, usize, usize), at: At) -> Result<bool, Stop> {
        if self.is_in_use(self.requests[c][r][a].admin, c, at) {
            return Ok(false);
        }
        // The request is lent out while the search notes what it has found.
        let requests = std::mem::take(&mut self.requests);
        let request = &requests[c][r][a];
        let selected = self.selectable(request, (c, r, a), at);
        let suits = selected.and_then(|selected| Ok(selected && self.has_room_now(c, request, at)?));
        self.requests = requests;
        suits
    }

    fn has_room_now(&self, c: usize, request: &Request<'_>, at: At) -> Result<bool, String> {
        let entry = self.entry(at);
        self.has_room(c, request, entry, &[self.taken.shared.get(&entry.id), self.shares.get(&at)])
    }

    fn is_in_use(&self, admin: bool, c: usize, at: At) -> bool {
        let users = self.users.get(&at).map(Vec::as_slice).unwrap_or_default();
        if admin { users.contains(&c) } else { !users.is_empty() || self.taken.alone.contains(&self.entry(at).id) }
    }

    /// Gives a device to a request as far as this search goes, if that can be.
    fn take(&mut self, (c, r, a): (usize, usize, usize), at: At, must: bool) -> Result<Option<Undo>, String> {
        let entry = self.entry(at);
        let request = &self.requests[c][r][a];
        let (admin, shared) = (request.admin, entry.is_shared());
        let skip_use = shared && admin;
        if !skip_use && self.is_in_use(admin, c, at) {
            return Ok(None);
        }
        let names = (request.parent.unwrap_or(request.name).to_owned(), request.whole_name());
        let mut undo = Undo { at, claim: c, names, constraints: 0, counted: false, shared, before: None };
        let in_shares = self.taken.shared.contains_key(&entry.id) || self.shares.contains_key(&at);
        if !(shared && in_shares) && entry.device.consumes_counters.as_ref().is_some_and(|all| !all.is_empty()) {
            let left = self.left.entry(at.0).or_insert_with(|| self.pools[at.0].counters.clone());
            consume(left, entry.device, true);
            undo.counted = true;
            if left.values().any(|left| *left < machinery::quantity::Quantity::ZERO) {
                self.put_back_counters(at);
                return Ok(None);
            }
        }
        let request = &self.requests[c][r][a];
        let borne = |taint| request.tolerations.iter().any(|toleration| tolerates(toleration, taint));
        if entry.taints.iter().any(|taint| (taint.effect == NO_EXECUTE || taint.effect == NO_SCHEDULE) && !borne(taint)) {
            self.undo_partly(&undo);
            return Ok(None);
        }
        let name = request.name;
        let broken = self.constraints[c].iter_mut().position(|constraint| !constraint.add(&undo.names.0, &undo.names.1, entry));
        undo.constraints = broken.unwrap_or(self.constraints[c].len());
        if broken.is_some() {
            self.undo_partly(&undo);
            let claim = self.claims[c].key();
            let why = format!("claim {claim}, request {name}: cannot add device {} because a claim constraint would not be satisfied", entry.id);
            return if must { Err(why) } else { Ok(None) };
        }
        // Of others `suits` has asked just now.
        if must && !self.has_room_now(c, &self.requests[c][r][a], at)? {
            self.undo_partly(&undo);
            return Ok(None);
        }
        let mut share = None;
        if shared {
            let taken = consumed(entry.capacity(), self.requests[c][r][a].capacity)?;
            undo.before = self.shares.get(&at).cloned();
            let used = self.shares.entry(at).or_default();
            taken.iter().for_each(|(name, amount)| *used.entry(name.clone()).or_default() += *amount);
            share = Some(taken);
        } else {
            self.users.entry(at).or_default().push(c);
        }
        self.given[c].push(Given { at, request: (r, a), share, admin });
        Ok(Some(undo))
    }

    fn put_back(&mut self, mut undo: Undo) {
        if undo.shared {
            match undo.before.take() {
                Some(before) => drop(self.shares.insert(undo.at, before)),
                None => drop(self.shares.remove(&undo.at)),
            }
        } else if let Some(users) = self.users.get_mut(&undo.at) {
            users.pop();
        }
        self.undo_partly(&undo);
    }

    /// Constraints and counters, as far as they were changed.
    fn undo_partly(&mut self, undo: &Undo) {
        for constraint in self.constraints[undo.claim][..undo.constraints].iter_mut().rev() {
            constraint.remove(&undo.names.0, &undo.names.1);
        }
        if undo.counted {
            self.put_back_counters(undo.at);
        }
    }

    fn put_back_counters(&mut self, at: At) {
        let entry = self.entry(at);
        if let Some(left) = self.left.get_mut(&at.0) {
            consume(left, entry.device, false);
        }
    }
}

/// What a request, or an alternative, says.
struct Asked<'a> {
    name: &'a str,
    parent: Option<&'a str>,
    class: &'a str,
    mode: &'a str,
    count: i64,
    selectors: &'a [DeviceSelector],
    tolerations: &'a [DeviceToleration],
    capacity: Option<&'a CapacityRequirements>,
    admin: bool,
    derived: bool,
}

/// A request's alternatives; of most it is itself.
fn alternatives(request: &DeviceRequest) -> Vec<Asked<'_>> {
    if let Some(exact) = &request.exactly {
        return vec![exactly(&request.name, exact)];
    }
    let all = request.first_available.iter().flatten();
    all.map(|sub| Asked {
        name: &sub.name,
        parent: Some(&request.name),
        class: &sub.device_class_name,
        mode: sub.allocation_mode.as_deref().unwrap_or("ExactCount"),
        count: sub.count.unwrap_or(1),
        selectors: sub.selectors.as_deref().unwrap_or_default(),
        tolerations: sub.tolerations.as_deref().unwrap_or_default(),
        capacity: sub.capacity.as_ref(),
        admin: false,
        derived: sub.derived_attributes.as_ref().is_some_and(|all| !all.is_empty()),
    })
    .collect()
}

fn exactly<'a>(name: &'a str, exact: &'a ExactDeviceRequest) -> Asked<'a> {
    Asked {
        name,
        parent: None,
        class: &exact.device_class_name,
        mode: exact.allocation_mode.as_deref().unwrap_or("ExactCount"),
        count: exact.count.unwrap_or(1),
        selectors: exact.selectors.as_deref().unwrap_or_default(),
        tolerations: exact.tolerations.as_deref().unwrap_or_default(),
        capacity: exact.capacity.as_ref(),
        admin: exact.admin_access == Some(true),
        derived: exact.derived_attributes.as_ref().is_some_and(|all| !all.is_empty()),
    }
}
