//! From Go's syntax of regular expressions (`regexp/syntax`, Perl flags) to that of the crate `regex`.

use std::fmt::Write;

/// How often something may be repeated, all nested repetitions together.
const REPEAT_MAX: u64 = 1_000;
/// How deep groups nest.
const DEPTH_MAX: usize = 1_000;
/// The names of classes between colons.
const POSIX: [&str; 14] = ["alnum", "alpha", "ascii", "blank", "cntrl", "digit", "graph", "lower", "print", "punct", "space", "upper", "word", "xdigit"];

/// What is read so far.
struct Reader<'t> {
    /// All of the pattern.
    whole: &'t str,
    /// What is not read yet.
    rest: &'t str,
    out: String,
    /// The open groups, the pattern itself among them.
    groups: Vec<Group>,
}

/// An open group.
#[derive(Default)]
struct Group {
    /// Whether something lies before the next token that can be repeated, and how often its parts are.
    last: Option<u64>,
    /// How often the parts of the group are repeated at most.
    weight: u64,
}

type Read = Result<(), String>;

fn wrong<T>(what: &str, part: &str) -> Result<T, String> {
    Err(format!("{what}: `{part}`"))
}

/// The same pattern in the other syntax.
///
/// # Errors
/// Go's text, after `error parsing regexp: `.
pub(super) fn translate(pattern: &str) -> Result<String, String> {
    let mut reader = Reader { whole: pattern, rest: pattern, out: String::with_capacity(pattern.len() + 16), groups: vec![Group::default()] };
    let mut last_repeat = "";
    while let Some(first) = reader.rest.chars().next() {
        let before = reader.rest;
        let mut repeat = "";
        match first {
            '(' => reader.open()?,
            '|' => {
                reader.take(1);
                reader.out.push('|');
                reader.group().last = None;
            }
            ')' => reader.close()?,
            '^' | '$' | '.' => {
                reader.take(1);
                reader.out.push(first);
                reader.atom(1);
            }
            '[' => reader.class()?,
            '*' | '+' | '?' => {
                reader.take(1);
                reader.repeat(before, last_repeat, u64::from(first == '?').max(1), &before[..1])?;
                repeat = before;
            }
            '{' => match reader.counts() {
                Some((least, most)) => {
                    let length = before.len() - reader.rest.len();
                    let most_or_least = most.unwrap_or(least);
                    if least > REPEAT_MAX || most.is_some_and(|most| most > REPEAT_MAX || most < least) {
                        return wrong("invalid repeat count", &before[..length]);
                    }
                    reader.repeat(before, last_repeat, most_or_least, &before[..length])?;
                    repeat = before;
                }
                None => {
                    reader.take(1);
                    reader.literal('{');
                }
            },
            '\\' => reader.escape()?,
            other => {
                reader.take(other.len_utf8());
                reader.literal(other);
            }
        }
        last_repeat = repeat;
    }
    if reader.groups.len() > 1 {
        return wrong("missing closing )", pattern);
    }
    Ok(reader.out)
}

