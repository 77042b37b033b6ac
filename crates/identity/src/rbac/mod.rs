//! RBAC: the roles and bindings in the store's memory, compiled into an index by subject.
//!
//! Invariants: a decision is made from one consistent compilation ([`Table`]); the table is compiled anew by the first
//! decision after one of the four kinds has changed, never in the background. The role of a binding is resolved while
//! compiling, so that a decision only walks the rules that its own user and groups have.

mod escalation;
mod rule;
#[cfg(test)]
mod tests;

pub use escalation::check as check_escalation;
pub use rule::{Rule, compact, uncovered};

use crate::{
    Attributes, Objects, User,
    objects::{items, text},
    user::SERVICE_ACCOUNT_PREFIX,
};
use machinery::{Value, labels::Selector};
use parking_lot::RwLock;
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

const CLUSTER_ROLES: &str = "/registry/clusterroles/";
const CLUSTER_BINDINGS: &str = "/registry/clusterrolebindings/";
const ROLES: &str = "/registry/roles/";
const BINDINGS: &str = "/registry/rolebindings/";
const KINDS: [&str; 4] = [CLUSTER_ROLES, CLUSTER_BINDINGS, ROLES, BINDINGS];

/// What one subject of one binding has.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    rules: Arc<[Rule]>,
    /// The sentence that a decision by this grant is explained with.
    reason: Arc<str>,
    /// The role that the binding names is not there.
    missing: Option<Arc<str>>,
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
}

/// All bindings, compiled.
#[derive(Debug, Default)]
pub(crate) struct Table {
    version: u64,
    cluster: Scope,
    namespaces: HashMap<String, Scope>,
}

impl Table {
    fn scopes(&self, namespace: &str) -> impl Iterator<Item = &Scope> {
        let own = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        std::iter::once(&self.cluster).chain(own)
    }

    fn grants<'a>(&'a self, user: &'a User, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        self.scopes(namespace).flat_map(move |scope| scope.of(user))
    }
}

/// The RBAC authoriser.
pub struct Rbac {
    objects: Arc<dyn Objects>,
    table: RwLock<Arc<Table>>,
}

impl Rbac {
    /// Over the objects of a store.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        let table = RwLock::new(Arc::new(compile(&*objects)));
        Rbac { objects, table }
    }

    fn table(&self) -> Arc<Table> {
        let version = self.objects.version(&KINDS);
        {
            let table = self.table.read();
            if table.version == version {
                return Arc::clone(&table);
            }
        }
        let mut slot = self.table.write();
        // Another decision may have compiled it meanwhile.
        if slot.version != version {
            *slot = Arc::new(compile(&*self.objects));
        }
        Arc::clone(&slot)
    }

    /// `Ok` with the reason if a binding allows it; otherwise what stood in the way, empty for nothing in particular.
    ///
    /// # Errors
    /// Nothing allows it.
    pub fn authorize(&self, asked: &Attributes<'_>) -> Result<String, String> {
        let table = self.table();
        let namespace = if asked.is_resource { asked.namespace } else { "" };
        let mut missing: Vec<&str> = Vec::new();
        for grant in table.grants(asked.user, namespace) {
            if grant.rules.iter().any(|rule| rule.allows(asked)) {
                return Ok(grant.reason.to_string());
            }
            if let Some(text) = grant.missing.as_deref().filter(|t| !missing.contains(t)) {
                missing.push(text);
            }
        }
        match missing.as_slice() {
            [] => Err(String::new()),
            [one] => Err(format!("RBAC: {one}")),
            more => Err(format!("RBAC: [{}]", more.join(", "))),
        }
    }

    /// All rules that a user has in a namespace (empty: in the cluster), and what could not be resolved.
    pub fn rules_of(&self, user: &User, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let table = self.table();
        let (mut rules, mut missing) = (Vec::new(), Vec::new());
        for grant in table.grants(user, namespace) {
            rules.extend(grant.rules.iter().cloned());
            missing.extend(grant.missing.as_deref().map(str::to_owned));
        }
        (rules, missing)
    }

    /// The rules of the role that a `roleRef` names; `None` if it is not there.
    pub fn role_rules(&self, role_ref: &Value, namespace: &str) -> Option<Vec<Rule>> {
        let name = text(role_ref, "name");
        let key = if text(role_ref, "kind") == "ClusterRole" { format!("{CLUSTER_ROLES}{name}") } else { format!("{ROLES}{namespace}/{name}") };
        self.objects.get(&key).map(|role| Rule::of_role(&role))
    }
}

