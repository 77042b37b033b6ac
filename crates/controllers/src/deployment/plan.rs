//! How many pods each ReplicaSet of a Deployment is to have (upstream `rolling.go`, and `sync.go` for scaling): no input,
//! no output.

use std::sync::Arc;

use client::Meta;
use k8s_openapi::api::apps::v1::Deployment;

use super::rollback;
use super::sets::{self, Set, active, available, max_surge, max_unavailable, size, sum, wished};
use crate::meta::{created, sort_by_creation};

/// A set and the size that it is to have.
pub(super) type Resize = (Set, i32);

/// The size of the new set, as far as the surge allows.
pub(super) fn new_size(d: &Deployment, all: &[Set], new_size: i32) -> i32 {
    if !sets::is_rolling(d) {
        return wished(d);
    }
    let room = wished(d) + max_surge(d) - sum(all, size);
    if room <= 0 { new_size } else { new_size + room.min(wished(d) - new_size) }
}

/// A step of a rolling update for the new set, if one is to be taken.
pub(super) fn roll_new(d: &Deployment, all: &[Set], new: &Set) -> Option<Resize> {
    let now = size(new);
    let next = match now.cmp(&wished(d)) {
        std::cmp::Ordering::Equal => return None,
        std::cmp::Ordering::Greater => wished(d),
        std::cmp::Ordering::Less => new_size(d, all, now),
    };
    (next != now).then(|| (new.clone(), next))
}

/// A step of a rolling update for the old sets: first pods that do not serve anyway, then as many as availability allows.
///
/// A set's status may be older than its size: it then still counts pods that it was told to give up. The sizes are known for
/// certain, so never more go than they allow; with a status that is as new as its set this bound is never the narrower one.
pub(super) fn roll_old(d: &Deployment, all: &[Set], new: &Set, old: &[Set]) -> Vec<Resize> {
    if sum(old, size) == 0 {
        return Vec::new();
    }
    let least = wished(d) - max_unavailable(d);
    let new_unavailable = size(new) - available(new);
    let unhealthy_max = sum(all, size) - least - new_unavailable;
    if unhealthy_max <= 0 {
        return Vec::new();
    }
    let mut sorted = active(old);
    sort_by_creation(&mut sorted);
    let mut sizes: Vec<i32> = sorted.iter().map(|s| size(s)).collect();
    let mut left = unhealthy_max;
    for (rs, to) in sorted.iter().zip(&mut sizes) {
        let take = (*to - available(rs)).clamp(0, left.max(0));
        *to -= take;
        left -= take;
    }
    // What was unhealthy is gone now; what is available decides about the rest.
    let mut left = (sum(all, available) - least).min(left);
    for to in &mut sizes {
        let take = (*to).clamp(0, left.max(0));
        *to -= take;
        left -= take;
    }
    sorted.into_iter().zip(sizes).filter(|(rs, to)| size(rs) != *to).collect()
}

/// The sizes after the Deployment's own size changed, also while it is paused or between two templates: in proportion.
pub(super) fn scale(d: &Deployment, new: Option<&Set>, old: &[Set]) -> Vec<Resize> {
    if let Some(rs) = sets::active_or_latest(new, old) {
        return if size(&rs) == wished(d) { Vec::new() } else { vec![(rs, wished(d))] };
    }
    if sets::is_saturated(d, new) {
        return active(old).into_iter().map(|rs| (rs, 0)).collect();
    }
    if !sets::is_rolling(d) {
        return Vec::new();
    }
    let mut all = active(old);
    all.extend(new.filter(|s| size(s) > 0).cloned());
    let allowed = if wished(d) > 0 { wished(d) + max_surge(d) } else { 0 };
    let to_add = allowed - sum(&all, size);
    // The largest first; of equal ones the newer grows and the older shrinks first.
    all.sort_by(|a, b| {
        let age = created(&**a).cmp(&created(&**b)).then_with(|| a.name().cmp(b.name()));
        size(b).cmp(&size(a)).then_with(|| if to_add > 0 { age.reverse() } else { age })
    });
    let mut added = 0;
    let mut out: Vec<Resize> = Vec::with_capacity(all.len());
    for rs in all {
        let part = proportion(d, &rs, to_add, added);
        added += part;
        let next = size(&rs) + part;
        out.push((rs, next));
    }
    if let Some((_, first)) = out.first_mut().filter(|_| to_add != 0) {
        *first = (*first + to_add - added).max(0);
    }
    out
}

/// A set's share of what is added to, or taken from, all.
fn proportion(d: &Deployment, rs: &Set, to_add: i32, added: i32) -> i32 {
    if size(rs) == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let (share, left) = (fraction(d, rs), to_add - added);
    if to_add > 0 { share.min(left) } else { share.max(left) }
}

fn fraction(d: &Deployment, rs: &Set) -> i32 {
    if wished(d) == 0 {
        return -size(rs);
    }
    let former = sets::max_size(rs).filter(|m| *m > 0).or_else(|| d.status.as_ref()?.replicas.filter(|r| *r > 0));
    let Some(former) = former else { return 0 };
    let now = f64::from(wished(d) + max_surge(d));
    // Sizes are small numbers; rounding is meant.
    #[allow(clippy::cast_possible_truncation)]
    let next = (f64::from(size(rs)) * now / f64::from(former)).round() as i32;
    next - size(rs)
}

/// Whether a paused Deployment's history is cut: not before it went back, which may be to what would be deleted.
pub(super) fn cleans_up_paused(d: &Deployment) -> bool {
    sets::is_paused(d) && rollback::wished(d).is_none()
}

/// The old sets beyond the history that is to be kept, the oldest revisions first.
pub(super) fn surplus(d: &Deployment, old: &[Set]) -> Vec<Set> {
    let limit = d.spec.revision_history_limit.unwrap_or(10);
    let mut alive: Vec<Set> = old.iter().filter(|rs| !rs.is_deleting()).cloned().collect();
    if limit == i32::MAX {
        return Vec::new();
    }
    let Some(count) = alive.len().checked_sub(usize::try_from(limit).unwrap_or(0)) else { return Vec::new() };
    alive.sort_by(|a, b| sets::revision(&**a).cmp(&sets::revision(&**b)).then_with(|| sets::older_first(a, b)));
    alive.truncate(count);
    let idle = |rs: &Arc<k8s_openapi::api::apps::v1::ReplicaSet>| {
        let observed = rs.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        size(rs) == 0 && sets::actual(rs) == 0 && crate::meta::generation(&**rs) <= observed
    };
    alive.retain(idle);
    alive
}
