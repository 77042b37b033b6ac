//! Texts that libyaml reads and the parser refuses, written so that it reads them too, with the same meaning and on the same lines:
//! a tab between a colon and its value, and quoted text, or what stands in brackets, that goes on left of what it stands in.

/// Bytes of texts that are read for one: each reading ends at the next place that must be mended.
pub(super) const READ_BYTES_MAX: usize = 4 << 20;
/// Columns that a line within brackets is moved by, as often as it takes.
const STEP_COLUMNS: usize = 8;
/// Columns that a line is moved by at most, and bytes that all are.
const COLUMNS_MAX: usize = 1000;
const MOVED_BYTES_MAX: usize = 1 << 20;

/// What the parser refuses, with its place in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Tabs behind a colon; the place is behind them.
    Tab(usize),
    /// A quoted text; the place is that of its first quote.
    Quoted(usize),
    /// What begins a line within brackets; the place is its own.
    Bracketed(usize),
}

impl Refused {
    /// By the parser's words.
    pub(super) fn of(info: &str, place: usize) -> Option<Self> {
        match info {
            "':' must be followed by a valid YAML whitespace" => Some(Refused::Tab(place)),
            "invalid indentation in quoted scalar" => Some(Refused::Quoted(place)),
            "invalid indentation" | "invalid indentation in flow construct" => Some(Refused::Bracketed(place)),
            _ => None,
        }
    }

    /// The text with this one place mended.
    pub(super) fn mend(self, text: &str) -> Option<String> {
        let place = |at: usize| text.char_indices().nth(at).map(|(byte, _)| text.split_at(byte));
        match self {
            Refused::Tab(at) => {
                let (before, value) = place(at)?;
                let key = before.trim_end_matches('\t');
                let tabs = before.len() - key.len();
                (key.ends_with(':') && tabs > 0).then(|| format!("{key}{}{value}", " ".repeat(tabs)))
            }
            Refused::Quoted(at) => {
                let (before, quoted) = place(at)?;
                moved(before, quoted)
            }
            Refused::Bracketed(at) => {
                let (before, line) = place(at)?;
                let begun = before.trim_end_matches([' ', '\t']);
                let begins = begun.ends_with(['\n', '\r']) && before.len() - begun.len() <= COLUMNS_MAX;
                begins.then(|| format!("{before}{}{line}", " ".repeat(STEP_COLUMNS)))
            }
        }
    }
}

/// Moves what follows the first line of a quoted text to the right of its quote: the blanks before a line are no part of it.
fn moved(before: &str, quoted: &str) -> Option<String> {
    let column = before.chars().rev().take_while(|c| !matches!(c, '\n' | '\r')).count();
    let mut rest = quoted.chars();
    let quote = rest.next().filter(|c| matches!(c, '"' | '\''))?;
    let mut out = format!("{before}{quote}");
    let (mut left, mut escaped) = (MOVED_BYTES_MAX, false);
    loop {
        let c = rest.next()?;
        out.push(c);
        match c {
            '\r' if rest.as_str().starts_with('\n') => {}
            '\n' | '\r' => {
                left = left.checked_sub(column).filter(|_| column <= COLUMNS_MAX)?;
                out.push_str(&" ".repeat(column));
                escaped = false;
            }
            '\\' if quote == '"' => escaped = !escaped,
            // Two single quotes are one within, and begin and end nothing.
            c if c == quote && !escaped && !(quote == '\'' && rest.as_str().starts_with('\'')) => return Some(out + rest.as_str()),
            '\'' if quote == '\'' => out.extend(rest.next()),
            _ => escaped = false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_is_mended_at_a_time() {
        assert_eq!(Refused::Tab(5).mend("é:\tx\nb:\t\ty").as_deref(), None, "it is not behind tabs");
        assert_eq!(Refused::Tab(9).mend("é: x\nb:\t\ty").as_deref(), Some("é: x\nb:  y"));
        assert_eq!(Refused::Quoted(3).mend("a: 'x\n\n''y'\nb: 1").as_deref(), Some("a: 'x\n   \n   ''y'\nb: 1"));
        assert_eq!(Refused::Quoted(3).mend("a: \"x\\\\\ny\\\"\nz\" #\n\"").as_deref(), Some("a: \"x\\\\\n   y\\\"\n   z\" #\n\""));
        assert_eq!(Refused::Quoted(4).mend("\ra: 'x\r\ny\rz'").as_deref(), Some("\ra: 'x\r\n   y\r   z'"));
        assert_eq!(Refused::Quoted(3).mend("a: 'x\ny"), None);
        assert_eq!(Refused::Bracketed(5).mend("a: {\nb: 1}").as_deref(), Some("a: {\n        b: 1}"));
        assert_eq!(Refused::Bracketed(3).mend("a: {b: 1}"), None);
    }
}
