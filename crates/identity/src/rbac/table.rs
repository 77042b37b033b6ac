//! The table that decisions are made from: grants by subject, rules by role.

use super::Rule;
use crate::{Objects, User, user::SERVICE_ACCOUNT_PREFIX};
use machinery::quote::Quoted;
use machinery::tree::{items, text};
use machinery::{Value, labels::Selector};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

pub(super) const CLUSTER_ROLES: &str = "/registry/clusterroles/";
pub(super) const CLUSTER_BINDINGS: &str = "/registry/clusterrolebindings/";
pub(super) const ROLES: &str = "/registry/roles/";
pub(super) const BINDINGS: &str = "/registry/rolebindings/";
pub(super) const KINDS: [&str; 4] = [CLUSTER_ROLES, ROLES, CLUSTER_BINDINGS, BINDINGS];

/// What one subject of one binding has.
#[derive(Debug)]
pub(super) struct Grant {
    /// The binding's key; grants stand in the order of these.
    binding: Arc<str>,
    /// The role's place in [`Table::roles`].
    role: Arc<str>,
    /// Which of the binding's subjects it is.
    subject: usize,
    /// The sentence that a decision by this grant is explained with.
    reason: Box<str>,
}

impl Grant {
    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Of the grants that somebody has by one binding the one that explains it: its first subject's.
    pub(super) fn first<'a>(&'a self, all: impl Iterator<Item = &'a Grant>) -> &'a Grant {
        if self.subject == 0 {
            return self;
        }
        all.filter(|other| Arc::ptr_eq(&other.binding, &self.binding)).min_by_key(|other| other.subject).unwrap_or(self)
    }

    /// What is told if the role is not there.
    pub(super) fn missing(&self) -> String {
        let (kind, name) = match self.role.strip_prefix('/') {
            Some(name) => ("clusterrole", name),
            None => ("role", self.role.split_once('/').map_or("", |(_, name)| name)),
        };
        format!("{kind}.rbac.authorization.k8s.io {} not found", Quoted(name))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
}

/// The grants of one scope.
#[derive(Debug, Default)]
struct Scope {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Scope {
    fn of<'a>(&'a self, user: &'a User) -> impl Iterator<Item = &'a Grant> {
        let groups = user.groups.iter().filter_map(|g| self.groups.get(g)).flatten();
        self.users.get(&user.name).into_iter().flatten().chain(groups)
    }

    fn add(&mut self, subject: &Subject, grant: Grant) {
        let list = match subject {
            Subject::User(name) => self.users.entry(name.clone()).or_default(),
            Subject::Group(name) => self.groups.entry(name.clone()).or_default(),
        };
        let at = list.partition_point(|other| other.binding <= grant.binding);
        list.insert(at, grant);
    }

    fn remove(&mut self, subject: &Subject, binding: &str) {
        let (map, name) = match subject {
            Subject::User(name) => (&mut self.users, name),
            Subject::Group(name) => (&mut self.groups, name),
        };
        if let Some(list) = map.get_mut(name) {
            list.retain(|grant| &*grant.binding != binding);
            if list.is_empty() {
                map.remove(name);
            }
        }
    }
}

#[derive(Debug)]
struct Role {
    own: Arc<[Rule]>,
    /// With those of the roles that its selectors choose.
    rules: Arc<[Rule]>,
    labels: BTreeMap<String, String>,
    /// `None` if it does not aggregate.
    selectors: Option<Vec<Selector>>,
}

/// All roles and bindings, compiled.
#[derive(Debug, Default)]
pub(super) struct Table {
    version: u64,
    /// How far each of [`KINDS`] has been read.
    marks: [Option<u64>; KINDS.len()],
    /// By `/NAME` in the cluster and `NAMESPACE/NAME` below it; in order, as aggregation wants it.
    roles: BTreeMap<Arc<str>, Role>,
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
    /// Where the grants of each binding are: its namespace (empty: the cluster) and subjects.
    placed: HashMap<Arc<str>, (String, Vec<Subject>)>,
}

impl Table {
    /// The version of the objects that the table stands for.
    pub(super) fn version(&self) -> u64 {
        self.version
    }

    /// The grants of a user in the cluster and in a namespace.
    pub(super) fn grants<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let own = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        std::iter::once(&self.cluster).chain(own).flat_map(move |scope| scope.of(user))
    }

    /// The rules of a grant; `None` if its role is not there.
    pub(super) fn rules(&self, grant: &Grant) -> Option<&[Rule]> {
        self.roles.get(&grant.role).map(|role| &*role.rules)
    }

    /// The rules of a role of the cluster (`/NAME`) or of a namespace (`NAMESPACE/NAME`); `None` if it is not there.
    pub(super) fn role_rules(&self, place: &str) -> Option<&[Rule]> {
        self.roles.get(place).map(|role| &*role.rules)
    }

    /// Brings the table up to date.
    pub(super) fn follow(&mut self, objects: &dyn Objects) {
        // Taken before the objects are read: a change meanwhile is read again rather than missed.
        self.version = objects.version(&KINDS);
        for (at, prefix) in KINDS.into_iter().enumerate() {
            let changes = objects.changes(prefix, self.marks[at]);
            self.marks[at] = Some(changes.mark);
            if changes.whole {
                self.forget(prefix);
            }
            let any = changes.whole || !changes.objects.is_empty();
            for (key, value) in changes.objects {
                match prefix {
                    CLUSTER_ROLES | ROLES => self.role(&key, value.as_deref()),
                    _ => self.bind(key, value.as_deref()),
                }
            }
            if prefix == CLUSTER_ROLES && any {
                self.aggregate();
            }
        }
    }