impl<'t> Reader<'t> {
    fn take(&mut self, bytes: usize) -> &'t str {
        let (taken, rest) = self.rest.split_at(bytes);
        self.rest = rest;
        taken
    }

    fn group(&mut self) -> &mut Group {
        if self.groups.is_empty() {
            self.groups.push(Group::default());
        }
        let at = self.groups.len() - 1;
        &mut self.groups[at]
    }

    /// Something that can be repeated was written.
    fn atom(&mut self, weight: u64) {
        let group = self.group();
        group.last = Some(weight);
        group.weight = group.weight.max(weight);
    }

    fn literal(&mut self, c: char) {
        write_char(&mut self.out, c);
        self.atom(1);
    }

    fn open(&mut self) -> Read {
        if self.groups.len() > DEPTH_MAX {
            return wrong("expression nests too deeply", self.whole);
        }
        if !self.rest.starts_with("(?") {
            self.take(1);
            self.out.push('(');
            self.groups.push(Group::default());
            return Ok(());
        }
        let start = self.rest;
        for opening in ["(?P<", "(?<"] {
            let Some(named) = start.strip_prefix(opening) else { continue };
            let Some(end) = named.find('>') else { return wrong("invalid named capture", start) };
            let name = &named[..end];
            let capture = &start[..opening.len() + end + 1];
            if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'_') {
                return wrong("invalid named capture", capture);
            }
            self.take(capture.len());
            self.out.push('(');
            self.groups.push(Group::default());
            return Ok(());
        }
        self.flags(start)
    }

    /// `(?i)`, `(?i-s:`.
    fn flags(&mut self, start: &'t str) -> Read {
        self.take(2);
        let mut negative = false;
        let mut any = false;
        while let Some(flag) = self.rest.chars().next() {
            self.take(flag.len_utf8());
            match flag {
                'i' | 'm' | 's' | 'U' => any = true,
                '-' if !negative => (negative, any) = (true, false),
                ':' | ')' if !negative || any => {
                    let text = &start[..start.len() - self.rest.len()];
                    // Without flags the crate knows `(?:` alone.
                    if text != "(?)" {
                        self.out.push_str(text);
                    }
                    if flag == ':' {
                        self.groups.push(Group::default());
                    }
                    return Ok(());
                }
                _ => return wrong("invalid or unsupported Perl syntax", &start[..start.len() - self.rest.len()]),
            }
        }
        wrong("missing closing )", self.whole)
    }

    fn close(&mut self) -> Read {
        if self.groups.len() == 1 {
            return wrong("unexpected )", self.whole);
        }
        self.take(1);
        self.out.push(')');
        let weight = self.groups.pop().unwrap_or_default().weight;
        self.atom(weight.max(1));
        Ok(())
    }

    /// What was written last, repeated.
    fn repeat(&mut self, before: &'t str, last_repeat: &'t str, times: u64, operator: &str) -> Read {
        self.out.push_str(operator);
        if self.rest.starts_with('?') {
            self.take(1);
            self.out.push('?');
        }
        let written = |from: &'t str| &from[..from.len() - self.rest.len()];
        if !last_repeat.is_empty() {
            return wrong("invalid nested repetition operator", written(last_repeat));
        }
        let Some(weight) = self.groups.last().and_then(|group| group.last) else {
            return wrong("missing argument to repetition operator", written(before));
        };
        let weight = if operator.starts_with('{') { weight.saturating_mul(times.max(1)) } else { weight };
        if operator.starts_with('{') && weight > REPEAT_MAX {
            return wrong("invalid repeat count", written(before));
        }
        self.atom(weight);
        Ok(())
    }

    /// `{2}`, `{2,}`, `{2,5}`; none where it is no such, and then nothing is read.
    fn counts(&mut self) -> Option<(u64, Option<u64>)> {
        let inside = &self.rest[1..self.rest.find('}')?];
        let number = |text: &str| {
            let canonical = !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
            canonical.then(|| text.parse().unwrap_or(u64::MAX))
        };
        let counts = match inside.split_once(',') {
            None => number(inside).map(|times| (times, Some(times)))?,
            Some((least, "")) => (number(least)?, None),
            Some((least, most)) => (number(least)?, Some(number(most)?)),
        };
        self.take(inside.len() + 2);
        Some(counts)
    }

    fn escape(&mut self) -> Read {
        let start = self.rest;
        let Some(letter) = start[1..].chars().next() else { return wrong("trailing backslash at end of expression", "") };
        match letter {
            'A' | 'z' => self.simple(2, &start[..2]),
            'b' | 'B' => {
                let text = format!("(?-u:{})", &start[..2]);
                self.simple(2, &text);
            }
            'C' => return wrong("invalid escape sequence", "\\C"),
            'Q' => {
                let inside = &start[2..];
                let end = inside.find("\\E");
                for c in inside[..end.unwrap_or(inside.len())].chars() {
                    self.literal(c);
                }
                self.rest = end.map_or("", |end| &inside[end + 2..]);
            }
            'p' | 'P' => {
                let (text, length) = self.unicode()?;
                self.simple(length, &text);
            }
            _ => match perl_class(letter) {
                Some(class) => self.simple(2, class),
                None => {
                    let c = self.escaped_char()?;
                    self.literal(c);
                }
            },
        }
        Ok(())
    }

    fn simple(&mut self, length: usize, text: &str) {
        self.take(length);
        self.out.push_str(text);
        self.atom(1);
    }

    /// `\pL`, `\p{Greek}`, `\P{^Greek}` at the beginning of what is left, with its length.
    fn unicode(&self) -> Result<(String, usize), String> {
        let after = &self.rest[2..];
        let (name, length) = match after.strip_prefix('{') {
            Some(braced) => match braced.find('}') {
                Some(end) => (&braced[..end], end + 4),
                None => return wrong("invalid character class range", self.rest),
            },
            None => match after.chars().next() {
                Some(c) => (&after[..c.len_utf8()], 2 + c.len_utf8()),
                None => return wrong("invalid character class range", self.rest),
            },
        };
        let (negated, name) = name.strip_prefix('^').map_or((false, name), |name| (true, name));
        let negated = negated != self.rest.starts_with("\\P");
        let text = format!("\\{}{{{name}}}", if negated { 'P' } else { 'p' });
        let is_word = !name.is_empty() && name.bytes().all(|c| c.is_ascii_alphabetic() || c == b'_');
        if !is_word || super::build(&text, super::SIZE_LIMIT).is_err() {
            return wrong("invalid character class range", &self.rest[..length]);
        }
        Ok((text, length))
    }

    /// A character behind a backslash.
    fn escaped_char(&mut self) -> Result<char, String> {
        let start = self.rest;
        let mut letters = start[1..].chars();
        let invalid = |length: usize| wrong("invalid escape sequence", &start[..length]);
        let Some(letter) = letters.next() else { return wrong("trailing backslash at end of expression", "") };
        let after = letters.as_str();
        let (c, length) = match letter {
            '1'..='7' if !after.starts_with(|c: char| ('0'..='7').contains(&c)) => return invalid(2),
            '0'..='7' => {
                let digits = start[1..].bytes().take(3).take_while(|c| (b'0'..=b'7').contains(c)).count();
                (u32::from_str_radix(&start[1..1 + digits], 8).ok(), 1 + digits)
            }
            'x' => match after.strip_prefix('{') {
                Some(braced) => {
                    let digits = braced.bytes().take_while(u8::is_ascii_hexdigit).count();
                    if digits == 0 || !braced[digits..].starts_with('}') {
                        return invalid((3 + digits + braced[digits..].chars().next().map_or(0, char::len_utf8)).min(start.len()));
                    }
                    (u32::from_str_radix(&braced[..digits], 16).ok(), digits + 4)
                }
                None => {
                    let digits = after.bytes().take(2).take_while(u8::is_ascii_hexdigit).count();
                    if digits < 2 {
                        return invalid(2 + after.chars().take(digits + 1).map(char::len_utf8).sum::<usize>());
                    }
                    (u32::from_str_radix(&after[..2], 16).ok(), 4)
                }
            },
            'a' => (Some(7), 2),
            'f' => (Some(12), 2),
            'n' => (Some(10), 2),
            'r' => (Some(13), 2),
            't' => (Some(9), 2),
            'v' => (Some(11), 2),
            c if c.is_ascii() && !c.is_ascii_alphanumeric() => (Some(u32::from(c)), 2),
            c => return invalid(1 + c.len_utf8()),
        };
        match c.and_then(char::from_u32) {
            Some(c) => {
                self.take(length);
                Ok(c)
            }
            None => invalid(length),
        }
    }

    /// `[…]`.
    fn class(&mut self) -> Read {
        let start = self.rest;
        self.take(1);
        self.out.push('[');
        if self.rest.starts_with('^') {
            self.take(1);
            self.out.push('^');
        }
        let mut first = true;
        while first || !self.rest.starts_with(']') {
            first = false;
            if let Some(end) = self.rest.strip_prefix("[:").and_then(|inside| inside.find(":]")) {
                let name = &self.rest[2..2 + end];
                if !POSIX.contains(&name.strip_prefix('^').unwrap_or(name)) {
                    return wrong("invalid character class range", &self.rest[..end + 4]);
                }
                let text = self.take(end + 4);
                self.out.push_str(text);
                continue;
            }
            if self.rest.starts_with("\\p") || self.rest.starts_with("\\P") {
                let (text, length) = self.unicode()?;
                self.take(length);
                self.out.push_str(&text);
                continue;
            }
            if let Some(class) = self.rest.strip_prefix('\\').and_then(|rest| rest.chars().next()).and_then(perl_class) {
                self.take(2);
                self.out.push_str(class);
                continue;
            }
            let range = self.rest;
            let low = self.class_char(start)?;
            write_char(&mut self.out, low);
            if self.rest.len() >= 2 && self.rest.starts_with('-') && !self.rest.starts_with("-]") {
                self.take(1);
                let high = self.class_char(start)?;
                if high < low {
                    return wrong("invalid character class range", &range[..range.len() - self.rest.len()]);
                }
                self.out.push('-');
                write_char(&mut self.out, high);
            }
        }
        self.take(1);
        self.out.push(']');
        self.atom(1);
        Ok(())
    }

    fn class_char(&mut self, class: &str) -> Result<char, String> {
        match self.rest.chars().next() {
            None => wrong("missing closing ]", class),
            Some('\\') => self.escaped_char(),
            Some(c) => {
                self.take(c.len_utf8());
                Ok(c)
            }
        }
    }
}

