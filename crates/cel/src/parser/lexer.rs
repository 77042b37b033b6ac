//! Text to tokens: the longest that fits, as the grammar has it. Positions are in characters.

/// What a token is. Punctuation and operators are told by their text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    Ident,
    /// A name in backticks.
    Escaped,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    /// An operator, a bracket or a word of the grammar (`in`, `true`, `false`, `null`).
    Mark,
    End,
}

/// A token with its text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind,
    pub(super) text: &'a str,
    /// Where it begins, in characters.
    pub(super) at: u32,
}

/// Two characters first: the longest wins.
const MARKS: [&str; 24] = ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":", "+", "*", "/", "%"];

/// The tokens of a text, an `End` last; nothing where some text is no token.
pub(super) fn tokens(text: &str) -> Option<Vec<Token<'_>>> {
    let mut found = Vec::with_capacity(text.len() / 3 + 1);
    let (mut byte, mut at) = (0, 0);
    while byte < text.len() {
        let rest = &text[byte..];
        let blank = blank(rest);
        if blank > 0 {
            at += characters(&rest[..blank]);
            byte += blank;
            continue;
        }
        let (kind, length) = token(rest)?;
        found.push(Token { kind, text: &rest[..length], at });
        at += characters(&rest[..length]);
        byte += length;
    }
    found.push(Token { kind: TokenKind::End, text: "<EOF>", at });
    Some(found)
}

fn characters(text: &str) -> u32 {
    text.chars().count() as u32
}

/// The length of the white space or comment that stands first.
pub(super) fn blank(text: &str) -> usize {
    if text.starts_with("//") {
        return text.find('\n').unwrap_or(text.len());
    }
    text.find(|c| !matches!(c, ' ' | '\t' | '\r' | '\n' | '\x0c')).unwrap_or(text.len())
}

/// The token that stands first, and its length.
pub(super) fn token(text: &str) -> Option<(TokenKind, usize)> {
    let first = *text.as_bytes().first()?;
    if let Some(length) = string(text) {
        return Some((TokenKind::String, length));
    }
    if matches!(first, b'b' | b'B')
        && let Some(length) = string(&text[1..])
    {
        return Some((TokenKind::Bytes, length + 1));
    }
    if first.is_ascii_alphabetic() || first == b'_' {
        let length = run(text, |c| c.is_ascii_alphanumeric() || c == b'_');
        let kind = if matches!(&text[..length], "in" | "true" | "false" | "null") { TokenKind::Mark } else { TokenKind::Ident };
        return Some((kind, length));
    }
    if first == b'`' {
        let inside = run(&text[1..], |c| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'.' | b'-' | b'/' | b' '));
        return (inside > 0 && text.as_bytes().get(inside + 1) == Some(&b'`')).then_some((TokenKind::Escaped, inside + 2));
    }
    if let Some(found) = number(text) {
        return Some(found);
    }
    MARKS.iter().find(|mark| text.starts_with(**mark)).map(|mark| (TokenKind::Mark, mark.len()))
}

/// The bytes at the beginning that are of a kind.
fn run(text: &str, is: impl Fn(u8) -> bool) -> usize {
    text.bytes().position(|byte| !is(byte)).unwrap_or(text.len())
}

fn digits(text: &str) -> usize {
    run(text, |byte| byte.is_ascii_digit())
}

/// A number: whole, with `u`, or with a point or an exponent.
fn number(text: &str) -> Option<(TokenKind, usize)> {
    let whole = digits(text);
    if let Some(rest) = text.strip_prefix("0x") {
        let hex = run(rest, |byte| byte.is_ascii_hexdigit());
        if hex > 0 {
            return Some(whole_number(text, hex + 2));
        }
    }
    let mut length = whole;
    if text[whole..].starts_with('.') {
        let fraction = digits(&text[whole + 1..]);
        if fraction > 0 {
            length = whole + 1 + fraction;
        }
    }
    if length == 0 {
        return None;
    }
    let exponent = exponent(&text[length..]);
    if length > whole || exponent > 0 {
        return Some((TokenKind::Float, length + exponent));
    }
    Some(whole_number(text, whole))
}

fn whole_number(text: &str, length: usize) -> (TokenKind, usize) {
    match text.as_bytes().get(length) {
        Some(b'u' | b'U') => (TokenKind::Uint, length + 1),
        _ => (TokenKind::Int, length),
    }
}

/// The length of `e+10`; nothing where no digit follows.
fn exponent(text: &str) -> usize {
    if !text.starts_with(['e', 'E']) {
        return 0;
    }
    let sign = usize::from(text[1..].starts_with(['+', '-']));
    match digits(&text[1 + sign..]) {
        0 => 0,
        length => 1 + sign + length,
    }
}

/// The length of the string that stands first: with one or three quotes, raw or not.
fn string(text: &str) -> Option<usize> {
    let raw = usize::from(text.starts_with(['r', 'R']));
    let body = &text[raw..];
    let quote = *body.as_bytes().first().filter(|quote| matches!(quote, b'"' | b'\''))?;
    let three = if quote == b'"' { "\"\"\"" } else { "'''" };
    if let Some(inside) = body.strip_prefix(three)
        && let Some(length) = inside_length(inside, three, raw > 0, true)
    {
        return Some(raw + 3 + length + 3);
    }
    inside_length(&body[1..], &three[..1], raw > 0, false).map(|length| raw + 1 + length + 1)
}

/// How much stands before the end of a string.
fn inside_length(text: &str, end: &str, raw: bool, lines: bool) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if text.as_bytes()[at..].starts_with(end.as_bytes()) {
            return Some(at);
        }
        match bytes[at] {
            b'\\' if !raw => at += escape(&bytes[at + 1..])? + 1,
            b'\n' | b'\r' if !lines => return None,
            _ => at += 1,
        }
    }
    None
}

/// The length of an escape behind its backslash.
fn escape(bytes: &[u8]) -> Option<usize> {
    let hex = |count: usize| (bytes.len() > count && bytes[1..=count].iter().all(u8::is_ascii_hexdigit)).then_some(count + 1);
    match bytes.first()? {
        b'a' | b'b' | b'f' | b'n' | b'r' | b't' | b'v' | b'"' | b'\'' | b'\\' | b'?' | b'`' => Some(1),
        b'x' | b'X' => hex(2),
        b'u' => hex(4),
        b'U' => hex(8),
        b'0'..=b'3' => (bytes.len() > 2 && bytes[1..=2].iter().all(|byte| matches!(byte, b'0'..=b'7'))).then_some(3),
        _ => None,
    }
}
