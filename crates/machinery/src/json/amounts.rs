//! Amounts that a text spells as bare numbers. Go reads the text of such a number: `1e9` stays an amount with an exponent, and all digits
//! of a long one count, of which a number that was read keeps neither.

use super::deep;
use crate::{
    Value, quantity,
    schema::{Type, TypeRef},
};

/// From so many digits on a number may be more than 63 bits hold.
const LONG_DIGITS: usize = 19;

/// Whether a text seems to spell a number with an exponent, or a long one. It may be the part of a text in it; it is no number that is missed.
pub(crate) fn are_spelled(json: &[u8]) -> bool {
    let exponent = |(at, byte): (usize, &u8)| {
        matches!(byte, b'e' | b'E')
            && json.get(at + 1).is_some_and(|next| next.is_ascii_digit() || matches!(next, b'+' | b'-'))
            && ends_in_a_number(&json[..at])
    };
    json.iter().enumerate().any(exponent) || json.split(|byte| !byte.is_ascii_digit()).any(|digits| digits.len() >= LONG_DIGITS)
}

fn ends_in_a_number(before: &[u8]) -> bool {
    let digits = before.iter().rev().take_while(|byte| byte.is_ascii_digit() || **byte == b'.').count();
    let rest = &before[..before.len() - digits];
    let rest = rest.strip_suffix(b"-").unwrap_or(rest);
    digits > 0 && rest.last().is_none_or(|byte| matches!(byte, b':' | b'[' | b',' | b' ' | b'\t' | b'\n' | b'\r'))
}

/// Puts the amounts of a text of JSON, as they are spelled, into what was read of it.
pub(crate) fn respell(json: &[u8], ty: TypeRef<'_>, value: &mut Value) {
    // In a custom object an amount is any text of a form.
    if !ty.schema.is_lenient() && are_spelled(json) {
        Walk { json, at: 0 }.value(Some(ty), Some(value));
    }
}

struct Walk<'j> {
    json: &'j [u8],
    at: usize,
}

impl<'j> Walk<'j> {
    /// The next byte that is no space.
    fn peek(&mut self) -> Option<u8> {
        while self.json.get(self.at).is_some_and(u8::is_ascii_whitespace) {
            self.at += 1;
        }
        self.json.get(self.at).copied()
    }

    /// Steps over a value, and puts the amounts in it into their places. Nothing of what is no JSON.
    fn value(&mut self, ty: Option<TypeRef<'_>>, mut value: Option<&mut Value>) -> Option<()> {
        match self.peek()? {
            // What has no type has no amounts in it, and may be deeper than any stack: the parser has read past it.
            b'{' | b'[' if ty.is_none() => {
                self.at = deep::after_value(self.json, self.at);
                Some(())
            }
            b'{' => self.members(b'}', |walk, _| {
                let key = walk.text()?;
                let key: String = serde_json::from_slice(key).ok()?;
                if walk.peek()? != b':' {
                    return None;
                }
                walk.at += 1;
                let place = value.as_deref_mut().and_then(|value| value.get_mut(&key));
                walk.value(ty.and_then(|ty| ty.child(&key)), place)
            }),
            b'[' => self.members(b']', |walk, at| {
                let place = value.as_deref_mut().and_then(|value| value.get_mut(at));
                walk.value(ty.and_then(TypeRef::elem), place)
            }),
            b'"' => {
                let quoted = self.text()?;
                // Of a key that is there twice the last one counts, and before it may have stood a number.
                set(ty, value, &quoted[1..quoted.len() - 1]);
                Some(())
            }
            _ => {
                let rest = &self.json[self.at..];
                let end = rest.iter().position(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'.' | b'+' | b'-')).unwrap_or(rest.len());
                let literal = rest.get(..end).filter(|literal| !literal.is_empty())?;
                self.at += end;
                if matches!(literal[0], b'-' | b'0'..=b'9') {
                    set(ty, value, literal);
                }
                Some(())
            }
        }
    }

    /// The members of an object or a list, each told its place.
    fn members(&mut self, end: u8, mut each: impl FnMut(&mut Self, usize) -> Option<()>) -> Option<()> {
        self.at += 1;
        if self.peek()? == end {
            self.at += 1;
            return Some(());
        }
        for place in 0.. {
            self.peek()?;
            each(self, place)?;
            let next = self.peek()?;
            self.at += 1;
            if next != b',' {
                return (next == end).then_some(());
            }
        }
        None
    }

    /// A text with its quotes.
    fn text(&mut self) -> Option<&'j [u8]> {
        let rest = self.json.get(self.at..).filter(|rest| rest.first() == Some(&b'"'))?;
        let mut escaped = false;
        let end = rest.iter().skip(1).position(|byte| {
            let ends = *byte == b'"' && !escaped;
            escaped = *byte == b'\\' && !escaped;
            ends
        })?;
        self.at += end + 2;
        rest.get(..end + 2)
    }
}

