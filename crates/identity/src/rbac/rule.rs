//! One policy rule: what it allows, and whether rules cover other rules (upstream's `pkg/apis/rbac/v1/evaluation_helpers.go`
//! and `component-helpers/auth/rbac/validation`).

use crate::Attributes;
use machinery::Value;
use machinery::quote::Quoted;
use machinery::tree::{items, texts};
use serde_json::json;
use std::collections::HashMap;

/// A `PolicyRule` of rbac.authorization.k8s.io/v1.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs, `*` for all.
    pub verbs: Vec<String>,
    /// API groups, `*` for all.
    pub groups: Vec<String>,
    /// `pods`, `pods/log`, `*/scale`, `*`.
    pub resources: Vec<String>,
    /// Names; all if empty.
    pub names: Vec<String>,
    /// Paths, with a trailing `*` at most.
    pub urls: Vec<String>,
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|l| l == "*" || l == wanted)
}

impl Rule {
    /// From its JSON.
    pub fn from_value(value: &Value) -> Rule {
        Rule {
            verbs: texts(&value["verbs"]),
            groups: texts(&value["apiGroups"]),
            resources: texts(&value["resources"]),
            names: texts(&value["resourceNames"]),
            urls: texts(&value["nonResourceURLs"]),
        }
    }

    /// The rules of a role.
    pub fn of_role(role: &Value) -> Vec<Rule> {
        items(&role["rules"]).iter().map(Rule::from_value).collect()
    }

    /// As JSON, without what is empty.
    pub fn to_value(&self) -> Value {
        let mut out = json!({ "verbs": self.verbs });
        for (key, list) in [("apiGroups", &self.groups), ("resources", &self.resources), ("resourceNames", &self.names), ("nonResourceURLs", &self.urls)] {
            if !list.is_empty() {
                out[key] = json!(list);
            }
        }
        out
    }

    /// Whether the rule allows what is asked.
    pub fn allows(&self, asked: &Attributes<'_>) -> bool {
        if !has(&self.verbs, asked.verb) {
            return false;
        }
        if !asked.is_resource {
            return self.urls.iter().any(|url| url_covers(url, asked.path));
        }
        has(&self.groups, asked.group)
            && self.resources.iter().any(|r| resource_matches(r, asked.resource, asked.subresource))
            && (self.names.is_empty() || self.names.iter().any(|n| n == asked.name))
    }

    /// In upstream's short form: `{APIGroups:[""], Resources:["pods"], Verbs:["get"]}`.
    pub fn compact(&self) -> String {
        let list = |name: &str, list: &[String]| {
            let quoted: Vec<String> = list.iter().map(|l| Quoted(l).to_string()).collect();
            (!list.is_empty()).then(|| format!("{name}:[{}]", quoted.join(" ")))
        };
        let parts = [
            list("APIGroups", &self.groups),
            list("Resources", &self.resources),
            list("NonResourceURLs", &self.urls),
            list("ResourceNames", &self.names),
            list("Verbs", &self.verbs),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        format!("{{{}}}", parts.join(", "))
    }

    /// The rule as many rules that each name one verb, group, resource and name: its lists multiplied, which nobody keeps.
    fn broken_down(&self) -> impl Iterator<Item = Rule> {
        let one = |text: &str| vec![text.to_owned()];
        self.verbs.iter().flat_map(move |verb| {
            let of_groups = self.groups.iter().flat_map(move |group| {
                self.resources.iter().flat_map(move |resource| {
                    let base = Rule { verbs: one(verb), groups: one(group), resources: one(resource), ..Rule::default() };
                    let bare = self.names.is_empty().then(|| base.clone());
                    bare.into_iter().chain(self.names.iter().map(move |name| Rule { names: one(name), ..base.clone() }))
                })
            });
            of_groups.chain(self.urls.iter().map(move |url| Rule { verbs: one(verb), urls: one(url), ..Rule::default() }))
        })
    }

    /// Whether this rule alone allows all of a broken-down one.
    fn covers_one(&self, one: &Rule) -> bool {
        let all = |own: &[String], wanted: &[String]| own.iter().any(|o| o == "*") || wanted.iter().all(|w| own.contains(w));
        let resources = || {
            one.resources.iter().all(|wanted| {
                let (resource, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
                self.resources.iter().any(|own| resource_matches(own, resource, sub))
            })
        };
        let names = || self.names.is_empty() || (!one.names.is_empty() && one.names.iter().all(|n| self.names.contains(n)));
        let urls = || one.urls.iter().all(|wanted| self.urls.iter().any(|own| url_covers(own, wanted)));
        all(&self.verbs, &one.verbs) && all(&self.groups, &one.groups) && resources() && names() && urls()
    }
}

/// `*`, the very resource, or `*/SUBRESOURCE`. Upstream knows no `pods/*`.
fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((owner, sub)) => sub == subresource && (owner == "*" || owner == resource),
        None => false,
    }
}

/// The very path, or one below a trailing `*`.
fn url_covers(rule: &str, path: &str) -> bool {
    rule == "*" || rule == path || rule.strip_suffix('*').is_some_and(|stem| path.starts_with(stem.trim_end_matches('*')))
}

/// What of `wanted` the `owned` rules do not allow, in single pieces; empty if they cover everything.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    open_pieces(owned, wanted).filter(|piece| !is_covered(owned, piece)).collect()
}

/// The pieces of those rules that no owned rule allows as a whole.
pub(super) fn open_pieces(owned: &[Rule], wanted: &[Rule]) -> impl Iterator<Item = Rule> {
    wanted.iter().filter(move |rule| !is_covered(owned, rule)).flat_map(Rule::broken_down)
}

/// Whether one of the owned rules allows all of it.
pub(super) fn is_covered(owned: &[Rule], wanted: &Rule) -> bool {
    owned.iter().any(|own| own.covers_one(wanted))
}

/// Joins pieces of one group and resource (and names) into rules that list their verbs, as upstream does before it
/// shows them to people.
pub fn compact(pieces: &[Rule]) -> Vec<Rule> {
    let mut out: Vec<Rule> = Vec::new();
    let mut places = HashMap::new();
    for piece in pieces {
        let (next, of) = (out.len(), (&piece.groups, &piece.resources, &piece.names));
        let at = if piece.urls.is_empty() && piece.names.len() <= 1 { *places.entry(of).or_insert(next) } else { next };
        match out.get_mut(at) {
            Some(rule) => rule.verbs.extend(piece.verbs.iter().cloned()),
            None => out.push(piece.clone()),
        }
    }
    out
}
