//! What is wrong with a text that is not in the grammar, in the original's words.
//!
//! The original's parser was made by ANTLR. Which token it calls extraneous, missing or mismatched, what it says was expected, and
//! where it goes on behind an error follow from ANTLR's rules, and clients show the result. So the grammar stands here a second
//! time, as a table ([`rules`]) from which an automaton is made ([`automaton`]); it is walked as the generated parser walks it
//! ([`walk`]), which way to go is predicted as ANTLR predicts it ([`predict`]), and what was recovered is looked at as the original's
//! builder does ([`rebuilt`]). Only texts that were refused come here.

mod automaton;
mod predict;
mod rebuilt;
mod rules;
pub(super) mod tokens;
mod walk;

use std::sync::OnceLock;

use crate::issues::Issue;
use crate::macros::Macro;
use crate::source::Source;
use automaton::Automaton;

/// The errors of a text; never none.
pub(super) fn errors(text: &str, macros: &[Macro]) -> Vec<Issue> {
    static AUTOMATON: OnceLock<Automaton> = OnceLock::new();
    let source = Source::new(text);
    let read = tokens::read(text, &source);
    let (walked, tree) = walk::errors(AUTOMATON.get_or_init(Automaton::new), &read, text, &source);
    let rebuilt = tree.map(|tree| rebuilt::errors(&read.tokens, source, macros, &tree)).unwrap_or_default();
    let mut errors = read.errors;
    errors.extend(walked.into_iter().chain(rebuilt));
    if errors.is_empty() {
        errors.push(super::whole("Syntax error: the expression could not be parsed".to_string()));
    }
    errors
}
