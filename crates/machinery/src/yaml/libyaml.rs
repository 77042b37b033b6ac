//! What is wrong with a text in the words of libyaml, which go-yaml is a translation of.
//!
//! The parser that reads bodies has words of its own, and takes some texts that are none. A text that is not too long is read by libyaml's
//! first, only to hear what that says of it.

use serde::{Deserialize as _, de::IgnoredAny};

/// Bytes of a text that is read twice: aliases are followed.
const TEXT_BYTES_MAX: usize = 16 << 10;
/// Brackets of such a text: libyaml's work grows with the square of their depth.
const BRACKETS_MAX: usize = 255;

/// The error of the first document in go-yaml's form; none if libyaml has nothing against it, or if the text is too long to ask.
pub(super) fn problem(text: &str) -> Option<String> {
    let brackets = || text.bytes().filter(|byte| b"[{".contains(byte)).count();
    if text.len() > TEXT_BYTES_MAX || brackets() > BRACKETS_MAX {
        return None;
    }
    let document = serde_yaml_ng::Deserializer::from_str(text).next()?;
    let error = IgnoredAny::deserialize(document).err()?;
    // Only its parser's own errors are printed so; those of a deserialiser (too deep, an anchor that is not there) are others.
    let printed = format!("{error:?}");
    let (kind, _) = printed.strip_prefix("Error { kind: ")?.split_once(',')?;
    let told = error.to_string();
    let problem = [" at line ", " at position ", ", while "].iter().filter_map(|mark| told.find(mark)).min().map_or(told.as_str(), |at| &told[..at]);
    // go-yaml spells one of them in its own way.
    let problem = problem.replace("hexadecimal", "hexdecimal");
    // go-yaml counts from 0, except for the scanner's, and does not tell of the first line.
    let line = match error.location().map_or(0, |location| location.line() - 1) {
        0 => return Some(problem),
        line => line + usize::from(kind == "SCANNER"),
    };
    Some(format!("line {line}: {problem}"))
}

#[cfg(test)]
mod tests {
    use super::{BRACKETS_MAX, problem};

    #[test]
    fn problems_are_told_by_go_yamls_lines() {
        let told = |text: &str| problem(text).unwrap_or_default();
        assert_eq!(told("a: {b: 1\n"), "line 1: did not find expected ',' or '}'");
        assert_eq!(told("a: 1\nb:\n\tc: 2\n"), "line 3: found character that cannot start any token");
        assert_eq!(told("a: b: c"), "mapping values are not allowed in this context");
        assert_eq!(problem(&"[".repeat(BRACKETS_MAX + 1)), None, "libyaml is not asked");
        assert_eq!(told("a: 1\n b: 2\n"), "line 2: mapping values are not allowed in this context");
        assert_eq!(told("a: \"b"), "found unexpected end of stream");
        assert_eq!(told("a: b\n---\n- [\n"), "", "only the first document counts");
        assert_eq!(told(&"[".repeat(1 << 20)), "", "it is too long");
        assert_eq!(told("a: *b"), "", "whether an anchor is there is not the parser's business");
    }
}
