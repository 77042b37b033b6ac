//! Where a pod may be: node selectors, node affinity, taints and tolerations. The one rule for scheduler, controllers and
//! kubelet.
//!
//! Everything is compiled once for an object and then asked for each node: what is malformed is found out then and never
//! holds, as in upstream's `component-helpers/scheduling/corev1`. The forms that are compiled from are those of the API,
//! as any type that serialises to them: typed ones or trees. Who has no node object asks by name and labels.
//!
//! The operators `Lt` and `Gt` of tolerations are behind the gate `TaintTolerationComparisonOperators`, which is off by
//! default in v1.37 (alpha): a toleration with one of them bears nothing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::Value;
use crate::labels::{Operator, Requirement, Selector};

#[cfg(test)]
mod tests;

/// New pods are kept away.
pub const NO_SCHEDULE: &str = "NoSchedule";
/// New pods had better go elsewhere.
pub const PREFER_NO_SCHEDULE: &str = "PreferNoSchedule";
/// Pods are kept away, and those that are there go.
pub const NO_EXECUTE: &str = "NoExecute";

/// The only field of a node that terms may name.
const NAME: &str = "metadata.name";

/// Labels as the API has them.
pub type Labels = BTreeMap<String, String>;

/// A node, as far as terms ask of it.
#[derive(Debug, Clone, Copy)]
pub struct Place<'n> {
    name: &'n str,
    labels: Option<&'n Labels>,
}

impl<'n> Place<'n> {
    /// The node of this name with these labels.
    pub fn new(name: &'n str, labels: Option<&'n Labels>) -> Self {
        Self { name, labels }
    }

    fn label(&self, key: &str) -> Option<&'n str> {
        self.labels?.get(key).map(String::as_str)
    }
}

/// A `NodeSelector`: one of its terms must hold; without terms none does.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeSelector {
    terms: Vec<Term>,
}

/// All of a term must hold. One that asks nothing, or cannot be read, never holds.
#[derive(Debug, Clone, PartialEq)]
enum Term {
    Never,
    All { labels: Selector, fields: Vec<Field> },
}

/// What is asked of a field: to have, or not to have, the one value.
#[derive(Debug, Clone, PartialEq)]
struct Field {
    key: String,
    equal: bool,
    value: String,
}

impl NodeSelector {
    /// Compiles a `v1.NodeSelector`.
    pub fn new(selector: &impl Serialize) -> Self {
        let tree = serde_json::to_value(selector).unwrap_or_default();
        Self { terms: list(&tree["nodeSelectorTerms"]).iter().map(Term::new).collect() }
    }

    /// Whether one of the terms holds.
    pub fn matches(&self, place: Place<'_>) -> bool {
        self.terms.iter().any(|t| t.holds(place))
    }

    /// The nodes that the terms name, if every term names some: no other can match.
    pub fn names(&self) -> Option<BTreeSet<&str>> {
        let mut all = BTreeSet::new();
        for term in &self.terms {
            let Term::All { fields, .. } = term else { return None };
            let mut named = fields.iter().filter(|f| f.key == NAME && f.equal).map(|f| f.value.as_str());
            let first = named.next()?;
            // Two different names in one term are a contradiction.
            if named.all(|n| n == first) {
                all.insert(first);
            }
        }
        (!self.terms.is_empty()).then_some(all)
    }
}

impl Term {
    fn new(term: &Value) -> Self {
        let (expressions, fields) = (list(&term["matchExpressions"]), list(&term["matchFields"]));
        if expressions.is_empty() && fields.is_empty() {
            return Self::Never;
        }
        let labels: Option<Vec<Requirement>> = expressions.iter().map(requirement).collect();
        let fields: Option<Vec<Field>> = fields.iter().map(Field::new).collect();
        match (labels, fields) {
            (Some(labels), Some(fields)) => Self::All { labels: Selector::from_requirements(labels), fields },
            _ => Self::Never,
        }
    }

    fn holds(&self, place: Place<'_>) -> bool {
        match self {
            Self::Never => false,
            Self::All { labels, fields } => labels.matches(|key| place.label(key)) && fields.iter().all(|f| f.holds(place)),
        }
    }
}

impl Field {
    fn new(field: &Value) -> Option<Self> {
        let equal = match text(&field["operator"]) {
            "In" => true,
            "NotIn" => false,
            _ => return None,
        };
        // Upstream takes exactly one value.
        let [value] = list(&field["values"]) else { return None };
        Some(Self { key: text(&field["key"]).to_owned(), equal, value: text(value).to_owned() })
    }

    fn holds(&self, place: Place<'_>) -> bool {
        let has = if self.key == NAME { place.name } else { "" };
        (has == self.value) == self.equal
    }
}

