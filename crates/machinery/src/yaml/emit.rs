//! Writing YAML as go-yaml does for the original: JSON text in, YAML out, window by window.
//!
//! Mappings are indented by two, lists in mappings stand under their key; text is plain where that reads as text again, literal
//! where it has lines, otherwise quoted, and folded at spaces behind column 80. Keys are sorted so that numbers in them count
//! as such. Nothing is held but the JSON and the open containers, so that a value nested ten thousand levels
//! deep, whose indentation alone takes a hundred megabytes, leaves in pieces.
//!
//! Source: `sigs.k8s.io/yaml` `JSONToYAML`, and the emitter of `go.yaml.in/yaml/v2`.

use super::scalar;
use crate::Value;

/// The column behind which text is folded.
const WIDTH: usize = 80;
/// Bytes of a key up to which it stands on a line with its value.
const SIMPLE_KEY_MAX: usize = 128;

/// An open container.
struct Open {
    is_list: bool,
    indent: usize,
}

/// What stands before a value.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// A key with its colon.
    Key,
    /// A dash, or the mark of a long key or its value: a container begins on the same line.
    Mark,
}

/// Writes one value.
pub struct Emitter {
    json: Vec<u8>,
    at: usize,
    open: Vec<Open>,
    before: Before,
    /// Where the first line stands; lines further on are indented by the container.
    base: usize,
    column: usize,
    begun: bool,
}

impl Emitter {
    /// A document.
    pub fn new(value: &Value) -> Emitter {
        Emitter { json: crate::json::encode_for_yaml(value), at: 0, open: Vec::new(), before: Before::Nothing, base: 0, column: 0, begun: false }
    }

    /// An element of a list that is not indented itself, after its dash.
    pub fn element(value: &Value) -> Emitter {
        Emitter { before: Before::Mark, ..Emitter::new(value) }
    }

    /// Writes until there are `limit` bytes or more in `out`; true at the end.
    pub fn window(&mut self, limit: usize, out: &mut Vec<u8>) -> bool {
        if !self.begun {
            self.begun = true;
            if self.before == Before::Mark {
                self.put(b"-", out);
                self.open.push(Open { is_list: true, indent: 0 });
                self.base = 1;
            }
        }
        while out.len() < limit {
            if self.open.len() == self.base && self.at == self.json.len() {
                self.end_line(out);
                return true;
            }
            self.step(out);
        }
        false
    }

    /// The next token.
    fn step(&mut self, out: &mut Vec<u8>) {
        let Some(byte) = self.json.get(self.at).copied() else { return };
        match byte {
            b',' | b':' => self.at += 1,
            b'}' | b']' => {
                self.at += 1;
                self.open.pop();
            }
            b'{' | b'[' => self.container(byte, out),
            _ if self.awaits_key() => self.key(out),
            _ => {
                self.element_mark(out);
                let text = self.scalar();
                let indent = self.open.last().map_or(2, |open| open.indent + 2);
                self.text(&text, indent, false, out);
                self.before = Before::Nothing;
            }
        }
    }

    fn awaits_key(&self) -> bool {
        self.before == Before::Nothing && self.open.last().is_some_and(|open| !open.is_list) || self.before == Before::Mark && self.is_first_key()
    }

    /// A mapping that stands behind a dash has its first key on that line.
    fn is_first_key(&self) -> bool {
        self.at > 0 && self.json[self.at - 1] == b'{'
    }

    fn container(&mut self, byte: u8, out: &mut Vec<u8>) {
        self.element_mark(out);
        let is_list = byte == b'[';
        let parent = self.open.last().map(|open| open.indent);
        if matches!(self.json.get(self.at + 1), Some(b'}' | b']')) {
            self.at += 2;
            self.put(if parent.is_some() { b" " } else { b"" }, out);
            self.put(if is_list { b"[]" } else { b"{}" }, out);
            self.before = Before::Nothing;
            return;
        }
        self.at += 1;
        let indent = match (parent, self.before) {
            (None, _) => 0,
            (Some(indent), Before::Key) if is_list => indent,
            (Some(indent), _) => indent + 2,
        };
        self.open.push(Open { is_list, indent });
        match self.before {
            Before::Mark if is_list => {
                self.put(b" -", out);
            }
            Before::Mark => self.put(b" ", out),
            Before::Key | Before::Nothing if is_list => {
                self.line(indent, out);
                self.put(b"-", out);
                self.before = Before::Mark;
            }
            Before::Key | Before::Nothing => self.before = Before::Nothing,
        }
    }

