//! Which pods the selectors of a namespace's objects (Services, budgets) select, kept as pods and selectors change: a pod's
//! change looks at the owners that ask for one of its labels and not at all of them, a step reads an owner's pods and not all
//! of the namespace.
//!
//! Fed by two listeners, in whatever order they run: each reads, under the lock, what the informers' memory holds now, which
//! is never older than what is heard. Whoever hears last has it right.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use client::{Informer, Meta, ObjectKey};
use k8s_openapi::api::core::v1::Pod;
use machinery::labels::{Operator, Selector};
use parking_lot::Mutex;

use crate::meta::{Map, labels};

/// By namespace.
pub(crate) struct Members {
    pods: Informer<Pod>,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

#[derive(Default)]
struct Namespace {
    owners: HashMap<String, Owner>,
    /// Owners by one label that they ask for: its key, its value.
    by_label: HashMap<String, HashMap<String, BTreeSet<String>>>,
    /// Owners that ask for no label with one value.
    others: BTreeSet<String>,
    /// Who has a pod.
    had: HashMap<String, BTreeSet<String>>,
}

struct Owner {
    selector: Selector,
    pods: BTreeSet<String>,
}

/// A label that whatever is selected has.
fn asked(selector: &Selector) -> Option<(&str, &str)> {
    let one = selector.requirements().iter().find(|r| r.operator == Operator::In && r.values.len() == 1)?;
    Some((&one.key, &one.values[0]))
}

impl Namespace {
    /// The owners that select such a pod.
    fn selecting(&self, labels: &Map) -> BTreeSet<String> {
        let asked = labels.iter().filter_map(|(key, value)| self.by_label.get(key)?.get(value)).flatten();
        let selects = |name: &&String| self.owners.get(*name).is_some_and(|o| o.selector.matches_map(labels));
        asked.chain(&self.others).filter(selects).cloned().collect()
    }

    fn forget(&mut self, name: &str) {
        let Some(owner) = self.owners.remove(name) else { return };
        self.others.remove(name);
        for pod in &owner.pods {
            if let Some(owners) = self.had.get_mut(pod) {
                owners.remove(name);
                if owners.is_empty() {
                    self.had.remove(pod);
                }
            }
        }
        if let Some((key, value)) = asked(&owner.selector)
            && let Some(values) = self.by_label.get_mut(key)
            && let Some(names) = values.get_mut(value)
        {
            names.remove(name);
            if names.is_empty() {
                values.remove(value);
            }
            if values.is_empty() {
                self.by_label.remove(key);
            }
        }
    }
}

impl Members {
    pub(crate) fn new(pods: &Informer<Pod>) -> Self {
        Self { pods: pods.clone(), namespaces: Mutex::default() }
    }

    /// An owner's selector as it is now; none: it is gone, or selects nothing.
    pub(crate) fn set(&self, key: &ObjectKey, selector: Option<Selector>) {
        let mut namespaces = self.namespaces.lock();
        let space = namespaces.entry(key.namespace.clone()).or_default();
        if selector.as_ref().is_some_and(|new| space.owners.get(&key.name).is_some_and(|o| o.selector == *new)) {
            return;
        }
        space.forget(&key.name);
        if let Some(selector) = selector {
            match asked(&selector) {
                Some((label, value)) => {
                    space.by_label.entry(label.to_owned()).or_default().entry(value.to_owned()).or_default().insert(key.name.clone());
                }
                None => drop(space.others.insert(key.name.clone())),
            }
            let selected = self.pods.list_namespace(&key.namespace).into_iter().filter(|p| selector.matches_map(labels(&**p)));
            let pods: BTreeSet<String> = selected.map(|p| p.name().to_owned()).collect();
            for pod in &pods {
                space.had.entry(pod.clone()).or_default().insert(key.name.clone());
            }
            space.owners.insert(key.name.clone(), Owner { selector, pods });
        }
        if space.owners.is_empty() {
            namespaces.remove(&key.namespace);
        }
    }

