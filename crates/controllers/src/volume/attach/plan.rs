//! What is to be done about one volume: no input, no output, no clock.
//!
//! For each node that wants the volume or may have it there is a [`Place`]; [`plan`] says the next step of each. What comes first:
//! a volume is taken from where nobody wants it before it is given anywhere, and one that serves a single node is given only when
//! no other node has it and no step of another node is under way. That another node has it is true as long as an attachment there
//! stands that was made, which is stricter than upstream: there a detachment that failed leaves the volume uncertain, and another
//! node gets it meanwhile.

use std::time::Duration;

use tokio::time::Instant;

/// How long the driver's attacher is waited for before that counts as a failure (upstream `csiTimeout`).
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(120);
/// How long a node that is not ready may keep a volume mounted that nobody wants there (upstream
/// `ReconcilerMaxWaitForUnmountDuration`).
pub(super) const UNMOUNT_MAX: Duration = Duration::from_secs(360);
/// After the first failure; each further one doubles it (upstream `exponentialbackoff`).
const RETRY_MIN: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(122);

/// What a volume's attachment to a node says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// There is none.
    Nothing,
    /// The driver has not attached it, and may have said why.
    Coming(Option<String>),
    /// It is attached.
    Attached,
    /// It is being detached, and the driver may have said why it is not yet.
    Leaving(Option<String>),
}

/// What is remembered of a volume on a node between steps. Nothing of it must survive the process: what is attached and reported
/// is read from the API, and times begin anew, as the original's do.
#[derive(Clone, Debug, Default)]
pub(super) struct Link {
    /// Since when nobody wants it there.
    pub(super) unwanted_since: Option<Instant>,
    /// Since when the driver is waited for to attach it.
    pub(super) attaching: Option<Instant>,
    /// Since when the driver is waited for to detach it.
    pub(super) detaching: Option<Instant>,
    pub(super) failures: u32,
    /// Nothing is tried before.
    pub(super) rests_until: Option<Instant>,
    /// That another node has it was told.
    pub(super) rival_told: bool,
    /// It was attached for those who want it, and they were told.
    pub(super) given: bool,
    /// The node is not to be told that it has it: it is being taken away.
    pub(super) hidden: bool,
}

impl Link {
    /// A step came to nothing: how long nothing is tried.
    pub(super) fn fail(&mut self, now: Instant) -> Duration {
        let rest = RETRY_MIN.saturating_mul(1 << self.failures.min(16)).min(RETRY_MAX);
        self.failures += 1;
        (self.attaching, self.detaching) = (None, None);
        self.rests_until = Some(now + rest);
        rest
    }

    fn rests(&self, now: Instant) -> Option<Duration> {
        self.rests_until.and_then(|until| until.checked_duration_since(now)).filter(|rest| !rest.is_zero())
    }

    /// Whether the driver is still waited for.
    fn is_awaited(&self, now: Instant) -> bool {
        patience(self.attaching, now).or(patience(self.detaching, now)).is_some()
    }
}

/// How much longer the driver is waited for; none if it is not.
fn patience(since: Option<Instant>, now: Instant) -> Option<Duration> {
    since.map(|since| (since + ANSWER_MAX).saturating_duration_since(now)).filter(|left| !left.is_zero())
}

/// A volume on one node.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) node: String,
    /// A pod there wants it.
    pub(super) wanted: bool,
    pub(super) found: Found,
    /// The node's status says that it is attached.
    pub(super) reported: bool,
    /// The node has it in use, or may have.
    pub(super) mounted: bool,
    /// The node is ready.
    pub(super) healthy: bool,
    /// Somebody vouches that nothing runs there any more (KEP-2268).
    pub(super) out_of_service: bool,
    pub(super) link: Link,
}

/// The next step for a volume on a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nobody wants it there: take it away. Whether the node must first agree that it is not in use, or why not.
    Detach { forced: Option<Forced> },
    /// Nobody wants it there, and it cannot be taken away yet.
    Unwanted,
    /// Ask the driver to attach it.
    Attach,
    /// The driver has begun by itself, or for a former process: it is waited for from now on.
    Await,
    /// It is attached: tell those who wait for it.
    Given,
    /// It could not be attached.
    Failed(Failure),
    /// It could not be detached: only this process need know.
    Stuck,
    /// Other nodes have it, which is told once.
    Rivals(Vec<String>),
}