fn requirement(expression: &Value) -> Option<Requirement> {
    let operator = Operator::of(text(&expression["operator"]))?;
    let values = list(&expression["values"]).iter().map(|v| text(v).to_owned()).collect();
    Requirement::new(text(&expression["key"]), operator, values).ok()
}

/// What a pod demands of its node: `nodeSelector` and the required node affinity. Nothing at all is the default.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Required {
    labels: Vec<(String, String)>,
    affinity: Option<NodeSelector>,
}

impl Required {
    /// Compiles a pod's `nodeSelector` and its `requiredDuringSchedulingIgnoredDuringExecution`.
    pub fn new(node_selector: Option<&Labels>, affinity: Option<&impl Serialize>) -> Self {
        Self { labels: node_selector.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect(), affinity: affinity.map(NodeSelector::new) }
    }

    /// Whether the pod may be there.
    pub fn allows(&self, place: Place<'_>) -> bool {
        self.labels.iter().all(|(k, v)| place.label(k) == Some(v)) && self.affinity.as_ref().is_none_or(|a| a.matches(place))
    }

    /// Whether nothing is demanded.
    pub fn is_nothing(&self) -> bool {
        self.labels.is_empty() && self.affinity.is_none()
    }

    /// The required node affinity, if there is one.
    pub fn affinity(&self) -> Option<&NodeSelector> {
        self.affinity.as_ref()
    }
}

/// The preferred node affinity: terms with weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Preferred {
    terms: Vec<(i64, Term)>,
}

impl Preferred {
    /// Compiles a list of `v1.PreferredSchedulingTerm`; those that weigh nothing are left out.
    pub fn new(terms: &impl Serialize) -> Self {
        let tree = serde_json::to_value(terms).unwrap_or_default();
        let terms = list(&tree).iter().map(|t| (t["weight"].as_i64().unwrap_or(0), Term::new(&t["preference"])));
        Self { terms: terms.filter(|(weight, _)| *weight != 0).collect() }
    }

    /// The sum of the weights of the terms that hold.
    pub fn score(&self, place: Place<'_>) -> i64 {
        self.terms.iter().filter(|(_, t)| t.holds(place)).map(|(weight, _)| weight).sum()
    }

    /// Whether nothing is preferred.
    pub fn is_nothing(&self) -> bool {
        self.terms.is_empty()
    }
}

/// A taint of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taint<'t> {
    /// Its name.
    pub key: &'t str,
    /// Its value; empty if it has none.
    pub value: &'t str,
    /// [`NO_SCHEDULE`], [`PREFER_NO_SCHEDULE`] or [`NO_EXECUTE`].
    pub effect: &'t str,
}

impl Taint<'_> {
    /// Whether it keeps pods away that do not bear it.
    pub fn keeps_away(&self) -> bool {
        self.effect == NO_SCHEDULE || self.effect == NO_EXECUTE
    }
}

/// What a pod bears, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toleration {
    /// Empty: every key.
    key: String,
    /// None: every value.
    value: Option<String>,
    /// Empty: every effect.
    effect: String,
    /// How long a [`NO_EXECUTE`] taint is borne; none: for ever.
    pub seconds: Option<i64>,
}

impl Toleration {
    /// None: it bears nothing, by its operator.
    fn new(tree: &Value) -> Option<Self> {
        let value = match text(&tree["operator"]) {
            "" | "Equal" => Some(text(&tree["value"]).to_owned()),
            "Exists" => None,
            _ => return None,
        };
        let owned = |key: &str| text(&tree[key]).to_owned();
        Some(Self { key: owned("key"), value, effect: owned("effect"), seconds: tree["tolerationSeconds"].as_i64() })
    }

    /// Whether it bears the taint.
    pub fn bears(&self, taint: Taint<'_>) -> bool {
        (self.effect.is_empty() || self.effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && self.value.as_ref().is_none_or(|v| v == taint.value)
    }
}

/// A pod's tolerations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tolerations(Vec<Toleration>);

impl Tolerations {
    /// Compiles a list of `v1.Toleration`.
    pub fn new(tolerations: &impl Serialize) -> Self {
        let tree = serde_json::to_value(tolerations).unwrap_or_default();
        Self(list(&tree).iter().filter_map(Toleration::new).collect())
    }

    /// Those that bear the taint.
    pub fn bearing<'s>(&'s self, taint: Taint<'s>) -> impl Iterator<Item = &'s Toleration> {
        self.0.iter().filter(move |t| t.bears(taint))
    }

    /// Whether one of them bears the taint.
    pub fn bear(&self, taint: Taint<'_>) -> bool {
        self.0.iter().any(|t| t.bears(taint))
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
