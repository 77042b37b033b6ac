//! Query strings: parsed once, without copies where nothing is encoded; and the options that they carry, with upstream's
//! wording where they are wrong.

use machinery::{numerals, quote::text_of, status::Status};
use std::borrow::Cow;

/// Parameters that are looked at and told of, and neither stored nor passed on: bytes in them that are no text are told as they are.
const TOLD: [&str; 10] = [
    "continue",
    "dryRun",
    "fieldSelector",
    "fieldValidation",
    "labelSelector",
    "limit",
    "resourceVersion",
    "resourceVersionMatch",
    "timeout",
    "timeoutSeconds",
];

/// A parsed query.
#[derive(Debug, Default, Clone)]
pub struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

impl<'a> Query<'a> {
    /// Parses the part behind `?`, however many parameters it has: each argument of a command is one, and a URI is bounded. What is not
    /// escaped well is not there, nor what holds a semicolon, as Go's `URL.Query` has it.
    pub fn parse(text: &'a str) -> Query<'a> {
        let terms = text.split('&').filter(|term| !term.is_empty() && !term.contains(';') && is_escaped_well(term));
        let pairs = terms.map(|term| {
            let (key, value) = term.split_once('=').unwrap_or((term, ""));
            let key = form_decode(key);
            let value = if TOLD.contains(&&*key) && value.contains('%') { Cow::Owned(text_of(bytes(value, true))) } else { form_decode(value) };
            (key, value)
        });
        Query { pairs: pairs.collect() }
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_ref())
    }

    /// The value of a parameter, empty if absent.
    pub fn text(&self, key: &str) -> &str {
        self.get(key).unwrap_or_default()
    }

    /// Every value of a parameter.
    pub fn all<'q>(&'q self, key: &'q str) -> impl Iterator<Item = &'q str> {
        self.pairs.iter().filter(move |(k, _)| k == key).map(|(_, v)| v.as_ref())
    }

    /// A boolean by upstream's rule of conversion: present and not `false` or `0`.
    pub fn flag(&self, key: &str) -> bool {
        self.get(key).is_some_and(go_bool)
    }

    /// A boolean that may be absent.
    pub fn flag_opt(&self, key: &str) -> Option<bool> {
        self.get(key).map(go_bool)
    }

    /// A number; 400 in the words of Go's `strconv` otherwise.
    pub fn int(&self, key: &str) -> Result<Option<i64>, Status> {
        self.get(key).map(|text| numerals::whole("ParseInt", text).map_err(Status::bad_request)).transpose()
    }

    /// Whether there are no parameters.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }
}

/// Upstream's conversion of query values to booleans: everything but `false` and `0` is true.
pub fn go_bool(text: &str) -> bool {
    !matches!(text.to_ascii_lowercase().as_str(), "false" | "0")
}

/// Whether every `%` of a path is followed by two digits: Go's HTTP server takes no other.
pub fn is_escaped_well(text: &str) -> bool {
    let after = |at: usize| text.as_bytes().get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    text.bytes().enumerate().all(|(at, byte)| byte != b'%' || after(at))
}

/// Decodes `%XX`; what is not valid stays as it is. Bytes that are no UTF-8 are replaced.
pub fn percent_decode(text: &str) -> Cow<'_, str> {
    if text.contains('%') { decode(text, false) } else { Cow::Borrowed(text) }
}

/// The same of a part of a path, whose bytes that are no text are told as they are.
pub(crate) fn path_text(text: &str) -> Cow<'_, str> {
    if text.contains('%') { Cow::Owned(text_of(bytes(text, false))) } else { Cow::Borrowed(text) }
}

/// The same, byte for byte: not all that is escaped is text.
pub(crate) fn percent_bytes(text: &str) -> Vec<u8> {
    bytes(text, false)
}

fn form_decode(text: &str) -> Cow<'_, str> {
    if text.contains(['%', '+']) { decode(text, true) } else { Cow::Borrowed(text) }
}

fn decode(text: &str, plus: bool) -> Cow<'_, str> {
    Cow::Owned(String::from_utf8(bytes(text, plus)).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned()))
}

fn bytes(text: &str, plus: bool) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let hex = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                at += 3;
                continue;
            }
            (b'+', ..) if plus => out.push(b' '),
            _ => out.push(byte),
        }
        at += 1;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded() {
        let q = Query::parse("labelSelector=a%3Db%2Cc+in+%28d%29&limit=5&watch&dryRun=All&x=0");
        assert_eq!(q.get("labelSelector"), Some("a=b,c in (d)"));
        assert_eq!(q.int("limit").ok(), Some(Some(5)));
        assert!(q.flag("watch") && !q.flag("x") && !q.flag("absent"));
        let odd = Query::parse("labelSelector=a%zz&limit=5;watch=1&dryRun=All&field%=x");
        assert_eq!((odd.get("labelSelector"), odd.get("limit"), odd.get("dryRun")), (None, None, Some("All")));
        assert_eq!(percent_decode("a%2"), "a%2");
        let bytes = Query::parse("labelSelector=%ff&fieldManager=%ff");
        let shown = ["labelSelector", "fieldManager"].map(|key| machinery::quote::Quoted(bytes.text(key)).to_string());
        assert_eq!(shown, [r#""\xff""#, "\"\u{fffd}\""]);
    }

    #[test]
    fn no_parameter_is_left_out() {
        let text: String = (0..5000).map(|n| format!("command=a{n}&")).collect::<String>() + "stdout=true";
        let q = Query::parse(&text);
        assert_eq!((q.all("command").count(), q.all("command").last(), q.flag("stdout")), (5000, Some("a4999"), true));
    }

    #[test]
    fn a_bad_number_is_told_as_upstream_does() {
        let error = Query::parse("limit=abc").int("limit").unwrap_err();
        assert_eq!((error.code, error.message.as_str()), (400, "strconv.ParseInt: parsing \"abc\": invalid syntax"));
    }
}
