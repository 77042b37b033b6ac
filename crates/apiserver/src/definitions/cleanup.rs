//! The end of a definition: all its instances are deleted, and when the last is gone the definition is let go.
//!
//! Source: `apiextensions-apiserver/pkg/controller/finalizer`. Upstream looks every five seconds whether instances are left
//! and begins again after a minute; here the removal of the last one is heard of.

use crate::{
    family::Entrance,
    meta,
    own::{self, Owns},
    registry::DeleteOptions,
    rows::Row,
    storage::{self, Scope},
    world::World,
    writer::Writer,
};
use kinds::definitions::{self, condition, holds, set_condition};
use machinery::{Value, status::Status};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// How long the instances may take to go before the definition says that they do.
const GONE_WITHIN: Duration = Duration::from_secs(60);
/// After which time a failure is tried again.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// Built-in resources that a definition may claim, and whose objects are not its instances.
const OVERLAPPING: [&str; 2] = ["apiservices.apiregistration.k8s.io", "customresourcedefinitions.apiextensions.k8s.io"];

/// The end of one definition.
pub(super) struct Cleanup {
    pub(super) world: World,
    /// The row of definitions.
    pub(super) row: Arc<Row>,
    pub(super) name: String,
    pub(super) uid: String,
    /// The row by which its instances are deleted; `None` if it was never served.
    pub(super) instances: Option<Arc<Row>>,
    /// The way in for new ones.
    pub(super) entrance: Arc<Entrance>,
}

impl Cleanup {
    pub(super) async fn run(self) {
        while let Err(error) = self.attempt().await {
            tracing::warn!(definition = self.name, %error, "the instances of a definition could not be removed");
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }

    async fn attempt(&self) -> Result<(), Status> {
        self.say(condition("Terminating", true, "InstanceDeletionInProgress", "CustomResource deletion is in progress")).await?;
        self.entrance.close().await;
        let established = self.world.get(("apiextensions.k8s.io", "v1", "customresourcedefinitions"), "", &self.name).is_some_and(|d| holds(&d, "Established"));
        let last = match &self.instances {
            _ if OVERLAPPING.contains(&self.name.as_str()) => {
                condition("Terminating", false, "OverlappingBuiltInResource", "instances overlap with built-in resources in storage")
            }
            Some(row) if established => {
                if let Err((error, message)) = self.delete_all(row).await {
                    self.say(condition("Terminating", true, "InstanceDeletionFailed", &message)).await?;
                    return Err(error);
                }
                self.await_end(row).await?;
                condition("Terminating", false, "InstanceDeletionCompleted", "removed all instances")
            }
            _ => condition("Terminating", false, "NeverEstablished", "resource was never established"),
        };
        self.say(last).await?;
        self.let_go().await
    }

    /// Deletes every instance. Upstream goes to the storage for it, so no admission is asked.
    async fn delete_all(&self, row: &Arc<Row>) -> Result<(), (Status, String)> {
        let unlisted = |error: Status| {
            let why = format!("could not list instances: {}", error.message);
            (error, why)
        };
        let snapshot = storage::snapshot(self.world.store(), row, None).ok_or_else(|| unlisted(Status::internal("the newest state is not there")))?;
        let options = DeleteOptions { unadmitted: true, ..DeleteOptions::default() };
        let entries = storage::seen(self.world.store(), row, snapshot.range(&row.root_key, "").cloned().collect()).await.map_err(unlisted)?;
        for entry in entries {
            let value = storage::value(row, &entry);
            match Writer::new(&self.world).delete_as(row, (meta::text(&value, "namespace"), meta::text(&value, "name")), &options).await {
                Err(error) if error.code != 404 => {
                    let why = format!("could not issue all deletes: {}", error.message);
                    return Err((error, why));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Waits until no instance is left. Those that finalizers hold are waited for; the definition tells of it after a while.
    async fn await_end(&self, row: &Arc<Row>) -> Result<(), Status> {
        let waited = tokio::time::timeout(GONE_WITHIN, async {
            loop {
                let from = storage::revision(self.world.store());
                let Ok(mut changes) = storage::watch(self.world.store(), row, from, Scope::Bucket) else { continue };
                // The count is taken behind the watch's beginning: no removal is missed.
                while storage::count(self.world.store(), row) > 0 {
                    if changes.next().await.is_err() {
                        break;
                    }
                }
                if storage::count(self.world.store(), row) == 0 {
                    return;
                }
            }
        });
        if waited.await.is_err() {
            let why = "could not confirm zero CustomResources remaining: context deadline exceeded";
            self.say(condition("Terminating", true, "InstanceDeletionCheck", why)).await?;
            return Err(Status::internal(why));
        }
        Ok(())
    }

    fn is_it(&self, definition: &Value) -> bool {
        definition["metadata"]["uid"] == self.uid.as_str()
    }

    /// Notes a condition.
    async fn say(&self, condition: Value) -> Result<(), Status> {
        let now = SystemTime::now();
        let said = own::amend(self.world.store(), &self.row, ("", &self.name), Owns::By("status"), now, |present| {
            let mut next = present.clone();
            set_condition(&mut next, condition.clone(), now);
            Ok((self.is_it(present) && next != *present).then_some(next))
        });
        match said.await {
            Err(error) if error.code != 404 => Err(error),
            _ => Ok(()),
        }
    }

    /// Takes the finalizer; if it was the last, the definition goes.
    async fn let_go(&self) -> Result<(), Status> {
        let others = |definition: &Value| meta::finalizers(definition).iter().any(|name| *name != definitions::FINALIZER);
        own::remove(self.world.store(), &self.row, &self.name, |present| self.is_it(present) && !others(present)).await?;
        let left = own::amend(self.world.store(), &self.row, ("", &self.name), Owns::By("status"), SystemTime::now(), |present| {
            if !self.is_it(present) {
                return Ok(None);
            }
            let mut next = present.clone();
            let kept: Vec<Value> = meta::finalizers(present).into_iter().filter(|name| *name != definitions::FINALIZER).map(Value::from).collect();
            meta::set(&mut next, "finalizers", kept.into());
            Ok((next != *present).then_some(next))
        });
        match left.await {
            Err(error) if error.code != 404 => Err(error),
            _ => Ok(()),
        }
    }
}
