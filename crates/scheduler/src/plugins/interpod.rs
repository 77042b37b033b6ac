//! Pods that must, must not, or had better share a place with others. Anti-affinity binds both ways: a pod is also kept
//! away by the anti-affinity of those already there; and preferences of those already there count too.

use std::collections::HashMap;

use crate::config::raw::InterPodArgs;
use crate::framework::{Change, Cycle, Filter, Plugin, Prepared, Rejection, SCORE_MAX, Score, Verdict};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Term};
use crate::rules;
use crate::world::World;

pub struct InterPodAffinity {
    /// What a required affinity of a pod already there is worth to one that it is about.
    required_weight: i64,
    /// Whether what those already there prefer counts for pods with wishes of their own alone.
    ignore_preferred: bool,
}

impl InterPodAffinity {
    pub(super) fn new(args: &InterPodArgs) -> Self {
        Self { required_weight: i64::from(args.hard_pod_affinity_weight.unwrap_or(1)), ignore_preferred: args.ignore_preferred_terms_of_existing_pods }
    }
}

/// Numbers by node label and its value: a node is looked up by its own labels, however many places there are.
#[derive(Clone, Default)]
struct Places(HashMap<String, HashMap<String, i64>>);

impl Places {
    fn count(&mut self, node: &NodeInfo, key: &str, by: i64) {
        let Some(value) = node.label(key) else { return };
        if !self.0.contains_key(key) {
            self.0.insert(key.to_owned(), HashMap::new());
        }
        let Some(values) = self.0.get_mut(key) else { return };
        let number = match values.get_mut(value) {
            Some(number) => number,
            None => values.entry(value.to_owned()).or_default(),
        };
        *number += by;
        if *number == 0 {
            values.remove(value);
            if values.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of the place where a node is by this label; none if the node has no such label.
    fn at(&self, node: &NodeInfo, key: &str) -> Option<i64> {
        let value = node.label(key)?;
        Some(self.0.get(key).and_then(|values| values.get(value)).copied().unwrap_or_default())
    }

    /// The numbers of all places where a node is.
    fn around(&self, node: &NodeInfo) -> impl Iterator<Item = i64> {
        self.0.iter().filter_map(|(key, values)| values.get(node.label(key)?).copied())
    }
}

fn required(pod: &PodInfo) -> &[Term] {
    pod.wants.affinity.as_ref().map(|a| a.required.as_slice()).unwrap_or_default()
}

fn required_anti(pod: &PodInfo) -> &[Term] {
    pod.wants.affinity.as_ref().map(|a| a.required_anti.as_slice()).unwrap_or_default()
}

fn about(terms: &[Term], pod: &PodInfo, world: &World) -> bool {
    !terms.is_empty() && terms.iter().all(|t| t.matches(&pod.pod, world))
}

#[derive(Clone)]
struct Near<'a> {
    pod: &'a PodInfo,
    world: &'a World,
    /// Where there are pods that all of the pod's affinity terms are about.
    wanted: Places,
    /// Where there are pods that one of the pod's anti-affinity terms is about.
    avoided: Places,
    /// Where there are pods with an anti-affinity that is about the pod.
    avoiding: Places,
}

impl Near<'_> {
    fn change(&mut self, other: &PodInfo, node: &NodeInfo, by: i64) {
        for term in required_anti(other).iter().filter(|t| t.matches(&self.pod.pod, self.world)) {
            self.avoiding.count(node, &term.topology_key, by);
        }
        if about(required(self.pod), other, self.world) {
            for term in required(self.pod) {
                self.wanted.count(node, &term.topology_key, by);
            }
        }
        for term in required_anti(self.pod).iter().filter(|t| t.matches(&other.pod, self.world)) {
            self.avoided.count(node, &term.topology_key, by);
        }
    }

    fn wanted_here(&self, node: &NodeInfo) -> bool {
        let terms = required(self.pod);
        let mut all = true;
        for term in terms {
            let Some(number) = self.wanted.at(node, &term.topology_key) else {
                return false;
            };
            all &= number > 0;
        }
        // The first of a group that wants to be together may go anywhere, else it could never begin.
        all || (self.wanted.is_empty() && about(terms, self.pod, self.world))
    }

    fn avoided_here(&self, node: &NodeInfo) -> bool {
        required_anti(self.pod).iter().any(|t| self.avoided.at(node, &t.topology_key).is_some_and(|n| n > 0))
    }
}