    /// The dash of a list's next element, unless the list has just begun with one.
    fn element_mark(&mut self, out: &mut Vec<u8>) {
        if let (Before::Nothing, Some(Open { is_list: true, indent })) = (self.before, self.open.last()) {
            self.line(*indent, out);
            self.put(b"-", out);
            self.before = Before::Mark;
        }
    }

    fn key(&mut self, out: &mut Vec<u8>) {
        let key = self.scalar();
        let Scalar::Text(text) = key else { return };
        let indent = self.open.last().map_or(0, |open| open.indent);
        if self.before != Before::Mark {
            self.line(indent, out);
        }
        let is_simple = text.len() <= SIMPLE_KEY_MAX && !text.contains(is_break);
        if is_simple {
            self.bare_text(&text, indent, true, out);
            self.put(b":", out);
            self.before = Before::Key;
        } else {
            self.put(b"? ", out);
            self.bare_text(&text, indent + 2, false, out);
            self.line(indent, out);
            self.put(b":", out);
            self.before = Before::Mark;
        }
    }

    /// The scalar that begins here.
    fn scalar(&mut self) -> Scalar {
        let start = self.at;
        self.at = match self.json[start] {
            b'"' => crate::json::after_string(&self.json, start),
            _ => start + self.json[start..].iter().take_while(|b| !matches!(b, b',' | b']' | b'}')).count(),
        };
        let token = &self.json[start..self.at];
        match serde_json::from_slice::<Value>(token) {
            Ok(Value::String(text)) => Scalar::Text(text),
            Ok(Value::Number(number)) => Scalar::Other(number_text(&number)),
            _ => Scalar::Other(String::from_utf8_lossy(token).into_owned()),
        }
    }

    /// A value behind a key or a dash.
    fn text(&mut self, scalar: &Scalar, indent: usize, is_key: bool, out: &mut Vec<u8>) {
        if !self.open.is_empty() {
            self.put(b" ", out);
        }
        match scalar {
            Scalar::Text(text) => self.bare_text(text, indent, is_key, out),
            Scalar::Other(text) => self.put(text.as_bytes(), out),
        }
    }

    fn bare_text(&mut self, text: &str, indent: usize, is_key: bool, out: &mut Vec<u8>) {
        match Style::of(text, is_key) {
            Style::Plain => self.plain(text, indent, is_key, out),
            Style::Single => {
                self.put(b"'", out);
                self.single(text, indent, is_key, out);
                self.put(b"'", out);
            }
            Style::Double => {
                self.put(b"\"", out);
                self.double(text, indent, is_key, out);
                self.put(b"\"", out);
            }
            Style::Literal => self.literal(text, indent, out),
        }
    }

    fn plain(&mut self, text: &str, indent: usize, is_key: bool, out: &mut Vec<u8>) {
        let mut chars = text.chars().peekable();
        let mut spaces = false;
        while let Some(c) = chars.next() {
            if c == ' ' && !is_key && !spaces && self.column > WIDTH && chars.peek() != Some(&' ') {
                self.line(indent, out);
            } else {
                self.put_char(c, out);
            }
            spaces = c == ' ';
        }
    }

