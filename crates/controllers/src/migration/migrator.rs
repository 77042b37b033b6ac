//! What writes the objects of a resource anew (upstream's `resourceversion.go` and `storageversionmigrator.go`).
//!
//! A write is a patch that changes nothing, on the revision that was listed: the server stores it if the object lies in another
//! version than that of today. Who changed or removed the object meanwhile has done the work.

use std::cmp::Ordering;
use std::time::Duration;

use client::{Client, Error, Informer, ListParams, Meta, PartialObject, Patch, PatchParams};
use serde_json::json;

use super::kind::{FAILED, Migration, RUNNING, SUCCEEDED};
use crate::discovery::{self, Served};
use crate::meta::{between, created};
use crate::work::{Controller, Step};

/// The owner of what it writes.
const MANAGER: &str = "storage-version-migrator-controller";
pub(super) const REASON_RUNNING: &str = "MigrationRunning";
const REASON_SUCCEEDED: &str = "StorageVersionMigrationSucceeded";
const REASON_FAILED: &str = "StorageVersionMigrationFailed";
/// What must be possible with a resource.
const VERBS: [&str; 3] = ["update", "patch", "list"];
/// How long after a migration was made its resource may yet be found or listed.
const YOUNG: Duration = Duration::from_secs(60);
/// Between two looks for a resource that is not served.
const LOOK: Duration = Duration::from_secs(2);
/// Objects of a page.
const PAGE: u32 = 500;

pub(super) struct Migrator {
    pub(super) client: Client,
    pub(super) migrations: Informer<Migration>,
}

/// An object that may lie in a former version.
struct Candidate {
    namespace: String,
    name: String,
    revision: String,
}

impl Controller for Migrator {
    const QUEUE: &'static str = "storage-version-migrator-controller";
    type Key = String;

    async fn reconcile(&self, name: &String) -> Step {
        let Some(migration) = self.migrations.get("", name).filter(|m| !m.is_over()) else { return Ok(None) };
        let mut migration = (*migration).clone();
        match migration.status.resource_version.is_empty() {
            true if migration.is(RUNNING) => self.note(&mut migration).await,
            true => Ok(None),
            false => self.migrate(&mut migration).await,
        }
    }
}

impl Migrator {
    /// Notes the revision of today.
    async fn note(&self, migration: &mut Migration) -> Step {
        let Some(served) = self.served(migration).await? else {
            return self.not_served(migration, "resource does not exist in discovery".to_owned()).await;
        };
        if !VERBS.iter().all(|verb| served.can(verb)) {
            let message = format!("resource {:?} does not support discovery operations: [{}]", shown(&served), VERBS.join(" "));
            return self.fail(migration, message).await;
        }
        let first = ListParams { limit: 1, ..ListParams::default() };
        let list = self.client.at::<PartialObject>(served.path()).list(&first).await?;
        if let Err(malformed) = compare(list.resource_version(), list.resource_version()) {
            return self.fail(migration, format!("latest resourceVersion for {} is not valid: {malformed}", shown(&served))).await;
        }
        migration.status.resource_version = list.resource_version().to_owned();
        self.write(migration).await
    }

    /// Writes what is not younger than the noted revision.
    async fn migrate(&self, migration: &mut Migration) -> Step {
        let Some(served) = self.served(migration).await? else {
            return self.not_served(migration, unhandled("unable to obtain GVR from discovery")).await;
        };
        let (candidates, all) = match self.candidates(&served, &migration.status.resource_version).await {
            Ok(Ok(found)) => found,
            Ok(Err(malformed)) => return self.fail(migration, unhandled(&malformed)).await,
            // Upstream's words for a resource whose objects could not be listed.
            Err(error) if !is_passing(&error) && !error.is_expired() && !is_young(migration) => {
                return self.fail(migration, unhandled("resource does not exist in GC: %!w(<nil>)")).await;
            }
            Err(error) => return Err(error),
        };
        let mut left = candidates.len();
        for candidate in &candidates {
            match self.rewrite(&served, candidate).await {
                Ok(()) => {}
                // Written, removed, or removed and made again.
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                Err(error) if is_passing(&error) => return self.again(migration, left, all, error).await,
                Err(error) => {
                    migration.set(RUNNING, true, REASON_RUNNING, running(left, all, None), None);
                    let message = format!("{left}/{all} not yet migrated. {}", unhandled(&told(&error)));
                    return self.fail(migration, message).await;
                }
            }
            left -= 1;
        }
        migration.set(RUNNING, true, REASON_RUNNING, running(0, all, None), None);
        migration.set(SUCCEEDED, true, REASON_SUCCEEDED, "Migration completed".to_owned(), None);
        self.write(migration).await
    }

