//! Where the warnings of a policy's expressions point: JSONPaths, of which only is asked whether they can be read
//! (`client-go/util/jsonpath`).

/// Why a path cannot be read, in upstream's words; none if it can. Filters are not looked into.
pub(super) fn problem(path: &str) -> Option<String> {
    // Upstream puts it between braces.
    let text = format!("{path}}}");
    let mut rest = text.as_str();
    loop {
        let first = rest.chars().next()?;
        if first == '}' || rest.starts_with("[?(") {
            return None;
        }
        let behind = &rest[first.len_utf8()..];
        rest = match first {
            '\n' | '\r' => return Some("unclosed action".to_owned()),
            ' ' | '@' | '$' => behind,
            '.' if behind.starts_with("...") => return Some("invalid multiple recursive descent".to_owned()),
            '.' if behind.starts_with('.') => &behind[1..],
            '.' => after_field(behind),
            '[' => match after_index(behind) {
                Ok(behind) => behind,
                Err(why) => return Some(why),
            },
            '"' | '\'' => match after_quoted(behind, first) {
                Some(behind) => behind,
                None => return Some("unterminated quoted string".to_owned()),
            },
            '+' | '-' | '0'..='9' => {
                let end = behind.find(|c: char| c != '.' && !c.is_ascii_digit()).unwrap_or(behind.len());
                let number = &rest[..=end];
                if number.parse::<f64>().is_err() {
                    return Some(format!("cannot parse number {number}"));
                }
                &behind[end..]
            }
            c if c == '_' || c.is_alphanumeric() => &rest[rest.find(ends).unwrap_or(rest.len())..],
            c if c.is_control() => return Some(format!("unrecognized character in action: U+{:04X}", u32::from(c))),
            c => return Some(format!("unrecognized character in action: U+{:04X} '{c}'", u32::from(c))),
        };
    }
}

/// Whether a name ends where this character stands.
fn ends(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n' | '.' | ',' | '[' | ']' | '$' | '@' | '{' | '}')
}

fn after_field(text: &str) -> &str {
    let mut is_escaped = false;
    for (at, c) in text.char_indices() {
        if is_escaped {
            is_escaped = false;
        } else if c == '\\' {
            is_escaped = true;
        } else if ends(c) {
            return &text[at..];
        }
    }
    ""
}

fn after_index(text: &str) -> Result<&str, String> {
    let end = text.find([']', '\n']).filter(|end| text[*end..].starts_with(']')).ok_or("unterminated array")?;
    let is_number = |part: &str| part.strip_prefix('-').unwrap_or(part).bytes().all(|b| b.is_ascii_digit());
    let is_slice = |part: &str| part.split(':').count() <= 3 && part.split(':').all(is_number);
    let is_name = |part: &str| part.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).is_some_and(|name| !name.contains('\''));
    for part in text[..end].split(',').map(|part| part.trim_matches(' ')) {
        if part != "*" && !is_slice(part) && !is_name(part) {
            return Err(format!("invalid array index {part}"));
        }
    }
    Ok(&text[end + 1..])
}

fn after_quoted(text: &str, quote: char) -> Option<&str> {
    let mut before = quote;
    for (at, c) in text.char_indices() {
        match c {
            '\n' => return None,
            _ if c == quote && before != '\\' => return Some(&text[at + 1..]),
            _ => before = c,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_told_why_it_cannot_be_read() {
        for right in ["spec.validations[0].expression", "a..b", ".a['b.c'][*].d[1:2]", "$.a[?(@.b=='c')]", "a b", "a\\.b.c", "-1.5", "a}"] {
            assert_eq!(problem(right), None, "{right}");
        }
        let cases = [
            ("spec[", "unterminated array"),
            ("a[*", "unterminated array"),
            ("a[b]", "invalid array index b"),
            ("{", "unrecognized character in action: U+007B '{'"),
            ("a\tb", "unrecognized character in action: U+0009"),
            ("a\n", "unclosed action"),
            ("....", "invalid multiple recursive descent"),
            ("'a", "unterminated quoted string"),
            ("1.2.3", "cannot parse number 1.2.3"),
        ];
        for (wrong, why) in cases {
            assert_eq!(problem(wrong).as_deref(), Some(why), "{wrong}");
        }
    }
}