    fn single(&mut self, text: &str, indent: usize, is_key: bool, out: &mut Vec<u8>) {
        let mut chars = text.char_indices().peekable();
        let (mut spaces, mut breaks) = (false, false);
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|(_, c)| *c);
            if c == ' ' && !is_key && !spaces && self.column > WIDTH && at > 0 && next.is_some_and(|next| next != ' ') {
                self.line(indent, out);
            } else if is_break(c) {
                self.put_char(c, out);
                self.column = 0;
            } else {
                if breaks && c != ' ' {
                    self.spaces(indent, out);
                }
                if c == '\'' {
                    self.put(b"'", out);
                }
                self.put_char(c, out);
            }
            spaces = c == ' ';
            breaks = is_break(c) || breaks && c == ' ';
        }
    }

    fn double(&mut self, text: &str, indent: usize, is_key: bool, out: &mut Vec<u8>) {
        let mut chars = text.char_indices().peekable();
        let starts_with_mark = text.starts_with('\u{feff}');
        let mut spaces = false;
        while let Some((at, c)) = chars.next() {
            let next = chars.peek().map(|(_, c)| *c);
            if !is_printable(c) || is_break(c) || starts_with_mark || matches!(c, '"' | '\\') {
                self.escape(c, out);
            } else if c == ' ' && !is_key && !spaces && self.column > WIDTH && at > 0 && next.is_some() {
                self.line(indent, out);
                if next == Some(' ') {
                    self.put(b"\\", out);
                }
            } else {
                self.put_char(c, out);
            }
            spaces = c == ' ';
        }
    }

    fn escape(&mut self, c: char, out: &mut Vec<u8>) {
        let short = match c {
            '\0' => '0',
            '\u{7}' => 'a',
            '\u{8}' => 'b',
            '\t' => 't',
            '\n' => 'n',
            '\u{b}' => 'v',
            '\u{c}' => 'f',
            '\r' => 'r',
            '\u{1b}' => 'e',
            '"' => '"',
            '\\' => '\\',
            '\u{85}' => 'N',
            '\u{a0}' => '_',
            '\u{2028}' => 'L',
            '\u{2029}' => 'P',
            _ => {
                let code = u32::from(c);
                let text = match code {
                    0..=0xff => format!("\\x{code:02X}"),
                    0x100..=0xffff => format!("\\u{code:04X}"),
                    _ => format!("\\U{code:08X}"),
                };
                return self.put(text.as_bytes(), out);
            }
        };
        self.put(b"\\", out);
        self.put_char(short, out);
    }

    /// Lines as they are.
    fn literal(&mut self, text: &str, indent: usize, out: &mut Vec<u8>) {
        self.put(b"|", out);
        if text.starts_with([' ', '\n']) {
            self.put(b"2", out);
        }
        match text.strip_suffix(is_break) {
            None => self.put(b"-", out),
            Some(rest) if rest.is_empty() || rest.ends_with(is_break) => self.put(b"+", out),
            Some(_) => {}
        }
        out.push(b'\n');
        self.column = 0;
        let mut breaks = true;
        for c in text.chars() {
            if is_break(c) {
                self.put_char(c, out);
                self.column = 0;
            } else {
                if breaks {
                    self.spaces(indent, out);
                }
                self.put_char(c, out);
            }
            breaks = is_break(c);
        }
    }

    fn put(&mut self, ascii: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(ascii);
        self.column += ascii.len();
    }

    fn put_char(&mut self, c: char, out: &mut Vec<u8>) {
        let mut bytes = [0; 4];
        out.extend_from_slice(c.encode_utf8(&mut bytes).as_bytes());
        self.column += 1;
    }

    fn spaces(&mut self, count: usize, out: &mut Vec<u8>) {
        out.resize(out.len() + count, b' ');
        self.column = count;
    }

    /// Goes to a new line, unless one has begun already.
    fn line(&mut self, indent: usize, out: &mut Vec<u8>) {
        self.end_line(out);
        self.spaces(indent, out);
    }

    fn end_line(&mut self, out: &mut Vec<u8>) {
        if self.column > 0 {
            out.push(b'\n');
            self.column = 0;
        }
    }
}

enum Scalar {
    Text(String),
    Other(String),
}

/// How a text is written.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Style {
    Plain,
    Single,
    Double,
    Literal,
}

impl Style {
    fn of(text: &str, is_key: bool) -> Style {
        let form = Form::of(text);
        if text.contains('\n') {
            return if form.literal && !is_key { Style::Literal } else { Style::Double };
        }
        let reads_as_text = matches!(scalar::plain(text), Ok(Value::String(_))) && !is_time(text) && !is_base_60(text);
        match reads_as_text {
            true if is_key && text.contains(is_break) => Style::Double,
            true if form.plain => Style::Plain,
            true if form.single => Style::Single,
            _ => Style::Double,
        }
    }
}

/// In which styles a text may be written.
struct Form {
    plain: bool,
    single: bool,
    literal: bool,
}

