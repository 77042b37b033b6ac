//! RBAC: the roles and bindings in the store's memory, compiled into an index by subject.
//!
//! Invariants: a decision is made from one state of the [`Table`]; the first decision after one of the four kinds has
//! changed brings the table up to date, by what has changed alone, never in the background. A grant names its role, whose
//! rules stand once, so that a change of a role touches no binding; a decision only walks the rules that its own user and
//! groups have.

mod escalation;
mod rule;
mod table;
#[cfg(test)]
mod tests;

pub use escalation::{Grantor, check as check_escalation};
pub use rule::{Rule, compact, uncovered};

use crate::{Attributes, Objects, User};
use machinery::{Value, tree::text};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::sync::Arc;
use table::{KINDS, Table};

/// The RBAC authoriser.
pub struct Rbac {
    objects: Arc<dyn Objects>,
    table: RwLock<Table>,
}

impl Rbac {
    /// Over the objects of a store.
    pub fn new(objects: Arc<dyn Objects>) -> Self {
        let mut table = Table::default();
        table.follow(&*objects);
        Rbac { objects, table: RwLock::new(table) }
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        let version = self.objects.version(&KINDS);
        {
            let table = self.table.read();
            if table.version() == version {
                return table;
            }
        }
        let mut table = self.table.write();
        table.follow(&*self.objects);
        RwLockWriteGuard::downgrade(table)
    }

    /// `Ok` with the reason if a binding allows it; otherwise what stood in the way, empty for nothing in particular.
    ///
    /// # Errors
    /// Nothing allows it.
    pub fn authorize(&self, asked: &Attributes<'_>) -> Result<String, String> {
        let table = self.table();
        let namespace = if asked.is_resource { asked.namespace } else { "" };
        let mut missing: Vec<String> = Vec::new();
        for grant in table.grants(asked.user, namespace) {
            match table.rules(grant) {
                Some(rules) if rules.iter().any(|rule| rule.allows(asked)) => {
                    return Ok(grant.first(table.grants(asked.user, namespace)).reason().to_owned());
                }
                Some(_) => {}
                None => missing.extend(Some(grant.missing()).filter(|text| !missing.contains(text))),
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
            match table.rules(grant) {
                Some(own) => rules.extend(own.iter().cloned()),
                None => missing.push(grant.missing()),
            }
        }
        (rules, missing)
    }

    /// The rules of the role that a `roleRef` names; `None` if it is not there.
    pub fn role_rules(&self, role_ref: &Value, namespace: &str) -> Option<Vec<Rule>> {
        let name = text(role_ref, "name");
        let place = if text(role_ref, "kind") == "ClusterRole" { format!("/{name}") } else { format!("{namespace}/{name}") };
        self.table().role_rules(&place).map(<[Rule]>::to_vec)
    }
}
