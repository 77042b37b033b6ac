//! Which flow a request is of (API priority and fairness): the first FlowSchema, by precedence and name, that fits it and whose level is
//! there. Nobody queues here for another's sake; the answer says by two headers what the request was taken for, as upstream's does
//! (`flowcontrol/rule.go`, `filters/priority-and-fairness.go`).

use super::{
    flow_counts::{Counts, Executing, Level as Told, Pair},
    source::Source,
};
use crate::{
    path::RequestInfo,
    read::{items, text, texts},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use identity::User;
use machinery::Value;
use std::sync::{Arc, OnceLock};
use store::Store;

const SCHEMA: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");
const ACCOUNT: &str = "system:serviceaccount:";
/// Requests that are answered at the same time, watches and streams not counted. Upstream's limits (400 reading, 200
/// writing) protect its memory; a request here needs a small part of it.
pub(crate) const IN_FLIGHT_MAX: i64 = 2000;
/// The shares of a level that names none (the original's default).
const SHARES: i64 = 30;

/// What flows there are.
#[derive(Debug)]
pub(crate) struct Flows {
    schemas: Source<Schema>,
    levels: Source<Level>,
    counts: Counts,
}

/// What a request was taken for; it counts as executing as long as this is there, unless it was refused.
#[derive(Debug)]
pub(crate) struct Flow {
    schema: HeaderValue,
    level: HeaderValue,
    _executing: Option<Executing>,
}

#[derive(Debug)]
struct Level {
    name: String,
    uid: HeaderValue,
    told: Told,
}

#[derive(Debug)]
struct Schema {
    name: String,
    uid: HeaderValue,
    level: String,
    precedence: i64,
    rules: Vec<Rule>,
    /// Its own counters, once something was counted.
    pair: OnceLock<Arc<Pair>>,
}

#[derive(Debug)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    paths: Vec<PathRule>,
}

/// Who asks; `*` is everybody.
#[derive(Debug)]
enum Subject {
    User(String),
    Group(String),
    Account { namespace: String, name: String },
}

#[derive(Debug)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster: bool,
}

#[derive(Debug)]
struct PathRule {
    verbs: Names,
    paths: Vec<String>,
}

/// Some names, or all there are.
#[derive(Debug)]
enum Names {
    All,
    Some(Vec<String>),
}

impl Flow {
    /// Tells it with an answer, unless whoever has answered for this server has told its own. What was executed is over then.
    pub(crate) fn tell(self, headers: &mut HeaderMap) {
        headers.entry(SCHEMA).or_insert(self.schema);
        headers.entry(LEVEL).or_insert(self.level);
    }
}

impl Flows {
    /// Over the objects of a store.
    pub(super) fn new(store: &Store) -> Flows {
        Flows {
            schemas: Source::arranged(store, "/registry/flowschemas/", |object| Schema::of(object).into_iter().collect(), by_precedence),
            levels: Source::new(store, "/registry/prioritylevelconfigurations/", |object| Level::of(object).into_iter().collect()),
            counts: Counts::default(),
        }
    }

    /// What is counted of all flows, as text.
    pub(crate) fn text(&self) -> String {
        let levels = self.levels.at_once();
        self.counts.text(levels.iter().map(|level| (level.name.as_str(), level.told)), IN_FLIGHT_MAX)
    }

    /// The flow of a request; none where nothing fits, which is before the cluster's own objects are there. `is_full`: it is refused, as
    /// there are too many.
    pub(crate) fn of(&self, user: &User, info: &RequestInfo, is_full: bool) -> Option<Flow> {
        let levels = self.levels.at_once();
        let flow = |schema: &Arc<Schema>| {
            if !schema.fits(user, info) {
                return None;
            }
            let level = levels.iter().find(|level| level.name == schema.level)?;
            let pair = schema.pair.get_or_init(|| self.counts.pair(&schema.level, &schema.name));
            if is_full {
                self.counts.refused(pair);
            }
            let executing = (!is_full).then(|| pair.executing(info.verb == "watch"));
            Some(Flow { schema: schema.uid.clone(), level: level.uid.clone(), _executing: executing })
        };
        self.schemas.at_once().iter().find_map(flow)
    }
}

