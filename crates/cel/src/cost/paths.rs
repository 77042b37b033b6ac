//! Where nodes lie below the variables, as the original notes it.
//!
//! The original keeps these paths in slices that share their memory where there is room: a path that was extended twice may end in
//! the later name for both. What is estimated by a path is so by that too, and definitions were accepted by it; so the sharing is
//! kept: capacities double, and what fits is written in place.

use std::cell::RefCell;
use std::rc::Rc;

use crate::types::Str;

/// A path: a variable, then fields, `@items`, `@keys`, `@values`.
#[derive(Debug, Clone, Default)]
pub(super) struct Path {
    shared: Rc<RefCell<Vec<Str>>>,
    room: usize,
    length: usize,
}

impl Path {
    /// A variable.
    pub(super) fn of(variable: Str) -> Path {
        Path { shared: Rc::new(RefCell::new(vec![variable])), room: 1, length: 1 }
    }

    /// One step further.
    pub(super) fn then(&self, name: &str) -> Path {
        if self.length < self.room {
            let mut shared = self.shared.borrow_mut();
            match shared.get_mut(self.length) {
                Some(there) => *there = name.into(),
                None => shared.push(name.into()),
            }
            return Path { shared: self.shared.clone(), room: self.room, length: self.length + 1 };
        }
        let mut copy = self.names();
        copy.push(name.into());
        let room = if self.room == 0 { 1 } else { self.room * 2 };
        Path { shared: Rc::new(RefCell::new(copy)), room, length: self.length + 1 }
    }

    /// The names as they are now.
    pub(super) fn names(&self) -> Vec<Str> {
        self.shared.borrow().iter().take(self.length).cloned().collect()
    }
}
