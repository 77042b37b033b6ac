//! Tokens as numbers, sets of them as bits, and texts that are no token.

use crate::issues::Issue;
use crate::parser::lexer::{self, Token, TokenKind};
use crate::source::Source;

/// The names by which errors call tokens, in the order of the original's numbers; the end of the text is 0.
const NAMES: [&str; 36] = [
    "<EOF>",
    "'=='",
    "'!='",
    "'in'",
    "'<'",
    "'<='",
    "'>='",
    "'>'",
    "'&&'",
    "'||'",
    "'['",
    "']'",
    "'{'",
    "'}'",
    "'('",
    "')'",
    "'.'",
    "','",
    "'-'",
    "'!'",
    "'?'",
    "':'",
    "'+'",
    "'*'",
    "'/'",
    "'%'",
    "'true'",
    "'false'",
    "'null'",
    "NUM_FLOAT",
    "NUM_INT",
    "NUM_UINT",
    "STRING",
    "BYTES",
    "IDENTIFIER",
    "ESC_IDENTIFIER",
];

/// A set of tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Set(pub(super) u64);

impl Set {
    pub(super) fn has(self, token: u8) -> bool {
        self.0 & (1 << token) != 0
    }

    pub(super) fn with(self, other: Set) -> Set {
        Set(self.0 | other.0)
    }

    /// The tokens of these names.
    pub(super) fn of(names: &[&str]) -> Set {
        names.iter().fold(Set::default(), |set, name| set.with(Set(1 << number(name))))
    }
}

impl std::fmt::Display for Set {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<&str> = (0..NAMES.len() as u8).filter(|token| self.has(*token)).map(|token| NAMES[usize::from(token)]).collect();
        match names.as_slice() {
            [name] => f.write_str(name),
            _ => write!(f, "{{{}}}", names.join(", ")),
        }
    }
}

fn number(name: &str) -> u8 {
    NAMES.iter().position(|known| known.trim_matches('\'') == name).unwrap_or(0) as u8
}

/// A token by its number.
pub(super) fn kind(token: &Token<'_>) -> u8 {
    number(match token.kind {
        TokenKind::Ident => "IDENTIFIER",
        TokenKind::Escaped => "ESC_IDENTIFIER",
        TokenKind::Int => "NUM_INT",
        TokenKind::Uint => "NUM_UINT",
        TokenKind::Float => "NUM_FLOAT",
        TokenKind::String => "STRING",
        TokenKind::Bytes => "BYTES",
        TokenKind::Mark => token.text,
        TokenKind::End => "<EOF>",
    })
}

/// The tokens of a text, an `End` last.
pub(in crate::parser) struct Read<'a> {
    pub(in crate::parser) tokens: Vec<Token<'a>>,
    /// An error for each part that is no token.
    pub(in crate::parser) errors: Vec<Issue>,
    /// Where those parts begin and end, in characters.
    pub(super) unread: Vec<(u32, u32)>,
}

/// Reads a text.
pub(in crate::parser) fn read<'a>(text: &'a str, source: &Source) -> Read<'a> {
    let (mut found, mut errors, mut unread) = (Vec::new(), Vec::new(), Vec::new());
    let (mut byte, mut at) = (0, 0);
    while byte < text.len() {
        let rest = &text[byte..];
        let length = match (lexer::blank(rest), lexer::token(rest)) {
            (0, Some((kind, length))) => {
                found.push(Token { kind, text: &rest[..length], at });
                length
            }
            (0, None) => {
                let progress = progress(rest);
                // The character at which it failed is passed over too.
                let length = progress + rest[progress..].chars().next().map_or(0, char::len_utf8);
                let message = format!("Syntax error: token recognition error at: '{}'", &rest[..length]);
                errors.push(Issue { id: 0, location: Some(source.location_at(at)), message });
                unread.push((at, at + rest[..length].chars().count() as u32));
                length
            }
            (blank, _) => blank,
        };
        at += rest[..length].chars().count() as u32;
        byte += length;
    }
    found.push(Token { kind: TokenKind::End, text: "<EOF>", at });
    Read { tokens: found, errors, unread }
}

/// How far a text that is no token looks like one.
fn progress(text: &str) -> usize {
    let bytes = text.as_bytes();
    match bytes[0] {
        b'&' | b'|' | b'=' => 1,
        b'`' => 1 + bytes[1..].iter().take_while(|byte| byte.is_ascii_alphanumeric() || b"_.-/ ".contains(byte)).count(),
        quote @ (b'"' | b'\'') => string_progress(bytes, quote),
        _ => 0,
    }
}

fn string_progress(bytes: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < bytes.len() && ![quote, b'\n', b'\r'].contains(&bytes[at]) {
        if bytes[at] != b'\\' {
            at += 1;
            continue;
        }
        let Some(escape) = bytes.get(at + 1) else { return at + 1 };
        let (digits, is_digit): (usize, fn(&u8) -> bool) = match escape {
            b'x' | b'X' => (2, u8::is_ascii_hexdigit),
            b'u' => (4, u8::is_ascii_hexdigit),
            b'U' => (8, u8::is_ascii_hexdigit),
            b'0'..=b'3' => (2, |byte| matches!(byte, b'0'..=b'7')),
            _ if b"abfnrtv\"'\\?`".contains(escape) => (0, |_| false),
            _ => return at + 1,
        };
        let good = bytes[at + 2..].iter().take(digits).take_while(|byte| is_digit(byte)).count();
        at += 2 + good;
        if good < digits {
            return at;
        }
    }
    at
}
