//! The text of an expression, and where its nodes stand in it.

use std::collections::HashMap;

use crate::types::Str;

/// A place: line from 1, column from 0, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub line: i32,
    pub column: i32,
}

/// The name of a node. 0 is nobody's.
pub type Id = i64;

/// The text, with what the parser noted about it.
#[derive(Debug, Clone, Default)]
pub struct Source {
    pub text: Str,
    /// The offset (in characters) at which a node begins.
    pub positions: HashMap<Id, u32>,
    /// The offsets (in characters) at which lines begin, but the first.
    pub lines: Vec<u32>,
}

impl Source {
    /// The text before anything is known about it.
    pub fn new(text: &str) -> Source {
        let mut lines = Vec::new();
        for (at, char) in text.chars().enumerate() {
            if char == '\n' {
                lines.push(at as u32 + 1);
            }
        }
        Source { text: text.into(), lines, ..Source::default() }
    }

    /// Where a node begins; a node that is unknown is nowhere.
    pub fn location(&self, id: Id) -> Option<Location> {
        self.positions.get(&id).map(|&offset| self.location_at(offset))
    }

    /// The line and column of an offset.
    pub fn location_at(&self, offset: u32) -> Location {
        let line = self.lines.partition_point(|&start| start <= offset);
        let start = if line == 0 { 0 } else { self.lines[line - 1] };
        Location { line: line as i32 + 1, column: (offset - start) as i32 }
    }
}
