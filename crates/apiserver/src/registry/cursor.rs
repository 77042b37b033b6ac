//! Continue tokens: where the next page of a list starts, and at which revision. The form is upstream's: base64url of
//! `{"v":"meta.k8s.io/v1","rv":REVISION,"start":KEY}`, where a start that ends in a zero byte means "after". Ours also tell
//! how many objects are left, so that no page has to count them.

use base64::{DecodeError, Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use machinery::status::Status;
use serde::{Deserialize, Serialize};

const VERSION: &str = "meta.k8s.io/v1";

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

#[derive(Serialize, Deserialize)]
struct Token {
    #[serde(default)]
    v: String,
    #[serde(default)]
    rv: i64,
    #[serde(default)]
    start: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    left: Option<u64>,
}

impl Cursor {
    /// Encodes the token.
    pub(crate) fn encode(&self) -> String {
        let rv = self.revision.and_then(|r| i64::try_from(r).ok()).unwrap_or(-1);
        let token = Token { v: VERSION.into(), rv, start: format!("{}\0", self.after), left: self.left };
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(&token).unwrap_or_default())
    }

    /// Decodes a token; 400 in upstream's words.
    pub(crate) fn decode(text: &str) -> Result<Cursor, Status> {
        let bad = |why: &str| Status::bad_request(format!("invalid continue token: continue key is not valid: {why}"));
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|error| {
            let at = match error {
                DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _) => at,
                DecodeError::InvalidLength(length) => length - length % 4,
                DecodeError::InvalidPadding => text.len(),
            };
            bad(&format!("illegal base64 data at input byte {at}"))
        })?;
        let wrong = |e: serde_json::Error| bad(&machinery::json::syntax_error(&bytes).unwrap_or_else(|| e.to_string()));
        let token: Token = serde_json::from_slice(&bytes).map_err(wrong)?;
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
        if parts.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(bad(&token.start));
        }
        let after = token.start.strip_suffix('\0').unwrap_or(&token.start).to_owned();
        Ok(Cursor { revision: u64::try_from(token.rv).ok(), after, left: token.left })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let cursor = Cursor { revision: Some(7), after: "default/a".into(), left: Some(3) };
        assert_eq!(Cursor::decode(&cursor.encode()).unwrap(), cursor);
        let any = Cursor { revision: None, after: "a".into(), left: None };
        assert_eq!(Cursor::decode(&any.encode()).unwrap(), any);
        assert_eq!(Cursor::decode("%%").unwrap_err().code, 400);
    }
}
