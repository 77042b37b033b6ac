//! Names of fields that the language cannot write, and how it writes them.

/// Words that no name may be.
pub const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

const SEQUENCES: [(&str, &str); 4] = [("__", "__underscores__"), (".", "__dot__"), ("-", "__dash__"), ("/", "__slash__")];

/// The name by which expressions know a field; nothing if they cannot.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let (mut out, mut rest) = (String::with_capacity(name.len()), name);
    while let Some(next) = rest.chars().next() {
        if let Some((plain, escaped)) = SEQUENCES.iter().find(|(plain, _)| rest.starts_with(plain)) {
            out.push_str(escaped);
            rest = &rest[plain.len()..];
        } else if next.is_ascii_alphanumeric() || next == '_' {
            out.push(next);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(out)
}

/// The field that a name in an expression means; nothing if it holds a sequence that means nothing.
pub fn unescape(name: &str) -> Option<String> {
    let (mut out, mut rest) = (String::with_capacity(name.len()), name);
    while let Some(at) = rest.find("__") {
        let inside = &rest[at + 2..];
        let length = inside.find('_').unwrap_or(inside.len());
        if length == 0 || !inside[length..].starts_with("__") {
            // Underscores that begin no sequence.
            out.push_str(&rest[..=at]);
            rest = &rest[at + 1..];
            continue;
        }
        let (word, whole) = (&inside[..length], &rest[at..at + length + 4]);
        out.push_str(&rest[..at]);
        match SEQUENCES.iter().find(|(_, escaped)| *escaped == whole) {
            Some((plain, _)) => out.push_str(plain),
            // A reserved word is the whole name.
            None if RESERVED.contains(&word) && whole == name => out.push_str(word),
            None => return None,
        }
        rest = &rest[at + length + 4..];
    }
    out.push_str(rest);
    Some(out)
}