impl Form {
    fn of(text: &str) -> Form {
        let special = text.chars().any(|c| !is_printable(c));
        let pairs = || text.chars().zip(text.chars().skip(1));
        let space_then_break = pairs().any(|(a, b)| a == ' ' && is_break(b));
        let break_then_space = pairs().any(|(a, b)| is_break(a) && b == ' ');
        let edge = text.starts_with([' ']) || text.ends_with([' ']) || text.starts_with(is_break) || text.ends_with(is_break);
        let quotes = special || space_then_break;
        Form {
            plain: !(quotes || break_then_space || edge || text.contains(is_break) || indicates(text)),
            single: !(quotes || break_then_space),
            literal: !(quotes || text.ends_with(' ')),
        }
    }
}

/// Whether a plain text would be read as something of YAML's own.
fn indicates(text: &str) -> bool {
    let is_blank = |c: Option<char>| c.is_none_or(|c| c == ' ' || c == '\t' || is_break(c));
    let mut chars = text.chars();
    let first = chars.next();
    let second = chars.next();
    let at_first = match first {
        Some('#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@' | '`') => true,
        Some('?' | ':' | '-') => is_blank(second),
        _ => false,
    };
    let later = || {
        let all: Vec<char> = text.chars().collect();
        (1..all.len()).any(|at| all[at] == ':' && is_blank(all.get(at + 1).copied()) || all[at] == '#' && is_blank(Some(all[at - 1])))
    };
    at_first || text.starts_with("---") || text.starts_with("...") || later()
}

/// Whether go-yaml would read a time: a date, one with a clock behind a space, or one with `T`, a clock and a zone.
fn is_time(text: &str) -> bool {
    let Some(at) = text.find(['T', 't', ' ']) else { return is_date(text) };
    let (date, rest) = (&text[..at], &text[at + 1..]);
    let (clock, zone) = rest.split_at(rest.find(['Z', '+', '-']).unwrap_or(rest.len()));
    let is_zone = match zone.as_bytes() {
        _ if text.as_bytes()[at] == b' ' => zone.is_empty(),
        [b'Z'] => true,
        [b'+' | b'-', rest @ ..] => rest.len() == 5 && rest.iter().enumerate().all(|(at, b)| if at == 2 { *b == b':' } else { b.is_ascii_digit() }),
        _ => false,
    };
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let is_clock = matches!(numbers(clock, ':')[..], [Some(..=23), Some(..=59), Some(..=59)]);
    is_date(date) && is_clock && is_zone && !fraction.is_empty() && fraction.bytes().all(|b| b.is_ascii_digit())
}

fn is_date(text: &str) -> bool {
    text.as_bytes().get(4) == Some(&b'-') && matches!(numbers(text, '-')[..], [Some(year), Some(month @ 1..=12), Some(day @ 1..)] if day <= days(year, month))
}

/// The numbers between separators; the first of a date may have four digits, the others two.
fn numbers(text: &str, by: char) -> Vec<Option<u32>> {
    let number = |(at, part): (usize, &str)| {
        let digits = if at == 0 && by == '-' { 4 } else { 2 };
        part.parse().ok().filter(|_| part.len() <= digits && part.bytes().all(|b| b.is_ascii_digit()))
    };
    text.split(by).enumerate().map(number).collect()
}

fn days(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Numbers to the base of 60 are text to go-yaml, which quotes them for others: `[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?`.
fn is_base_60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let Some((first, rest)) = unsigned.split_once(':') else { return false };
    let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    let (rest, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let is_part = |part: &str| matches!(part.as_bytes(), [b'0'..=b'9'] | [b'0'..=b'5', b'0'..=b'9']);
    first.starts_with(|c: char| c.is_ascii_digit()) && is_number(first) && is_number(fraction) && rest.split(':').all(is_part)
}

fn is_break(c: char) -> bool {
    matches!(c, '\r' | '\n' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fefe}' | '\u{ff00}'..='\u{fffd}')
}

/// A number as Go's `%g` writes it, from what JSON's reader makes of it.
fn number_text(number: &serde_json::Number) -> String {
    let Some(float) = number.as_f64().filter(|_| number.is_f64()) else { return number.to_string() };
    let text = format!("{float:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    if !(-4..6).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", power.unsigned_abs());
    }
    float.to_string()
}

#[cfg(test)]
mod tests;
