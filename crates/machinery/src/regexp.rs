//! Regular expressions in Go's syntax (RE2), matched in linear time by the crate `regex`.
//!
//! A pattern is read by Go's rules, with Go's errors, and written again in the crate's syntax: what the two understand differently
//! (`\d`, `\b` and the like are ASCII in Go; classes nest and subtract in the crate) is spelled out. A compiled pattern is bounded
//! in size.

mod translate;

/// Bytes of a compiled pattern. Go bounds the pattern itself.
const SIZE_LIMIT: usize = 8 << 20;
/// How deep groups nest in Go.
const NEST_LIMIT: u32 = 1_000;

/// A compiled pattern.
#[derive(Debug, Clone)]
pub struct Regex(regex::Regex);

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// Go's text.
    pub fn new(pattern: &str) -> Result<Regex, String> {
        let translated = translate::translate(pattern).map_err(|error| format!("error parsing regexp: {error}"))?;
        let compiled = regex::RegexBuilder::new(&translated).size_limit(SIZE_LIMIT).nest_limit(NEST_LIMIT * 2).build();
        compiled.map(Regex).map_err(|_| format!("error parsing regexp: expression too large: `{pattern}`"))
    }

    /// Whether it matches anywhere in a text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The first match.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.find(text).map(|found| found.as_str())
    }

    /// The first so many matches, or all.
    pub fn find_all<'t>(&self, text: &'t str, limit: Option<usize>) -> Vec<&'t str> {
        self.0.find_iter(text).take(limit.unwrap_or(usize::MAX)).map(|found| found.as_str()).collect()
    }
}