fn by_precedence(schemas: &mut [Arc<Schema>]) {
    schemas.sort_by(|one, other| (one.precedence, &one.name).cmp(&(other.precedence, &other.name)));
}

fn uid(object: &Value) -> Option<HeaderValue> {
    HeaderValue::from_str(text(&object["metadata"], "uid")).ok()
}

impl Level {
    fn of(object: &Value) -> Option<Level> {
        let (spec, own) = (&object["spec"], &object["spec"]["limited"]);
        let told = match spec["type"] == "Exempt" {
            true => Told { shares: spec["exempt"]["nominalConcurrencyShares"].as_i64().unwrap_or_default(), queues: false },
            false => Told { shares: own["nominalConcurrencyShares"].as_i64().unwrap_or(SHARES), queues: own["limitResponse"]["type"] == "Queue" },
        };
        Some(Level { name: text(&object["metadata"], "name").to_owned(), uid: uid(object)?, told })
    }
}

impl Schema {
    fn of(object: &Value) -> Option<Schema> {
        let spec = &object["spec"];
        Some(Schema {
            name: text(&object["metadata"], "name").to_owned(),
            uid: uid(object)?,
            level: text(&spec["priorityLevelConfiguration"], "name").to_owned(),
            precedence: spec["matchingPrecedence"].as_i64().unwrap_or_default(),
            rules: items(&spec["rules"]).iter().map(Rule::of).collect(),
            pair: OnceLock::new(),
        })
    }

    fn fits(&self, user: &User, info: &RequestInfo) -> bool {
        self.rules.iter().any(|rule| {
            rule.subjects.iter().any(|subject| subject.is(user))
                && match info.is_resource {
                    true => rule.resources.iter().any(|rule| rule.fits(info)),
                    false => rule.paths.iter().any(|rule| rule.fits(info)),
                }
        })
    }
}

impl Rule {
    fn of(rule: &Value) -> Rule {
        Rule {
            subjects: items(&rule["subjects"]).iter().filter_map(Subject::of).collect(),
            resources: items(&rule["resourceRules"])
                .iter()
                .map(|own| ResourceRule {
                    verbs: Names::of(own, "verbs"),
                    groups: Names::of(own, "apiGroups"),
                    resources: Names::of(own, "resources"),
                    namespaces: Names::of(own, "namespaces"),
                    cluster: own["clusterScope"] == true,
                })
                .collect(),
            paths: items(&rule["nonResourceRules"])
                .iter()
                .map(|own| PathRule { verbs: Names::of(own, "verbs"), paths: texts(&own["nonResourceURLs"]) })
                .collect(),
        }
    }
}

impl Subject {
    fn of(subject: &Value) -> Option<Subject> {
        let named = |part: &str| subject[part].is_object().then(|| text(&subject[part], "name").to_owned());
        match subject["kind"].as_str()? {
            "User" => named("user").map(Subject::User),
            "Group" => named("group").map(Subject::Group),
            "ServiceAccount" => {
                named("serviceAccount").map(|name| Subject::Account { namespace: text(&subject["serviceAccount"], "namespace").to_owned(), name })
            }
            _ => None,
        }
    }

    fn is(&self, user: &User) -> bool {
        match self {
            Subject::User(name) | Subject::Group(name) if name == "*" => true,
            Subject::User(name) => user.name == *name,
            Subject::Group(name) => user.is_in(name),
            Subject::Account { namespace, name } => {
                let behind = user.name.strip_prefix(ACCOUNT).and_then(|rest| rest.strip_prefix(namespace.as_str())).and_then(|rest| rest.strip_prefix(':'));
                behind.is_some_and(|own| name == "*" || own == name)
            }
        }
    }
}

impl Names {
    fn of(owner: &Value, field: &str) -> Names {
        let names = texts(&owner[field]);
        if names == ["*"] { Names::All } else { Names::Some(names) }
    }

    fn hold(&self, name: &str) -> bool {
        self.hold_any(|own| own == name)
    }

    fn hold_any(&self, is: impl Fn(&str) -> bool) -> bool {
        match self {
            Names::All => true,
            Names::Some(names) => names.iter().any(|own| is(own)),
        }
    }
}

