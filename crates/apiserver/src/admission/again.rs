//! What the second round of a write's mutation must know of the first (upstream's reinvocation contexts): those that were asked
//! before, and want it, are asked again about an object that has changed since.

use machinery::Value;
use std::collections::HashSet;

/// The rounds of one sort of those that are asked, webhooks or policies.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// The second round goes on.
    pub(super) second: bool,
    /// Somebody has changed the object, so that there must be a second round.
    pub(super) wanted: bool,
    output: Option<Value>,
    invoked: HashSet<String>,
    reinvoke: HashSet<String>,
}

impl Again {
    /// A round begins: what has changed the object since the first one's end has others asked again.
    pub(super) fn begin(&mut self, object: &Value) {
        if self.second && self.output.as_ref().is_some_and(|output| output != object) {
            self.require();
        }
    }

    /// Whether this round leaves somebody out.
    pub(super) fn leaves_out(&self, key: &str) -> bool {
        self.second && !self.reinvoke.contains(key)
    }

    /// The object was changed by who is asked just now.
    pub(super) fn changed(&mut self) {
        self.require();
        self.wanted = true;
    }

    /// Somebody was asked who wants to be asked again about what others change.
    pub(super) fn invoked(&mut self, key: String) {
        self.invoked.insert(key);
    }

    /// A round ends with this object.
    pub(super) fn end(&mut self, object: &Value) {
        if !self.second && !self.invoked.is_empty() {
            self.output = Some(object.clone());
        }
    }

    fn require(&mut self) {
        self.reinvoke.extend(self.invoked.drain());
    }
}