/// The ASCII classes behind a backslash.
fn perl_class(letter: char) -> Option<&'static str> {
    Some(match letter {
        'd' => "[0-9]",
        'D' => "[^0-9]",
        's' => "[\\t\\n\\x0c\\r ]",
        'S' => "[^\\t\\n\\x0c\\r ]",
        'w' => "[0-9A-Za-z_]",
        'W' => "[^0-9A-Za-z_]",
        _ => return None,
    })
}

/// A character that stands for itself.
fn write_char(out: &mut String, c: char) {
    if c.is_alphanumeric() || matches!(c, ' ' | '_' | '/' | ',' | ';' | ':' | '@' | '=' | '<' | '>' | '!' | '%' | '"' | '\'') {
        out.push(c);
    } else {
        _ = write!(out, "\\x{{{:x}}}", u32::from(c));
    }
}

#[cfg(test)]
mod tests {
    use super::super::Regex;

    #[test]
    fn a_literal_behind_a_class_that_is_large_backwards_is_found() {
        // The engine looks for the literal first, and from there backwards.
        for (pattern, text, found) in [("[^a]b", "\u{e9}b", true), (r"\W+:", "a :", true), (r"\W\.", "a.", false), ("[^a][^b]x", "\u{65e5}\u{672c}x", true)] {
            assert_eq!(Regex::new(pattern).unwrap().is_match(text), found, "{pattern} {text}");
        }
    }

