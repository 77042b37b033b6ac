//! Continue tokens: where the next page of a list starts, and at which revision. The form is upstream's: base64url of
//! `{"v":"meta.k8s.io/v1","rv":REVISION,"start":KEY}`, where a start that ends in a zero byte means "after". Ours also tell
//! how many objects are left, so that no page has to count them, and of what: a token may be sent to another list than its own.

use base64::{
    Engine as _, alphabet,
    engine::{GeneralPurpose, GeneralPurposeConfig, general_purpose::NO_PAD},
};
use machinery::{Value, status::Status, tree::json_type};
use serde::Serialize;

const VERSION: &str = "meta.k8s.io/v1";
/// As Go decodes it, the bits that no byte needs may be any.
const FORGIVING: GeneralPurposeConfig = NO_PAD.with_decode_allow_trailing_bits(true);
const BASE64URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, FORGIVING);

/// A decoded token.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The revision of the snapshot; `None` for "whatever is newest" (an inconsistent continuation).
    pub(crate) revision: Option<u64>,
    /// The last key of the page before, relative to the resource's root.
    pub(crate) after: String,
    /// How many come after it, where that is known.
    pub(crate) left: Option<u64>,
}

#[derive(Serialize)]
struct Token {
    v: String,
    rv: i64,
    start: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
    /// A checksum of the prefix of the keys of which so many are left.
    #[serde(skip_serializing_if = "Option::is_none")]
    of: Option<u32>,
}

impl Token {
    /// Reads a token's fields; what is nothing is left out, and what is of another type is told as Go's `encoding/json` does.
    fn of(told: &Value) -> Result<Token, String> {
        if !matches!(told, Value::Object(_) | Value::Null) {
            return Err(format!("json: cannot unmarshal {} into Go value of type storage.continueToken", json_type(told)));
        }
        // Names are read whatever their case, as Go does.
        let field = |name: &str| match told {
            Value::Object(fields) => fields.get(name).or_else(|| fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)),
            _ => None,
        };
        let wrong = |field: &str, go: &str, value: &Value| {
            // Of a number it is told which one does not fit.
            let number = if go == "int64" && value.is_number() { format!(" {value}") } else { String::new() };
            format!("json: cannot unmarshal {}{number} into Go struct field continueToken.{field} of type {go}", json_type(value))
        };
        let text = |name: &str| match field(name) {
            None | Some(Value::Null) => Ok(String::new()),
            Some(Value::String(text)) => Ok(text.clone()),
            Some(other) => Err(wrong(name, "string", other)),
        };
        let v = text("v")?;
        let rv = match field("rv") {
            None | Some(Value::Null) => 0,
            Some(other) => other.as_i64().ok_or_else(|| wrong("rv", "int64", other))?,
        };
        let of = told["of"].as_u64().and_then(|sum| u32::try_from(sum).ok());
        Ok(Token { v, rv, start: text("start")?, left: told["left"].as_u64(), of })
    }
}

impl Cursor {
    /// Encodes the token of a list of the keys with a prefix.
    pub(crate) fn encode(&self, prefix: &str) -> String {
        let rv = self.revision.and_then(|r| i64::try_from(r).ok()).unwrap_or(-1);
        let token = Token { v: VERSION.into(), rv, start: format!("{}\0", self.after), left: self.left, of: self.left.map(|_| checksum(prefix)) };
        BASE64URL.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Decodes a token for a list of the keys with a prefix; 400 in upstream's words.
    pub(crate) fn decode(text: &str, prefix: &str) -> Result<Cursor, Status> {
        let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let illegal = |at: usize| bad(&format!("illegal base64 data at input byte {at}"));
        // No padding is a part of it: the first letter that is none is told.
        if let Some(at) = text.bytes().position(|byte| !byte.is_ascii_alphanumeric() && !matches!(byte, b'-' | b'_')) {
            return Err(illegal(at));
        }
        let bytes = BASE64URL.decode(text).map_err(|_| illegal(text.len() - text.len() % 4))?;
        let wrong = |e: serde_json::Error| bad(&machinery::json::syntax_error(&bytes).unwrap_or_else(|| e.to_string()));
        let told: Value = serde_json::from_slice(&bytes).map_err(wrong)?;
        let token = Token::of(&told).map_err(|why| bad(&why))?;
        if token.v != VERSION {
            return Err(bad(&format!("server does not recognize this encoded version {}", token.v)));
        }
        if token.rv == 0 {
            return Err(bad("incorrect encoded start resourceVersion (version meta.k8s.io/v1)"));
        }
        if token.start.is_empty() {
            return Err(bad("encoded start key empty (version meta.k8s.io/v1)"));
        }
        let parts = token.start.strip_prefix('/').unwrap_or(&token.start);
        // A slash alone is where all begins.
        if !parts.is_empty() && parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(&token.start));
        }
        let after = parts.strip_suffix('\0').map_or_else(|| before(parts), str::to_owned);
        Ok(Cursor { revision: u64::try_from(token.rv).ok(), after, left: token.left.filter(|_| token.of == Some(checksum(prefix))) })
    }
}

