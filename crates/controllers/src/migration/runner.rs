//! Which migration of a resource runs, and what the resource's definition is told of it (upstream's `migrationrunner.go`).
//!
//! The migrations are listed by the server at each step: by a memory that is older than its own last write, two could run at once.
//!
//! The definition's `storedVersions` are reduced to the storage version if the definition is, at the end, the one that it was at the
//! beginning, and the migration succeeded. Two things are done otherwise than upstream. A failed migration never reduces them, as
//! objects still lie in the former versions. And a definition that says that no migration goes on was told of the end already (by a
//! step that broke off before the migration's own status was written) and is not told again: its versions may have changed since.

use client::{Client, ListParams, Meta, PartialObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::kind::{FAILED, Migration, RUNNING, SUCCEEDED, Target};
use super::migrator::REASON_RUNNING;
use crate::meta::{created, generation};
use crate::work::{Controller, Step};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// The owner of what definitions are told.
const MANAGER: &str = "migration-runner-controller";
/// The condition of a definition whose objects are being written anew.
const MIGRATING: &str = "StorageMigrating";

pub(super) struct Runner {
    pub(super) client: Client,
}

/// What is to happen to the migrations of a resource.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Over, and still said to run.
    pub(super) ended: Vec<Migration>,
    /// To run next.
    pub(super) next: Option<Migration>,
}

/// The oldest that waits is next, unless one runs.
pub(super) fn plan(migrations: Vec<Migration>) -> Plan {
    let (over, open): (Vec<_>, Vec<_>) = migrations.into_iter().partition(Migration::is_over);
    let next = match open.iter().any(|m| m.is(RUNNING)) {
        true => None,
        false => open.into_iter().min_by(|a, b| created(a).cmp(&created(b)).then_with(|| a.name().cmp(b.name()))),
    };
    Plan { ended: over.into_iter().filter(|m| m.is(RUNNING)).collect(), next }
}

impl Controller for Runner {
    const QUEUE: &'static str = "resource-version-controller";
    type Key = Target;

    async fn reconcile(&self, target: &Target) -> Step {
        let list = self.client.all::<Migration>().list(&ListParams::default()).await?;
        let plan = plan(list.into_items().into_iter().filter(|m| m.spec.resource == *target).collect());
        for migration in plan.ended {
            self.end(migration).await?;
        }
        if let Some(migration) = plan.next {
            self.begin(migration).await?;
        }
        Ok(None)
    }
}

impl Runner {
    async fn begin(&self, mut migration: Migration) -> client::Result<()> {
        if let Some(definition) = self.definition(&migration.spec.resource).await? {
            let message = format!("Migration {} is running", migration.name());
            let stored = definition["status"]["storedVersions"].clone();
            self.tell(&definition, "True", "MigrationRunning", &message, stored).await?;
        }
        migration.set(RUNNING, true, REASON_RUNNING, super::migrator::running(0, 0, None), None);
        self.client.all::<Migration>().replace_status(migration.name(), &migration).await.map(drop)
    }

    async fn end(&self, mut migration: Migration) -> client::Result<()> {
        if let Some(definition) = self.definition(&migration.spec.resource).await? {
            let told = condition(&definition);
            if told["status"] != "False" {
                let same = told["observedGeneration"].as_i64().is_some_and(|seen| definition["metadata"]["generation"] == seen);
                let (reason, message, stored) = outcome(&definition, migration.is(SUCCEEDED) && !migration.is(FAILED), same);
                self.tell(&definition, "False", reason, &message, stored).await?;
            }
        }
        let seen = generation(&migration);
        migration.set(RUNNING, false, "MigrationCompleted", "Migration completed".to_owned(), Some(seen));
        self.client.all::<Migration>().replace_status(migration.name(), &migration).await.map(drop)
    }

    /// The definition of a resource; none if it is the server's own.
    async fn definition(&self, target: &Target) -> client::Result<Option<Value>> {
        if target.group.is_empty() {
            return Ok(None);
        }
        match self.client.get_json(&format!("{DEFINITIONS}/{}.{}", target.resource, target.group)).await {
            Err(error) if error.is_not_found() => Ok(None),
            other => other.map(Some),
        }
    }

    /// Tells a definition, if it is still this one. With the versions that are stored, always: the owner of a field that does not
    /// tell it any more takes it away.
    async fn tell(&self, definition: &Value, status: &str, reason: &str, message: &str, stored: Value) -> client::Result<()> {
        let metadata = &definition["metadata"];
        let applied = json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": metadata["name"], "resourceVersion": metadata["resourceVersion"]},
            "status": {
                "conditions": [{
                    "type": MIGRATING, "status": status, "reason": reason, "message": message,
                    "lastTransitionTime": client::now(), "observedGeneration": metadata["generation"],
                }],
                "storedVersions": stored,
            },
        });
        let params = PatchParams { field_manager: MANAGER.to_owned(), force: true, ..PatchParams::default() };
        let name = metadata["name"].as_str().unwrap_or_default();
        self.client.at::<PartialObject>(DEFINITIONS.to_owned()).patch_status(name, &Patch::Apply(applied), &params).await.map(drop)
    }
}

/// What a definition says of its migration.
fn condition(definition: &Value) -> &Value {
    let all = definition["status"]["conditions"].as_array().map(Vec::as_slice).unwrap_or_default();
    all.iter().find(|c| c["type"] == MIGRATING).unwrap_or(&Value::Null)
}

/// What a definition is told at the end: reason, message, versions that are stored.
fn outcome(definition: &Value, succeeded: bool, same: bool) -> (&'static str, String, Value) {
    let stored = &definition["status"]["storedVersions"];
    if !succeeded {
        return ("MigrationFailed", "The migration has failed".to_owned(), stored.clone());
    }
    let told = match same {
        true => "and the stored versions have been updated",
        false => "but the stored versions have not been updated due to a generation mismatch",
    };
    let versions = definition["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let storage = versions.iter().find(|version| version["storage"] == true).filter(|_| same);
    let stored = storage.map_or_else(|| stored.clone(), |version| json!([version["name"]]));
    ("MigrationSucceeded", format!("The migration has succeeded {told}"), stored)
}