    /// A pod changed, came or went: the owners that select it, or did.
    pub(crate) fn heard(&self, pod: &ObjectKey) -> Vec<ObjectKey> {
        let mut namespaces = self.namespaces.lock();
        let Some(space) = namespaces.get_mut(&pod.namespace) else { return Vec::new() };
        let now = self.pods.get_key(pod).map(|p| space.selecting(labels(&*p))).unwrap_or_default();
        let before = space.had.remove(&pod.name).unwrap_or_default();
        for name in before.difference(&now) {
            if let Some(owner) = space.owners.get_mut(name) {
                owner.pods.remove(&pod.name);
            }
        }
        for name in now.difference(&before) {
            if let Some(owner) = space.owners.get_mut(name) {
                owner.pods.insert(pod.name.clone());
            }
        }
        let concerned: BTreeSet<String> = before.union(&now).cloned().collect();
        if !now.is_empty() {
            space.had.insert(pod.name.clone(), now);
        }
        concerned.into_iter().map(|name| ObjectKey::new(&pod.namespace, &name)).collect()
    }

    /// Another owner that selects one of an owner's pods.
    pub(crate) fn rival(&self, owner: &ObjectKey) -> Option<ObjectKey> {
        let namespaces = self.namespaces.lock();
        let space = namespaces.get(&owner.namespace)?;
        let pods = space.owners.get(&owner.name)?.pods.iter();
        let rival = pods.filter_map(|pod| space.had.get(pod)).flatten().find(|name| **name != owner.name)?;
        Some(ObjectKey::new(&owner.namespace, rival))
    }

    /// The pods that an owner selects.
    pub(crate) fn of(&self, owner: &ObjectKey) -> Vec<Arc<Pod>> {
        let names: Vec<String> = {
            let namespaces = self.namespaces.lock();
            let owner = namespaces.get(&owner.namespace).and_then(|s| s.owners.get(&owner.name));
            owner.map(|o| o.pods.iter().cloned().collect()).unwrap_or_default()
        };
        names.iter().filter_map(|name| self.pods.get(&owner.namespace, name)).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, app: &str) -> Pod {
        serde_json::from_value(json!({"metadata": {"namespace": "n", "name": name, "labels": {"app": app}}})).unwrap_or_default()
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::new("n", name)
    }

    fn told(keys: &[ObjectKey]) -> String {
        keys.iter().map(|k| k.name.as_str()).collect::<Vec<_>>().join(" ")
    }

    fn pods(members: &Members, owner: &str) -> String {
        members.of(&key(owner)).iter().map(|p| p.name()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn members_follow_pods_and_selectors_in_any_order() {
        let informer = Informer::fixed([pod("a", "web"), pod("b", "web"), pod("c", "db")]);
        let members = Members::new(&informer);
        assert_eq!(told(&members.heard(&key("a"))), "", "nobody asks");
        members.set(&key("web"), Selector::parse("app=web").ok());
        members.set(&key("all"), Selector::parse("app").ok());
        members.set(&key("db"), Selector::parse("app=db,tier!=x").ok());
        assert_eq!((pods(&members, "web").as_str(), pods(&members, "all").as_str(), pods(&members, "db").as_str()), ("a b", "a b c", "c"));
        assert_eq!(told(&members.heard(&key("a"))), "all web");
        assert_eq!((members.rival(&key("web")), members.rival(&key("nobody"))), (Some(key("all")), None));
        members.set(&key("web"), Selector::parse("app=db").ok());
        assert_eq!((pods(&members, "web").as_str(), told(&members.heard(&key("c"))).as_str()), ("c", "all db web"));
        members.set(&key("web"), None);
        assert_eq!((pods(&members, "web").as_str(), told(&members.heard(&key("c"))).as_str()), ("", "all db"));
    }

    #[test]
    fn a_pod_that_goes_or_turns_is_told_to_those_who_had_it() {
        let before = Members::new(&Informer::fixed([pod("a", "web")]));
        before.set(&key("web"), Selector::parse("app=web").ok());
        before.set(&key("db"), Selector::parse("app=db").ok());
        let turned = Members { pods: Informer::fixed([pod("a", "db")]), namespaces: before.namespaces };
        assert_eq!(told(&turned.heard(&key("a"))), "db web");
        assert_eq!(turned.rival(&key("db")), None);
        let gone = Members { pods: Informer::fixed([]), namespaces: turned.namespaces };
        assert_eq!(told(&gone.heard(&key("a"))), "db");
        assert_eq!(told(&gone.heard(&key("a"))), "", "once");
    }
}