/// The rules of an aggregated ClusterRole: the union of those that its selectors choose, each rule once, in the order
/// of the roles' names. What upstream's clusterrole-aggregation controller writes into `rules`.
pub fn aggregate<'a>(role: &Value, others: impl IntoIterator<Item = &'a Value>) -> Vec<Value> {
    let selectors: Vec<Selector> =
        items(&role["aggregationRule"]["clusterRoleSelectors"]).iter().filter_map(|s| Selector::from_label_selector(s).ok()).collect();
    let own = text(&role["metadata"], "name");
    let mut chosen: BTreeMap<&str, &Value> = BTreeMap::new();
    for other in others {
        let labels = &other["metadata"]["labels"];
        let name = text(&other["metadata"], "name");
        if name != own && selectors.iter().any(|s| s.matches(|key| labels[key].as_str())) {
            chosen.insert(name, other);
        }
    }
    let mut out: Vec<Value> = Vec::new();
    for rule in chosen.values().flat_map(|r| items(&r["rules"])) {
        if !out.contains(rule) {
            out.push(rule.clone());
        }
    }
    out
}

/// The rules that each role has. An aggregated role also has at once what its selectors choose, whether or not the
/// controller has written it down yet.
fn roles(objects: &dyn Objects) -> HashMap<String, Arc<[Rule]>> {
    let cluster = objects.list(CLUSTER_ROLES);
    let mut out = HashMap::new();
    for role in &cluster {
        let mut rules = Rule::of_role(role);
        if role["aggregationRule"].is_object() {
            for rule in aggregate(role, cluster.iter().map(|r| &**r)).iter().map(Rule::from_value) {
                if !rules.contains(&rule) {
                    rules.push(rule);
                }
            }
        }
        out.insert(format!("/{}", text(&role["metadata"], "name")), rules.into());
    }
    for role in objects.list(ROLES) {
        let meta = &role["metadata"];
        out.insert(format!("{}/{}", text(meta, "namespace"), text(meta, "name")), Rule::of_role(&role).into());
    }
    out
}

fn compile(objects: &dyn Objects) -> Table {
    // Taken before the objects are read: a change meanwhile is compiled again rather than missed.
    let version = objects.version(&KINDS);
    let roles = roles(objects);
    let mut table = Table { version, ..Table::default() };
    for binding in objects.list(CLUSTER_BINDINGS) {
        bind(&mut table.cluster, &roles, &binding, "");
    }
    for binding in objects.list(BINDINGS) {
        let namespace = text(&binding["metadata"], "namespace").to_owned();
        bind(table.namespaces.entry(namespace.clone()).or_default(), &roles, &binding, &namespace);
    }
    table
}

fn bind(scope: &mut Scope, roles: &HashMap<String, Arc<[Rule]>>, binding: &Value, namespace: &str) {
    let (kind, role) = (text(&binding["roleRef"], "kind"), text(&binding["roleRef"], "name"));
    let key = if kind == "ClusterRole" { format!("/{role}") } else { format!("{namespace}/{role}") };
    let rules = roles.get(&key);
    let missing = rules.is_none().then(|| format!("{}.rbac.authorization.k8s.io {role:?} not found", kind.to_lowercase()).into());
    let rules = rules.cloned().unwrap_or_else(|| Vec::new().into());
    let name = text(&binding["metadata"], "name");
    let binding_text = if namespace.is_empty() { format!("ClusterRoleBinding {name:?}") } else { format!("RoleBinding {:?}", format!("{name}/{namespace}")) };
    for subject in items(&binding["subjects"]) {
        let (subject_kind, subject_name) = (text(subject, "kind"), text(subject, "name"));
        let own_namespace = text(subject, "namespace");
        let (described, list) = match subject_kind {
            "User" => (format!("User {subject_name:?}"), scope.users.entry(subject_name.to_owned())),
            "Group" => (format!("Group {subject_name:?}"), scope.groups.entry(subject_name.to_owned())),
            "ServiceAccount" => {
                let account_namespace = if own_namespace.is_empty() { namespace } else { own_namespace };
                if account_namespace.is_empty() {
                    continue;
                }
                let described = format!("ServiceAccount {:?}", format!("{subject_name}/{account_namespace}"));
                (described, scope.users.entry(format!("{SERVICE_ACCOUNT_PREFIX}{account_namespace}:{subject_name}")))
            }
            _ => continue,
        };
        let reason = format!("RBAC: allowed by {binding_text} of {kind} {role:?} to {described}").into();
        list.or_default().push(Grant { rules: Arc::clone(&rules), reason, missing: Option::clone(&missing) });
    }
}
