//! A controller's own writes, until its informer tells of them: so the next step need not wait for the echo of the last
//! one, and never creates twice.
//!
//! An echo may never come: what was written and removed again by others while the informer's watch was broken is in no later
//! list. After [`ECHO_MAX`] only the informer is believed, and [`Overlay::look_again`] says when that is.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Object, ObjectKey};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::meta::revision;

/// An echo that has not come by then will not come any more: an informer that has lost its watch lists anew within it.
const ECHO_MAX: Duration = Duration::from_secs(60);

/// By name.
type Written<K> = HashMap<String, Own<K>>;

#[derive(Debug)]
struct Own<K> {
    /// None is a deletion.
    state: Option<Arc<K>>,
    at: Instant,
}

impl<K> Own<K> {
    fn now(state: Option<Arc<K>>) -> Self {
        Self { state, at: Instant::now() }
    }
}

/// By the key of what the objects belong to.
#[derive(Debug)]
pub(crate) struct Overlay<K> {
    owners: Mutex<HashMap<ObjectKey, Written<K>>>,
}

impl<K> Default for Overlay<K> {
    fn default() -> Self {
        Self { owners: Mutex::default() }
    }
}

impl<K: Object> Overlay<K> {
    /// The server's answer to a write.
    pub(crate) fn wrote(&self, owner: &ObjectKey, object: K) {
        self.owners.lock().entry(owner.clone()).or_default().insert(object.name().to_owned(), Own::now(Some(Arc::new(object))));
    }

    pub(crate) fn deleted(&self, owner: &ObjectKey, name: &str) {
        self.owners.lock().entry(owner.clone()).or_default().insert(name.to_owned(), Own::now(None));
    }

    /// Something did not fit: only the informer is believed.
    pub(crate) fn forget(&self, owner: &ObjectKey) {
        self.owners.lock().remove(owner);
    }

    /// What the informer has, with what is newer; what the informer has caught up with is forgotten.
    pub(crate) fn over(&self, owner: &ObjectKey, mut seen: Vec<Arc<K>>) -> Vec<Arc<K>> {
        let mut owners = self.owners.lock();
        let Some(own) = owners.get_mut(owner) else { return seen };
        own.retain(|name, Own { state: written, at: since }| {
            if since.elapsed() >= ECHO_MAX {
                return false;
            }
            let at = seen.iter().position(|s| s.name() == name);
            match (at, written) {
                (Some(at), Some(written)) if revision(&**written) > revision(&*seen[at]) => {
                    seen[at] = written.clone();
                    true
                }
                (Some(_), Some(_)) | (None, None) => false,
                (Some(at), None) => {
                    seen.remove(at);
                    true
                }
                (None, Some(written)) => {
                    seen.push(written.clone());
                    true
                }
            }
        });
        if own.is_empty() {
            owners.remove(owner);
        }
        seen
    }

    /// When the owner is to be looked at again if nothing is heard before: an echo may have been lost.
    pub(crate) fn look_again(&self, owner: &ObjectKey) -> Option<Duration> {
        let owners = self.owners.lock();
        let oldest = owners.get(owner)?.values().map(|own| own.at).min()?;
        Some((oldest + ECHO_MAX).saturating_duration_since(Instant::now()))
    }

    /// The informer told that an object is gone.
    pub(crate) fn gone(&self, owner: &ObjectKey, name: &str) {
        if let Some(own) = self.owners.lock().get_mut(owner) {
            own.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use client::Meta;
    use k8s_openapi::api::core::v1::ConfigMap;

    fn map(name: &str, version: u32) -> ConfigMap {
        let mut map = ConfigMap::default();
        map.meta_mut().name = Some(name.to_owned());
        map.meta_mut().resource_version = Some(version.to_string());
        map
    }

    #[test]
    fn own_writes_count_until_they_are_seen() {
        let (overlay, owner) = (Overlay::default(), ObjectKey::new("n", "a"));
        overlay.wrote(&owner, map("x", 5));
        overlay.wrote(&owner, map("y", 9));
        overlay.deleted(&owner, "z");
        let told = |seen: Vec<ConfigMap>| {
            let over = overlay.over(&owner, seen.into_iter().map(Arc::new).collect());
            over.iter().map(|m| format!("{}{}", m.name(), m.resource_version())).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(told(vec![map("x", 4), map("z", 3)]), "x5 y9");
        assert_eq!(told(vec![map("x", 6), map("y", 9)]), "x6 y9");
        assert_eq!(told(vec![]), "", "everything was caught up with");
    }

    #[tokio::test(start_paused = true)]
    async fn an_echo_that_never_comes_is_not_waited_for() {
        let (overlay, owner) = (Overlay::default(), ObjectKey::new("n", "a"));
        assert_eq!(overlay.look_again(&owner), None);
        overlay.wrote(&owner, map("x", 5));
        tokio::time::advance(ECHO_MAX / 2).await;
        overlay.deleted(&owner, "y");
        let over = |seen: Vec<ConfigMap>| overlay.over(&owner, seen.into_iter().map(Arc::new).collect()).len();
        assert_eq!(over(vec![map("y", 3)]), 1, "x is there, y is not");
        assert_eq!(overlay.look_again(&owner), Some(ECHO_MAX / 2));
        tokio::time::advance(ECHO_MAX / 2).await;
        assert_eq!(over(vec![]), 0, "somebody has removed x, and nobody was told");
        tokio::time::advance(ECHO_MAX / 2).await;
        assert_eq!(over(vec![map("y", 4)]), 1, "somebody has made y again");
        assert_eq!(overlay.look_again(&owner), None);
    }
}
