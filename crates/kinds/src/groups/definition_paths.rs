//! Paths into custom objects as definitions write them (`.spec.replicas`, `.spec.labels['a.b']`): of rules that tell which field is
//! wrong, and of selectable fields.

use machinery::{Value, field::Path};

/// The path as errors write it and the schema that it leads to, or why it leads nowhere. `keys`: whether `['…']` may be used.
pub fn resolve<'a>(text: &str, schema: &'a Value, keys: bool) -> Result<(Path, &'a Value), String> {
    let (mut path, mut at) = (Path::empty(), schema);
    let mut tokens = Tokens(text);
    while let Some(token) = tokens.next() {
        match token {
            "." => {
                let name = tokens.next().ok_or("unexpected end of JSON path")?;
                (path, at) = step(path, at, name)?;
            }
            "[" if !keys => return Err("array notation is not allowed".to_string()),
            "[" => {
                let token = tokens.next().ok_or("unexpected end of JSON path")?;
                let inside = token.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\''));
                let name = unescape(inside.ok_or_else(|| format!("expected single quoted string but got {token}"))?)?;
                (path, at) = step(path, at, &name)?;
                match tokens.next() {
                    Some("]") => {}
                    Some(other) => return Err(format!("expected ] but got {other}")),
                    None => return Err("unexpected end of JSON path".to_string()),
                }
            }
            other => return Err(format!("expected [ or . but got: {other}")),
        }
    }
    Ok((path, at))
}

/// One step: to a property, or to the value of a map.
fn step<'a>(path: Path, schema: &'a Value, name: &str) -> Result<(Path, &'a Value), String> {
    let nowhere = || "does not refer to a valid field".to_string();
    if let Some(properties) = schema["properties"].as_object().filter(|properties| !properties.is_empty()) {
        let property = properties.get(name).ok_or_else(nowhere)?;
        return Ok((path.child(name), property));
    }
    match &schema["additionalProperties"] {
        value @ Value::Object(_) => Ok((path.key(name), value)),
        _ => Err(nowhere()),
    }
}

/// The delimiters `.`, `[` and `]`, and what stands between them; in single quotes they delimit nothing.
struct Tokens<'a>(&'a str);

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<&'a str> {
        let text = self.0;
        let first = text.chars().next()?;
        let length = match first {
            '.' | '[' | ']' => 1,
            '\'' => quoted(text).unwrap_or(text.len()),
            _ => text.find(['.', '[', ']']).unwrap_or(text.len()),
        };
        self.0 = &text[length..];
        Some(&text[..length])
    }
}

/// The length of a text in single quotes.
fn quoted(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    (1..bytes.len()).find(|&at| bytes[at] == b'\'' && bytes[at - 1] != b'\\').map(|at| at + 1)
}

fn unescape(text: &str) -> Result<String, String> {
    let (mut out, mut rest) = (String::new(), text.chars());
    while let Some(char) = rest.next() {
        if char != '\\' {
            out.push(char);
            continue;
        }
        out.push(match rest.next() {
            Some('a') => '\x07',
            Some('b') => '\x08',
            Some('f') => '\x0c',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some('v') => '\x0b',
            Some(same @ ('\'' | '\\')) => same,
            Some(other) => return Err(format!("invalid string literal: invalid escape char \\{other}")),
            None => '\\',
        });
    }
    Ok(out)
}