impl<'a> Filter<'a> for Near<'a> {
    fn check(&self, node: &NodeInfo) -> Verdict {
        if !self.wanted_here(node) {
            return Err(Rejection::unresolvable("node(s) didn't match pod affinity rules"));
        }
        if self.avoided_here(node) {
            return Err(Rejection::resolvable("node(s) didn't match pod anti-affinity rules"));
        }
        if self.avoiding.around(node).any(|n| n > 0) {
            return Err(Rejection::resolvable("node(s) didn't satisfy existing pods anti-affinity rules"));
        }
        Ok(())
    }

    fn pod_added(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.change(pod, node, 1);
    }

    fn pod_removed(&mut self, pod: &PodInfo, node: &NodeInfo) {
        self.change(pod, node, -1);
    }
}

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn prepare<'a>(&self, cycle: &Cycle<'a>) -> Prepared<'a> {
        let (pod, snapshot) = (cycle.pod, &cycle.snapshot);
        let mut near = Near { pod, world: snapshot.world, wanted: Places::default(), avoided: Places::default(), avoiding: Places::default() };
        let concerned = !required(pod).is_empty() || !required_anti(pod).is_empty();
        for node in snapshot.nodes.iter().filter(|n| concerned || n.with_affinity > 0) {
            for other in node.pods.iter().filter(|p| concerned || p.wants.affinity.is_some()) {
                near.change(other, node, 1);
            }
        }
        if !concerned && near.avoiding.is_empty() {
            return Prepared::Skip;
        }
        Prepared::filter(near)
    }

    fn prepare_score<'a>(&self, cycle: &Cycle<'a>, _: &[&'a NodeInfo]) -> Option<Box<dyn Score + 'a>> {
        let (pod, world) = (cycle.pod, cycle.snapshot.world);
        let wishes = pod.wants.affinity.as_ref().filter(|a| !a.preferred.is_empty() || !a.preferred_anti.is_empty());
        if self.ignore_preferred && wishes.is_none() {
            return None;
        }
        let mut places = Places::default();
        for node in cycle.snapshot.nodes.iter().filter(|n| wishes.is_some() || n.with_affinity > 0) {
            for other in node.pods.iter().filter(|p| wishes.is_some() || p.wants.affinity.is_some()) {
                let mut weigh = |weight: i64, term: &Term, about: &PodInfo| {
                    if term.matches(&about.pod, world) {
                        places.count(node, &term.topology_key, weight);
                    }
                };
                for (weight, term) in wishes.into_iter().flat_map(|w| &w.preferred) {
                    weigh(*weight, term, other);
                }
                for (weight, term) in wishes.into_iter().flat_map(|w| &w.preferred_anti) {
                    weigh(-*weight, term, other);
                }
                let Some(theirs) = &other.wants.affinity else {
                    continue;
                };
                theirs.required.iter().filter(|_| self.required_weight > 0).for_each(|term| weigh(self.required_weight, term, pod));
                theirs.preferred.iter().for_each(|(weight, term)| weigh(*weight, term, pod));
                theirs.preferred_anti.iter().for_each(|(weight, term)| weigh(-*weight, term, pod));
            }
        }
        (!places.is_empty()).then(|| Box::new(Wishes(places)) as Box<dyn Score>)
    }

    fn wakes(&self, change: &Change<'_>, pod: &PodInfo) -> bool {
        let (near, far) = (required(pod), required_anti(pod));
        let wanted = |other: &PodInfo| !near.is_empty() && near.iter().all(|term| term.may_match(&other.pod));
        let avoided = |other: &PodInfo| far.iter().any(|term| term.may_match(&other.pod));
        // Who has no terms is kept away by those of others, which are not known here.
        let is_kept_away = near.is_empty() && far.is_empty();
        match change {
            Change::Namespace => true,
            Change::NodeAdded(node) => is_kept_away || !far.is_empty() || near.iter().any(|term| node.label(&term.topology_key).is_some()),
            Change::NodeUpdated { old, new } => {
                let of = |term: &Term| (rules::label(old, &term.topology_key), new.label(&term.topology_key));
                let came = |(before, now): (Option<&str>, Option<&str>)| now.is_some() && before != now;
                let left = |(before, now): (Option<&str>, Option<&str>)| before.is_some() && before != now;
                near.iter().any(|term| came(of(term)))
                    || far.iter().any(|term| left(of(term)))
                    || (is_kept_away && old.metadata.labels != new.node.metadata.labels)
            }
            Change::PodPlaced(other) => wanted(other),
            Change::PodUpdated { old, new } => old.labels() != new.labels() && ((!wanted(old) && wanted(new)) || (avoided(old) && !avoided(new))),
            Change::PodGone(other) => avoided(other) || required_anti(other).iter().any(|term| term.may_match(&pod.pod)),
            Change::Own { old } => old.labels() != pod.labels(),
            _ => false,
        }
    }
}

struct Wishes(Places);

impl Score for Wishes {
    fn score(&self, node: &NodeInfo) -> i64 {
        self.0.around(node).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (Some(min), Some(max)) = (scores.iter().copied().min(), scores.iter().copied().max()) else {
            return;
        };
        for score in scores {
            // As upstream reckons: in floats, of which the fraction is cut.
            let share = |part: i64| part as f64 / (max - min) as f64;
            *score = if max > min { (SCORE_MAX as f64 * share(*score - min)) as i64 } else { 0 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_scaled_as_upstream_scales_them() {
        let scaled = |mut scores: Vec<i64>| {
            Wishes(Places::default()).normalize(&mut scores);
            scores
        };
        assert_eq!(scaled(vec![-50, 0, 50]), [0, 50, 100]);
        assert_eq!(scaled(vec![0, 29, 57, 100]), [0, 28, 56, 100], "0.29 and 0.57 are a little less as floats");
        assert_eq!(scaled(vec![7, 7]), [0, 0]);
    }
}
