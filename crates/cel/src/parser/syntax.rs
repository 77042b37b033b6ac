//! What is wrong with a text that is not in the grammar, in the words of ANTLR's recovery.
//!
//! The parser that knows them is a port by others: it runs on a thread of its own, with a stack for the depth that it may reach, and
//! should it panic, the error is told in fewer words.

use std::thread;

use crate::issues::Issue;
use crate::source::Location;

/// Address space for the parser's stack; what is used of it is memory.
const STACK_BYTES: usize = 256 << 20;
/// How often the original recovers before it gives up.
const RECOVERIES_MAX: u32 = 30;

/// The errors of a text; never none.
pub(super) fn errors(text: &str) -> Vec<Issue> {
    let text = text.to_string();
    let parsed = thread::Builder::new().stack_size(STACK_BYTES).spawn(move || recovered(&text)).map(thread::JoinHandle::join);
    match parsed {
        Ok(Ok(issues)) if !issues.is_empty() => issues,
        _ => vec![Issue { id: 0, location: Some(Location { line: 1, column: 0 }), message: "Syntax error: the expression could not be parsed".to_string() }],
    }
}

fn recovered(text: &str) -> Vec<Issue> {
    let parser = cel::parser::Parser::new()
        .max_recursion_depth(super::DEPTH_MAX as u16)
        .error_recovery_limit(RECOVERIES_MAX)
        .enable_optional_syntax(true)
        .enable_ident_escape_syntax(true);
    let Err(found) = parser.parse(text) else { return Vec::new() };
    found.errors.into_iter().map(|error| Issue { id: 0, location: Some(place(error.pos)), message: worded(error.msg) }).collect()
}

fn place((line, column): (isize, isize)) -> Location {
    Location { line: line as i32, column: column as i32 - 1 }
}

/// The original words one error of a word of the grammar as its earlier versions did.
fn worded(message: String) -> String {
    let Some(at) = message.find("no viable alternative at input '.") else { return message };
    for word in ["true", "false", "null"] {
        let old = format!("no viable alternative at input '.{word}'");
        if message[at..].starts_with(&old) {
            return message.replace(&old, &format!("mismatched input '{word}' expecting IDENTIFIER"));
        }
    }
    message
}