    /// Forgets everything of a kind.
    fn forget(&mut self, prefix: &str) {
        match prefix {
            CLUSTER_ROLES => self.roles.retain(|key, _| !key.starts_with('/')),
            ROLES => self.roles.retain(|key, _| key.starts_with('/')),
            CLUSTER_BINDINGS => self.cluster = Scope::default(),
            _ => self.namespaces.clear(),
        }
        self.placed.retain(|key, _| !key.starts_with(prefix));
    }

    fn role(&mut self, key: &str, role: Option<&Value>) {
        let place: Arc<str> = match key.strip_prefix(CLUSTER_ROLES) {
            Some(name) => format!("/{name}").into(),
            None => key.strip_prefix(ROLES).unwrap_or(key).into(),
        };
        let Some(role) = role else {
            self.roles.remove(&place);
            return;
        };
        let own: Arc<[Rule]> = Rule::of_role(role).into();
        let labels = role["metadata"]["labels"].as_object().into_iter().flatten();
        let labels = labels.map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned())).collect();
        let rule = &role["aggregationRule"];
        let selectors = rule.is_object().then(|| items(&rule["clusterRoleSelectors"]).iter().filter_map(|s| Selector::from_label_selector(s).ok()).collect());
        self.roles.insert(place, Role { rules: Arc::clone(&own), own, labels, selectors });
    }

    /// An aggregated role also has at once what its selectors choose, and what those roles choose that aggregate themselves, whether or
    /// not the controller has written it down yet: the rules of the others in the order of their names, each once.
    fn aggregate(&mut self) {
        let cluster: Vec<(&Arc<str>, &Role)> = self.roles.iter().filter(|(key, _)| key.starts_with('/')).collect();
        let mut found: Vec<(Arc<str>, Arc<[Rule]>)> = Vec::new();
        for (start, &(key, role)) in cluster.iter().enumerate() {
            if role.selectors.is_none() {
                continue;
            }
            let (mut chosen, mut left) = (vec![false; cluster.len()], vec![start]);
            chosen[start] = true;
            while let Some(at) = left.pop() {
                let Some(selectors) = &cluster[at].1.selectors else { continue };
                for (other, (_, candidate)) in cluster.iter().enumerate() {
                    if !chosen[other] && selectors.iter().any(|s| s.matches(|label| candidate.labels.get(label).map(String::as_str))) {
                        chosen[other] = true;
                        left.push(other);
                    }
                }
            }
            let mut rules = role.own.to_vec();
            let others = cluster.iter().enumerate().filter(|(other, _)| *other != start && chosen[*other]);
            for rule in others.flat_map(|(_, (_, other))| other.own.iter()) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
            found.push((Arc::clone(key), rules.into()));
        }
        for (key, rules) in found {
            if let Some(role) = self.roles.get_mut(&key) {
                role.rules = rules;
            }
        }
    }

    fn bind(&mut self, key: Arc<str>, binding: Option<&Value>) {
        if let Some((namespace, subjects)) = self.placed.remove(&key) {
            let scope = if namespace.is_empty() { Some(&mut self.cluster) } else { self.namespaces.get_mut(&namespace) };
            if let Some(scope) = scope {
                subjects.iter().for_each(|subject| scope.remove(subject, &key));
                if scope.users.is_empty() && scope.groups.is_empty() && !namespace.is_empty() {
                    self.namespaces.remove(&namespace);
                }
            }
        }
        let Some(binding) = binding else { return };
        let meta = &binding["metadata"];
        let (namespace, name) = (if key.starts_with(BINDINGS) { text(meta, "namespace") } else { "" }, text(meta, "name"));
        let (kind, role) = (text(&binding["roleRef"], "kind"), text(&binding["roleRef"], "name"));
        let place: Arc<str> = if kind == "ClusterRole" { format!("/{role}") } else { format!("{namespace}/{role}") }.into();
        let told = if namespace.is_empty() {
            format!("ClusterRoleBinding {}", Quoted(name))
        } else {
            format!("RoleBinding {}", Quoted(&format!("{name}/{namespace}")))
        };
        let subjects: Vec<(Subject, String)> = items(&binding["subjects"]).iter().filter_map(|s| subject(s, namespace)).collect();
        let scope = if namespace.is_empty() { &mut self.cluster } else { self.namespaces.entry(namespace.to_owned()).or_default() };
        for (at, (subject, described)) in subjects.iter().enumerate() {
            let reason = format!("RBAC: allowed by {told} of {kind} {} to {described}", Quoted(role)).into();
            scope.add(subject, Grant { binding: Arc::clone(&key), role: Arc::clone(&place), subject: at, reason });
        }
        self.placed.insert(key, (namespace.to_owned(), subjects.into_iter().map(|(subject, _)| subject).collect()));
    }
}

/// A subject and how upstream's reasons name it; `None` for what is nobody.
fn subject(subject: &Value, namespace: &str) -> Option<(Subject, String)> {
    let name = text(subject, "name");
    match text(subject, "kind") {
        "User" => Some((Subject::User(name.to_owned()), format!("User {}", Quoted(name)))),
        "Group" => Some((Subject::Group(name.to_owned()), format!("Group {}", Quoted(name)))),
        "ServiceAccount" => {
            let own = text(subject, "namespace");
            let account_namespace = if own.is_empty() { namespace } else { own };
            if account_namespace.is_empty() {
                return None;
            }
            let user = format!("{SERVICE_ACCOUNT_PREFIX}{account_namespace}:{name}");
            Some((Subject::User(user), format!("ServiceAccount {}", Quoted(&format!("{name}/{account_namespace}")))))
        }
        _ => None,
    }
}
