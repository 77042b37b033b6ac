//! Regular expressions in Go's syntax (RE2), matched in linear time by the engine of the crate `regex`, `regex-automata`.
//!
//! That is used by itself, because only so it can be told to build no DFAs. They are in the program when any other crate asks for
//! them, and a pattern whose inner literal is looked for first then panics in a search if it is small enough for a DFA forwards and
//! not backwards (`[^a]b`), where there are no lazy ones either. They would also cost more to build than most texts do to search.
//!
//! A pattern is read by Go's rules, with Go's errors, and written again in the crate's syntax: what the two understand differently
//! (`\d`, `\b` and the like are ASCII in Go; classes nest and subtract in the crate) is spelled out. A compiled pattern is bounded
//! in size.

mod translate;

use regex_automata::{
    meta::{BuildError, Config},
    util::syntax,
};
use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

/// Bytes of a compiled pattern. Go bounds the pattern itself.
const SIZE_LIMIT: usize = 8 << 20;
/// The sizes by which compiled patterns are counted ([`Regex::size`]): the least that is not too small, up to the limit.
const SIZES: [usize; 7] = [8 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, SIZE_LIMIT];
/// How deep groups nest in Go.
const NEST_LIMIT: u32 = 1_000;

type Engine = regex_automata::meta::Regex;

fn build(translated: &str, size_limit: usize) -> Result<Engine, Box<BuildError>> {
    let config = Config::new().nfa_size_limit(Some(size_limit)).dfa(false).hybrid(false);
    Engine::builder().configure(config).syntax(syntax::Config::new().nest_limit(NEST_LIMIT * 2)).build(translated).map_err(Box::new)
}

fn translate(pattern: &str) -> Result<String, String> {
    translate::translate(pattern).map_err(|error| format!("error parsing regexp: {error}"))
}

/// Whether it is a pattern at all, however large: about a thousandth of the time that compiling a large one takes.
///
/// # Errors
/// Go's text.
pub fn check(pattern: &str) -> Result<(), String> {
    match build(&translate(pattern)?, SIZES[0]) {
        Err(error) if error.size_limit().is_none() => Err(too_large(pattern)),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn too_large(pattern: &str) -> String {
    format!("error parsing regexp: expression too large: `{pattern}`")
}

/// The compiled pattern, one for all who hold it at the same time.
///
/// # Errors
/// Go's text.
pub fn shared(pattern: &str) -> Result<Arc<Regex>, String> {
    type Held = HashMap<Box<str>, Weak<Regex>>;
    static HELD: LazyLock<Mutex<(Held, usize)>> = LazyLock::new(Mutex::default);
    let lock = || HELD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(regex) = lock().0.get(pattern).and_then(Weak::upgrade) {
        return Ok(regex);
    }
    // Outside the lock: two may compile it at once, and the last one's is shared.
    let regex = Arc::new(Regex::new(pattern)?);
    let mut held = lock();
    held.0.insert(pattern.into(), Arc::downgrade(&regex));
    // What nobody holds any more goes each time that twice as many are known as were held the last time.
    if held.0.len() > held.1 {
        held.0.retain(|_, regex| regex.strong_count() > 0);
        held.1 = held.0.len() * 2;
    }
    Ok(regex)
}

/// Within which of some limits a pattern can be compiled: about what it takes. The largest for one that is too large, and nothing
/// for one that is none.
pub fn size_at_most(pattern: &str) -> usize {
    match translate::translate(pattern) {
        Ok(_) => Regex::new(pattern).map_or(SIZE_LIMIT, |regex| regex.size()),
        Err(_) => 0,
    }
}

/// A compiled pattern, with about the bytes that it takes.
#[derive(Debug, Clone)]
pub struct Regex(Engine, usize);

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Go's text.
    pub fn new(pattern: &str) -> Result<Regex, String> {
        Regex::within(pattern, SIZE_LIMIT)
    }

    /// Compiles a pattern that may have no more than so many bytes, by the sizes that [`Self::size`] tells.
    ///
    /// # Errors
    /// Go's text.
    pub fn within(pattern: &str, size_limit: usize) -> Result<Regex, String> {
        let translated = translate(pattern)?;
        let mut sizes = SIZES.into_iter().filter(|size| *size <= size_limit);
        sizes.find_map(|size| build(&translated, size).ok().map(|regex| Regex(regex, size))).ok_or_else(|| too_large(pattern))
    }

    /// About the bytes that it takes: the least of some sizes that it fits into.
    pub fn size(&self) -> usize {
        self.1
    }

    /// Whether it matches anywhere in a text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The first match.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.find(text).map(|found| &text[found.range()])
    }

    /// The first so many matches, or all.
    pub fn find_all<'t>(&self, text: &'t str, limit: Option<usize>) -> Vec<&'t str> {
        self.0.find_iter(text).take(limit.unwrap_or(usize::MAX)).map(|found| &text[found.range()]).collect()
    }
}