/// Puts an amount into its place, if one stands there.
fn set(ty: Option<TypeRef<'_>>, value: Option<&mut Value>, spelled: &[u8]) {
    if let (Some(Type::Quantity), Some(value)) = (ty.map(TypeRef::get), value)
        && let Ok(spelled) = std::str::from_utf8(spelled)
        && let Ok(amount) = quantity::canonical(spelled.trim())
    {
        *value = Value::String(amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{json, schema};

    fn hard(body: &str) -> Value {
        let ty = schema::builtin().named("io.k8s.api.core.v1.ResourceQuota");
        json::decode(body.as_bytes(), ty, json::Validation::Strict).unwrap_or_else(|error| panic!("{body}: {error}")).value["spec"]["hard"].clone()
    }

    #[test]
    fn amounts_are_as_they_are_spelled() {
        let body = |amount: &str| format!(r#"{{"metadata": {{"name": "a\"1e5,"}}, "spec": {{"scopes": ["x", "y"], "hard": {{"a\u0062" : {amount} }}}}}}"#);
        for (spelled, amount) in [
            ("1e9", "1e9"),
            ("2.5e-1", "250e-3"),
            ("1E3", "1E3"),
            ("9223372036854775808", "9223372036854775808"),
            ("1.50", "1500m"),
            ("4.0", "4"),
            ("-1", "-1"),
            ("\"1e3\"", "1e3"),
        ] {
            assert_eq!(hard(&body(spelled))["ab"], amount, "{spelled}");
        }
    }

    #[test]
    fn of_an_amount_that_is_there_twice_the_last_counts() {
        let ty = schema::builtin().named("io.k8s.api.core.v1.ResourceQuota");
        for (body, amount) in [(r#"{"spec":{"hard":{"a":1e3,"a":"2"}}}"#, "2"), (r#"{"spec":{"hard":{"a":"2","a":1e3}}}"#, "1e3")] {
            let read = json::decode(body.as_bytes(), ty, json::Validation::Ignore).unwrap_or_else(|error| panic!("{body}: {error}"));
            assert_eq!(read.value["spec"]["hard"]["a"], amount, "{body}");
        }
    }

    #[test]
    fn an_amount_has_no_escapes() {
        let ty = schema::builtin().named("io.k8s.api.core.v1.ResourceQuota");
        let refused = json::decode(br#"{"spec": {"hard": {"cpu": "\u0031"}}}"#, ty, json::Validation::Strict).unwrap_err();
        assert!(refused.message.contains("quantities must match the regular expression"), "{}", refused.message);
    }

    #[test]
    fn what_only_looks_like_a_number_costs_nothing() {
        for json in [r#"{"uid":"6e3c2e5a-13e4-4e5e"}"#, r#"{"a":"1e5"}"#, r#"{"a":1.5,"b":-2}"#, "true", r#"{"e":1}"#] {
            assert!(!are_spelled(json.as_bytes()), "{json}");
        }
    }
}
