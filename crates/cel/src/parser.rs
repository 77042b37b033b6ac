//! Text to a tree.

use crate::ast::Id;

/// What a macro makes new nodes with.
#[derive(Debug, Default)]
pub struct Expander {
    last: Id,
}

impl Expander {
    /// An id that no node has yet.
    pub fn next_id(&mut self) -> Id {
        self.last += 1;
        self.last
    }
}