    #[test]
    fn patterns_mean_what_they_mean_in_go() {
        let known: [(&str, &str, bool); 24] = [
            ("^a.c$", "abc", true),
            ("^a.c$", "a\nc", false),
            (r"^\d+$", "123", true),
            (r"^\d+$", "١٢٣", false),
            (r"^\w$", "é", false),
            (r"\bfoo\b", "a foo b", true),
            ("[[a]]", "[]", true),
            ("[[a]]", "a", false),
            ("^[a&&b]+$", "&ab", true),
            ("^[^a]$", "\n", true),
            (r"^\pL+$", "日本語", true),
            (r"^\p{Greek}$", "α", true),
            (r"^\P{Greek}$", "a", true),
            (r"(?i)STRASSE", "strasse", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\x41\x{42}\103$", "ABC", true),
            ("a{,2}", "a{,2}", true),
            ("^(?P<x>a)(?<y>b)$", "ab", true),
            ("^[[:alpha:]_-]+$", "a-_b", true),
            ("(?s)^a.b$", "a\nb", true),
            ("^(a|b)*?$", "abba", true),
            ("^[]a]+$", "]a", true),
            ("^[a-]$", "-", true),
            ("", "", true),
        ];
        for (pattern, text, matches) in known {
            assert_eq!(Regex::new(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}")).is_match(text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn errors_are_go_s() {
        let known = [
            ("[a", "missing closing ]: `[a`"),
            ("(a", "missing closing ): `(a`"),
            ("a)", "unexpected ): `a)`"),
            ("*a", "missing argument to repetition operator: `*`"),
            ("a|*", "missing argument to repetition operator: `*`"),
            ("a**", "invalid nested repetition operator: `**`"),
            ("a{1001}", "invalid repeat count: `{1001}`"),
            ("(a{100}){100}", "invalid repeat count: `{100}`"),
            ("a{2,1}", "invalid repeat count: `{2,1}`"),
            (r"\y", r"invalid escape sequence: `\y`"),
            (r"\1", r"invalid escape sequence: `\1`"),
            ("\\", "trailing backslash at end of expression: ``"),
            ("(?=a)", "invalid or unsupported Perl syntax: `(?=`"),
            ("(?<=a)b", "invalid named capture: `(?<=a)b`"),
            ("[z-a]", "invalid character class range: `z-a`"),
            (r"\p{Foo}", r"invalid character class range: `\p{Foo}`"),
            ("[[:foo:]]", "invalid character class range: `[:foo:]`"),
            ("(?i", "missing closing ): `(?i`"),
        ];
        for (pattern, error) in known {
            assert_eq!(Regex::new(pattern).map(|_| ()), Err(format!("error parsing regexp: {error}")), "{pattern}");
        }
    }

    #[test]
    fn matches_in_order() {
        let regex = Regex::new("a*").unwrap();
        assert_eq!(regex.find_all("baac", None), ["", "aa", ""]);
        assert_eq!(regex.find_all("baac", Some(1)), [""]);
        assert_eq!(Regex::new("[0-9]+").unwrap().find("a12b3"), Some("12"));
        assert!(Regex::new("(?P<n>a)(?<n>b)").unwrap().is_match("ab"), "names may be there twice");
    }
}