impl ResourceRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let (resource, part) = (info.resource.as_str(), info.subresource.as_str());
        let is_asked = |own: &str| match part {
            "" => own == resource,
            part => own.strip_prefix(resource).and_then(|rest| rest.strip_prefix('/')) == Some(part),
        };
        self.verbs.hold(info.verb)
            && self.resources.hold_any(is_asked)
            && self.groups.hold(&info.group)
            && if info.namespace.is_empty() { self.cluster } else { self.namespaces.hold(&info.namespace) }
    }
}

impl PathRule {
    fn fits(&self, info: &RequestInfo) -> bool {
        let is_below = |own: &str| {
            let own = own.strip_suffix('*').unwrap_or(own);
            info.path.strip_prefix(own.strip_suffix('/').unwrap_or(own)).is_some_and(|rest| rest.starts_with('/'))
        };
        self.verbs.hold(info.verb) && self.paths.iter().any(|own| own == "*" || *own == info.path || is_below(own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query::Query;
    use http::Method;
    use serde_json::json;

    fn fits(schema: &Value, (name, group): (&str, &str), path: &str) -> bool {
        let schema = Schema::of(&json!({"metadata": {"name": "s", "uid": "u"}, "spec": {"rules": [schema]}})).expect("a schema");
        let user = User { name: name.into(), groups: vec![group.into()], ..User::default() };
        schema.fits(&user, &RequestInfo::parse(&Method::GET, path, &Query::parse("")))
    }

    #[test]
    fn a_level_says_its_shares_and_whether_it_queues() {
        let told = |spec: Value| Level::of(&json!({"metadata": {"name": "l", "uid": "u"}, "spec": spec})).expect("a level").told;
        let limited = |response: &str| json!({"type": "Limited", "limited": {"nominalConcurrencyShares": 5, "limitResponse": {"type": response}}});
        assert_eq!(told(limited("Queue")), Told { shares: 5, queues: true });
        assert_eq!(told(limited("Reject")), Told { shares: 5, queues: false });
        assert_eq!(told(json!({"type": "Exempt", "exempt": {}})), Told { shares: 0, queues: false });
        assert_eq!(told(json!({"type": "Limited", "limited": {}})), Told { shares: 30, queues: false });
    }

    #[test]
    fn requests_are_taken_for_what_the_original_takes_them() {
        let pods = json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods", "pods/log"], "namespaces": ["a"]}]);
        let of = |subject: Value, rules: &Value| json!({"subjects": [subject], "resourceRules": rules});
        let user = json!({"kind": "User", "user": {"name": "u"}});
        let schema = of(user.clone(), &pods);
        for (asks, path, is) in [
            ("u", "/api/v1/namespaces/a/pods/x", true),
            ("u", "/api/v1/namespaces/a/pods/x/log", true),
            ("u", "/api/v1/namespaces/a/pods/x/status", false),
            ("u", "/api/v1/namespaces/a/pods", false),
            ("u", "/api/v1/namespaces/b/pods/x", false),
            ("u", "/api/v1/nodes/x", false),
            ("v", "/api/v1/namespaces/a/pods/x", false),
            ("u", "/version", false),
        ] {
            assert_eq!(fits(&schema, (asks, "g"), path), is, "{asks} {path}");
        }
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]);
        assert!(fits(&of(json!({"kind": "Group", "group": {"name": "g"}}), &all), ("v", "g"), "/api/v1/nodes"));
        assert!(!fits(&of(json!({"kind": "Group", "group": {"name": "*"}}), &all), ("v", "g"), "/api/v1/namespaces/a/pods"), "it is of the cluster alone");
        let account = |name: &str| of(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "a", "name": name}}), &all);
        for (name, is) in [("*", true), ("b", true), ("c", false)] {
            assert_eq!(fits(&account(name), ("system:serviceaccount:a:b", "g"), "/api/v1/nodes"), is, "{name}");
        }
        let paths = json!({"subjects": [user], "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/metrics/*"]}]});
        for (path, is) in [("/healthz", true), ("/healthz/etcd", true), ("/metrics/x", true), ("/metrics", false), ("/healthzz", false)] {
            assert_eq!(fits(&paths, ("u", "g"), path), is, "{path}");
        }
    }
}