/// A text behind which a key is the first: a start that does not say "after" is itself a part of the page. No key holds the last character.
fn before(key: &str) -> String {
    let mut text = key.to_owned();
    let Some(last) = text.pop() else { return text };
    text.extend((0..u32::from(last)).rev().find_map(char::from_u32));
    text.push(char::MAX);
    text
}

fn checksum(prefix: &str) -> u32 {
    crc32fast::hash(prefix.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let cursor = Cursor { revision: Some(7), after: "default/a".into(), left: Some(3) };
        assert_eq!(Cursor::decode(&cursor.encode("pods/"), "pods/").unwrap(), cursor);
        assert_eq!(Cursor::decode(&cursor.encode("pods/"), "secrets/").unwrap(), Cursor { left: None, ..cursor });
        let any = Cursor { revision: None, after: "a".into(), left: None };
        assert_eq!(Cursor::decode(&any.encode("pods/"), "pods/").unwrap(), any);
        assert_eq!(Cursor::decode("%%", "").unwrap_err().code, 400);
        let upstreams = BASE64URL.encode(r#"{"v":"meta.k8s.io/v1","rv":-1,"start":"/a\u0000"}"#);
        assert_eq!(Cursor::decode(&upstreams, "pods/").unwrap(), any);
        let started = |start: &str| {
            let token = serde_json::json!({"v": "meta.k8s.io/v1", "rv": 7, "start": start});
            Cursor::decode(&BASE64URL.encode(token.to_string()), "pods/").map(|cursor| cursor.after)
        };
        let at = started("default/b").unwrap();
        assert!(at.as_str() < "default/b" && at.as_str() > "default/a-z", "the key itself is a part of the page: {at:?}");
        assert_eq!((started("/").unwrap().as_str(), started("//").unwrap_err().code), ("", 400));
        for (text, at) in [("=", 0), ("abc=", 3), ("abcde", 4)] {
            assert!(Cursor::decode(text, "").unwrap_err().message.ends_with(&format!("input byte {at}")), "{text}");
        }
        for (token, why) in [
            (r#"{"v":"meta.k8s.io/v1","rv":"1","start":"a"}"#, "json: cannot unmarshal string into Go struct field continueToken.rv of type int64"),
            (r#"{"v":"meta.k8s.io/v1","rv":1.5,"start":"a"}"#, "json: cannot unmarshal number 1.5 into Go struct field continueToken.rv of type int64"),
            (r#"{"v":1}"#, "json: cannot unmarshal number into Go struct field continueToken.v of type string"),
            ("[]", "json: cannot unmarshal array into Go value of type storage.continueToken"),
            ("null", "server does not recognize this encoded version "),
            (r#"{"V":"meta.k8s.io/v1","RV":1}"#, "encoded start key empty (version meta.k8s.io/v1)"),
        ] {
            let told = Cursor::decode(&BASE64URL.encode(token), "").unwrap_err().message;
            assert!(told.ends_with(why), "{token}: {told}");
        }
        let told = Cursor::decode("zzz", "").unwrap_err().message;
        assert!(told.contains("invalid character"), "{told}");
    }
}
