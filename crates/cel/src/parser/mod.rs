//! Text to a tree: the grammar, macros expanded on the way.
//!
//! What is in the grammar is parsed here, in one pass and without a table. What is not is read again for the sake of its errors
//! ([`syntax`]): the original's parser is made by ANTLR, and so are its words. (The crate `cel` has a port of that parser; it
//! expects other tokens than the original's does, and tells errors that the original does not have.)
//!
//! Depth is bounded as in the original ([`DEPTH_MAX`]): by counting the rules that are open, and then the nodes one above the other.
//! The text's length is bounded too ([`SIZE_MAX`]). So all that walks a tree may do so by recursion.

mod grammar;
mod lexer;
mod literal;
mod syntax;

use crate::ast::Expr;
use crate::issues::Issue;
use crate::macros::Macro;
use crate::source::Source;

/// The most characters of an expression.
pub const SIZE_MAX: usize = 100_000;
/// The most that rules and nodes may be nested.
pub const DEPTH_MAX: u32 = 250;

/// The tree of a text with the positions of its nodes, or what is wrong.
pub fn parse(text: &str, macros: &[Macro]) -> Result<(Expr, Source), Vec<Issue>> {
    let size = text.chars().count();
    if size > SIZE_MAX {
        return Err(vec![whole(format!("expression code point size exceeds limit: size: {size}, limit {SIZE_MAX}"))]);
    }
    let source = Source::new(text);
    let (tokens, unread) = match lexer::tokens(text) {
        Some(tokens) => (tokens, Vec::new()),
        None => {
            let read = syntax::tokens::read(text, &source);
            (read.tokens, read.errors)
        }
    };
    match grammar::Parser::new(&tokens, source, macros).parse() {
        Ok(Ok(parsed)) if unread.is_empty() => Ok(parsed),
        Ok(parsed) => Err(unread.into_iter().chain(parsed.err().unwrap_or_default()).collect()),
        Err(grammar::Halt::TooDeep) => Err(vec![whole(format!("expression recursion limit exceeded: {DEPTH_MAX}"))]),
        Err(grammar::Halt::Syntax) => Err(syntax::errors(text, macros)),
    }
}

/// An error about the whole.
fn whole(message: String) -> Issue {
    Issue { id: 0, location: None, message }
}