/// Why a node is not asked whether it still has a volume in use that is taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Forced {
    /// It had its time.
    Timeout,
    OutOfService,
}

/// Why a volume is not attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// The driver's word.
    Refused(String),
    /// The former attachment is not gone yet.
    BeingDeleted,
    /// The driver says nothing.
    Silent,
}

/// Steps, and when to look again if nothing happens before.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) steps: Vec<(String, Step)>,
    pub(super) again: Option<Duration>,
}

impl Plan {
    fn step(&mut self, place: &Place, step: Step) {
        self.steps.push((place.node.clone(), step));
    }

    fn look_after(&mut self, wait: Duration) {
        self.again = Some(self.again.map_or(wait, |sooner| sooner.min(wait)));
    }
}

/// The next steps. `exclusive`: the volume serves one node at a time.
pub(super) fn plan(places: &[Place], exclusive: bool, now: Instant) -> Plan {
    let mut plan = Plan::default();
    for place in places.iter().filter(|p| !p.wanted) {
        take(place, now, &mut plan);
    }
    for place in places.iter().filter(|p| p.wanted) {
        give(place, places, exclusive, now, &mut plan);
    }
    plan
}

/// A volume that nobody wants on this node.
fn take(place: &Place, now: Instant, plan: &mut Plan) {
    if place.found == Found::Nothing && !place.reported {
        return;
    }
    if let Found::Leaving(error) = &place.found
        && place.link.detaching.is_some()
    {
        return match patience(place.link.detaching, now).filter(|_| error.is_none()) {
            Some(left) => plan.look_after(left),
            None => plan.step(place, Step::Stuck),
        };
    }
    if let Some(rest) = place.link.rests(now) {
        return plan.look_after(rest);
    }
    let waited = place.link.unwanted_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
    let expired = waited > UNMOUNT_MAX;
    let forced = place.out_of_service || (expired && !place.healthy);
    if place.mounted && !forced {
        if !expired {
            // Just after it: what is waited for is more than the time.
            plan.look_after(UNMOUNT_MAX - waited + Duration::from_millis(1));
        }
        return plan.step(place, Step::Unwanted);
    }
    let why = if expired { Some(Forced::Timeout) } else { place.out_of_service.then_some(Forced::OutOfService) };
    plan.step(place, Step::Detach { forced: why });
}

/// A volume that is wanted on this node.
fn give(place: &Place, places: &[Place], exclusive: bool, now: Instant, plan: &mut Plan) {
    if place.found == Found::Attached {
        return plan.step(place, Step::Given);
    }
    if let Some(rest) = place.link.rests(now) {
        return plan.look_after(rest);
    }
    if exclusive {
        let others = || places.iter().filter(|p| p.node != place.node);
        let leaves = |other: &&Place| plan.steps.iter().any(|(node, step)| *node == other.node && matches!(step, Step::Detach { .. } | Step::Attach));
        if others().any(|other| leaves(&other) || other.link.is_awaited(now)) {
            // Events tell when that is over, and for a driver that is silent there is a time.
            return;
        }
        let has = |other: &&Place| matches!(other.found, Found::Attached | Found::Leaving(_));
        let rivals: Vec<String> = others().filter(has).map(|p| p.node.clone()).collect();
        if !rivals.is_empty() {
            return plan.step(place, Step::Rivals(rivals));
        }
    }
    match &place.found {
        Found::Coming(Some(error)) => plan.step(place, Step::Failed(Failure::Refused(error.clone()))),
        Found::Leaving(error) => match patience(place.link.detaching, now).filter(|_| error.is_none()) {
            // It was asked for when nobody wanted it.
            Some(left) => plan.look_after(left),
            None => plan.step(place, Step::Failed(Failure::BeingDeleted)),
        },
        Found::Coming(None) | Found::Nothing => match (place.link.attaching, patience(place.link.attaching, now)) {
            (Some(_), Some(left)) => plan.look_after(left),
            (Some(_), None) => plan.step(place, Step::Failed(Failure::Silent)),
            (None, _) if place.found == Found::Nothing => plan.step(place, Step::Attach),
            (None, _) => plan.step(place, Step::Await),
        },
        Found::Attached => {}
    }
}
