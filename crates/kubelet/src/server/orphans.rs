//! Commands that run on without a client: so many for each container, since each has descriptors of this process.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::cri::ContainerId;

/// Without a client, in one container. Those that write something end by themselves soon; the others are few where nobody means ill.
const MAX: usize = 16;

/// Who runs on. Cheap to clone.
#[derive(Clone, Default)]
pub struct Orphans(Arc<Mutex<HashMap<ContainerId, usize>>>);

/// A place that is given back when it is dropped.
pub struct Orphan {
    all: Orphans,
    container: ContainerId,
}

impl Orphans {
    /// A place for one more of this container, if there is one.
    #[must_use]
    pub fn enter(&self, container: &ContainerId) -> Option<Orphan> {
        let mut counts = self.0.lock();
        let count = counts.entry(container.clone()).or_default();
        if *count >= MAX {
            return None;
        }
        *count += 1;
        Some(Orphan { all: self.clone(), container: container.clone() })
    }
}

impl Drop for Orphan {
    fn drop(&mut self) {
        let mut counts = self.all.0.lock();
        if let Some(count) = counts.get_mut(&self.container) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.container);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_container_has_so_many_and_no_more() {
        let (orphans, a, b) = (Orphans::default(), ContainerId("a".into()), ContainerId("b".into()));
        let mut all: Vec<Orphan> = (0..MAX).map(|_| orphans.enter(&a).unwrap()).collect();
        assert!(orphans.enter(&a).is_none());
        assert!(orphans.enter(&b).is_some(), "another's are its own");
        all.pop();
        assert!(orphans.enter(&a).is_some());
        drop(all);
        assert!(orphans.0.lock().is_empty());
    }
}
