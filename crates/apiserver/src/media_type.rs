//! The media type of a body, read as Go's `mime.ParseMediaType` reads it: a type that is followed by something wrong is none.

use std::collections::BTreeMap;

/// What may stand in no token but between quotes.
const SPECIAL: &str = "()<>@,;:\\\"/[]?=";

/// The type in small letters, without its parameters; `None` where Go finds an error.
pub fn parse(text: &str) -> Option<String> {
    let end = text.find(';').unwrap_or(text.len());
    let media = text[..end].trim().to_lowercase();
    let (kind, form) = media.split_once('/').unwrap_or((media.as_str(), "x"));
    if !is_token(kind) || !is_token(form) {
        return None;
    }
    // Whoever sends them says how many there are.
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    let mut rest = text[end..].trim_start();
    while !rest.is_empty() {
        let Some((name, value, behind)) = parameter(rest) else {
            // A semicolon at the end parts nothing.
            return (rest.trim() == ";").then_some(media);
        };
        if given.get(&name).is_some_and(|said| *said != value) {
            return None;
        }
        given.insert(name, value);
        rest = behind.trim_start();
    }
    Some(media)
}

/// `; name=value` at the beginning, and what follows it.
fn parameter(text: &str) -> Option<(String, String, &str)> {
    let (name, rest) = token(text.strip_prefix(';')?.trim_start());
    let rest = rest.trim_start().strip_prefix('=').filter(|_| !name.is_empty())?.trim_start();
    let (value, rest) = match rest.strip_prefix('"') {
        Some(quoted) => unquoted(quoted)?,
        None => {
            let (value, rest) = token(rest);
            (Some(value.to_owned()).filter(|value| !value.is_empty())?, rest)
        }
    };
    Some((name.to_lowercase(), value, rest))
}

/// What stands before the closing quote, and what behind it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => {
                // Before a letter that needs none a backslash is itself, as old browsers write it in paths.
                let next = text[at + 1..].chars().next().filter(|next| SPECIAL.contains(*next));
                match next {
                    Some(next) => {
                        letters.next();
                        value.push(next);
                    }
                    None => value.push('\\'),
                }
            }
            '\r' | '\n' => return None,
            letter => value.push(letter),
        }
    }
    None
}

/// The token at the beginning, and what follows it.
fn token(text: &str) -> (&str, &str) {
    text.split_at(text.find(|letter| !is_token_letter(letter)).unwrap_or(text.len()))
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_letter)
}

/// RFC 2045's `token`.
fn is_token_letter(letter: char) -> bool {
    letter.is_ascii_graphic() && !SPECIAL.contains(letter)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_type_is_one_with_all_that_follows_it() {
        for text in [
            "application/json",
            " Application/JSON ;",
            "application/json; charset=utf-8",
            "application/json;a=\"\";b=\"x;y\" ; c = d",
            "application/json; a=b; A=b",
        ] {
            assert_eq!(parse(text).as_deref(), Some("application/json"), "{text}");
        }
        assert_eq!(parse("json").as_deref(), Some("json"));
        for text in [
            ";",
            "",
            "application/json, text/html",
            "application/json; charset",
            "application/json;;",
            "application/json;a=",
            "application/",
            "a/b/c",
            "a b",
            "a/b;c=d;c=e",
            "a/b;c=\"d",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
