//! The making of indexes: by a thread of its own, from a snapshot and the changes since, while lists walk the bucket.

use crate::{
    entry::FieldsOf,
    index::{BUCKET_MIN, By, Demand, Index},
    memory::{Bucket, Candidates, Memory, Snapshot},
};
use std::sync::Arc;

impl Memory {
    /// The newest state, and what an index says of it. Without one, one is made for the next time.
    pub(crate) fn snapshot_for(&self, bucket: &Bucket, demands: &[Demand<'_>], fields: &FieldsOf) -> (Snapshot, Option<Candidates>) {
        if demands.is_empty() || bucket.len() < BUCKET_MIN {
            return (self.snapshot(bucket), None);
        }
        let published = self.revision();
        let (snapshot, keys) = bucket.write(|state| (bucket.shown(state, published), state.indexes.keys(demands)));
        if keys.is_none() {
            make(bucket, demands, fields);
        }
        (snapshot, keys.map(Candidates))
    }
}

/// Makes an index for the first demand that has none.
fn make(bucket: &Bucket, demands: &[Demand<'_>], fields: &FieldsOf) {
    for demand in demands {
        let by = By::of(*demand);
        if !bucket.write(|state| state.indexes.begin(&by)) {
            continue;
        }
        let (bucket, fields) = (bucket.clone(), Arc::clone(fields));
        let name = by.clone();
        let made = std::thread::Builder::new().name("index".into()).stack_size(machinery::json::STACK_BYTES).spawn({
            let bucket = bucket.clone();
            move || {
                let (entries, at) = bucket.entries();
                let mut index = Index::of(by.clone(), fields, &entries);
                drop(entries);
                bucket.write(|state| {
                    // What was forgotten meanwhile cannot be caught up with: the next list asks again.
                    let known = at >= state.history.complete_after();
                    let mut missed: Vec<_> = state.history.back_to(at).cloned().collect();
                    missed.reverse();
                    missed.iter().for_each(|event| index.apply(event));
                    state.indexes.end(&by, known.then_some(index));
                });
            }
        });
        if let Err(error) = made {
            tracing::warn!(%error, "no index can be made; lists go on walking");
            bucket.write(|state| state.indexes.end(&name, None));
        }
    }
}