    /// What is not younger than a revision, and how many objects there are; or what is no revision.
    async fn candidates(&self, served: &Served, revision: &str) -> client::Result<Result<(Vec<Candidate>, usize), String>> {
        let objects = self.client.at::<PartialObject>(served.path());
        let (mut candidates, mut all) = (Vec::new(), 0);
        let mut page = ListParams { limit: PAGE, ..ListParams::default() };
        loop {
            let mut list = objects.list(&page).await?;
            page.continue_token = list.metadata.continue_.take().unwrap_or_default();
            for object in list.into_items() {
                all += 1;
                match compare(object.resource_version(), revision) {
                    Err(malformed) => return Ok(Err(malformed)),
                    Ok(Ordering::Greater) => {}
                    Ok(_) => candidates.push(Candidate {
                        namespace: object.namespace().to_owned(),
                        name: object.name().to_owned(),
                        revision: object.resource_version().to_owned(),
                    }),
                }
            }
            if page.continue_token.is_empty() {
                return Ok(Ok((candidates, all)));
            }
        }
    }

    async fn rewrite(&self, served: &Served, candidate: &Candidate) -> client::Result<()> {
        let same = json!({"apiVersion": served.api_version(), "kind": served.kind, "metadata": {"resourceVersion": candidate.revision}});
        let params = PatchParams { field_manager: MANAGER.to_owned(), ..PatchParams::default() };
        let objects = self.client.at::<PartialObject>(served.path_in(&candidate.namespace));
        objects.patch(&candidate.name, &Patch::Merge(same), &params).await.map(drop)
    }

    async fn served(&self, migration: &Migration) -> client::Result<Option<Served>> {
        let target = &migration.spec.resource;
        let (all, _) = discovery::resources(&self.client).await?;
        Ok(all.into_iter().find(|served| served.group == target.group && served.resource == target.resource))
    }

    /// A definition may have been made a moment ago.
    async fn not_served(&self, migration: &mut Migration, message: String) -> Step {
        if is_young(migration) { Ok(Some(LOOK)) } else { self.fail(migration, message).await }
    }

    /// Tells what failed and will be tried again.
    async fn again(&self, migration: &mut Migration, left: usize, all: usize, error: Error) -> Step {
        if migration.set(RUNNING, true, REASON_RUNNING, running(left, all, Some(&told(&error))), None)
            && let Err(error) = self.write(migration).await
        {
            tracing::debug!(migration = migration.name(), %error, "its status could not be written");
        }
        let advice = error.status().and_then(|status| status.details.as_ref()).map_or(0, |details| details.retry_after_seconds);
        match u64::try_from(advice) {
            Ok(seconds @ 1..) => Ok(Some(Duration::from_secs(seconds))),
            _ => Err(error),
        }
    }

    async fn fail(&self, migration: &mut Migration, message: String) -> Step {
        migration.set(FAILED, true, REASON_FAILED, message, None);
        self.write(migration).await
    }

    async fn write(&self, migration: &Migration) -> Step {
        match self.client.all::<Migration>().replace_status(migration.name(), migration).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(None),
        }
    }
}

fn is_young(migration: &Migration) -> bool {
    between(created(migration), client::timestamp()) < YOUNG
}

fn unhandled(why: &str) -> String {
    format!("migration encountered unhandled error: {why}")
}

/// What is said of a migration that runs.
pub(super) fn running(left: usize, all: usize, passing: Option<&str>) -> String {
    let mut message = "The migration is running".to_owned();
    match (left, all) {
        (_, 0) => {}
        (0, _) => message += &format!(", {all} objects verified migrated"),
        _ => message += &format!(", {left}/{all} objects not yet migrated"),
    }
    if let Some(passing) = passing {
        message += &format!("; transient error: {passing}");
    }
    message
}

/// Whether it may pass: the server is busy or not well (upstream's `isRetriableError`), or was not reached.
fn is_passing(error: &Error) -> bool {
    match error.status() {
        Some(status) => matches!(status.code, 429 | 500 | 503 | 504),
        None => matches!(error, Error::Transport(_)),
    }
}

fn told(error: &Error) -> String {
    error.status().map_or_else(|| error.to_string(), |status| status.message.clone())
}

/// As Go shows a group, version and resource.
fn shown(served: &Served) -> String {
    format!("{}/{}, Resource={}", served.group, served.version, served.resource)
}

/// Which of two revisions is younger, by upstream's rule (apimachinery's `resourceversion`): numbers of any length.
pub(super) fn compare(a: &str, b: &str) -> Result<Ordering, String> {
    for text in [a, b] {
        let well_formed = !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit());
        if !well_formed {
            return Err(format!("resource version is not well formed: {text}"));
        }
    }
    Ok(a.len().cmp(&b.len()).then_with(|| a.cmp(b)))
}
