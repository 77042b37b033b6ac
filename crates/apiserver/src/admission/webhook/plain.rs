//! The answer that most webhooks give to most writes, read without a tree: yes, perhaps with a patch.
//!
//! What is anything else in whatever way is left to [`super::review`], which tells what is wrong with it.

use super::review::Verdict;
use machinery::{Value, json};
use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{fmt, marker::PhantomData};

const API_VERSION: &str = "admission.k8s.io/v1";

/// An object of JSON: the library takes a list for one, too.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }

        deserializer.deserialize_map(Fields(PhantomData))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Answer<'a> {
    kind: &'a str,
    api_version: &'a str,
    #[serde(borrow)]
    response: Object<Response<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Response<'a> {
    uid: &'a str,
    allowed: bool,
    patch: Option<&'a str>,
    patch_type: Option<&'a str>,
    /// What a yes says in it is told to nobody.
    #[serde(borrow)]
    #[serde(rename = "status")]
    _status: Option<Object<Status<'a>>>,
}

/// As controller-runtime writes it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Status<'a> {
    #[serde(rename = "metadata")]
    _metadata: Option<Object<Nothing>>,
    #[serde(rename = "message")]
    _message: Option<&'a str>,
    #[serde(rename = "reason")]
    _reason: Option<&'a str>,
    #[serde(rename = "code")]
    _code: Option<i32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// The verdict, if the answer is a plain yes to the review (v1) of this UID.
pub(super) fn yes(body: &[u8], uid: &str, mutating: bool) -> Option<Verdict> {
    let Object(Answer { kind, api_version, response: Object(response) }) = serde_json::from_slice(body).ok()?;
    if (kind, api_version, response.uid, response.allowed) != ("AdmissionReview", API_VERSION, uid, true) {
        return None;
    }
    let (patch, patch_type) = match (response.patch.unwrap_or_default(), response.patch_type) {
        ("", None) => (Vec::new(), ""),
        (patch, Some("JSONPatch")) if mutating && !patch.is_empty() => (json::base64(patch).ok().filter(|patch| !patch.is_empty())?, "JSONPatch"),
        _ => return None,
    };
    Some(Verdict { allowed: true, patch, patch_type: patch_type.to_owned(), result: Value::Null, warnings: Vec::new() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(rest: &str) -> Option<Verdict> {
        let body = format!(r#"{{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{{"uid":"u"{rest}}}}}"#);
        yes(body.as_bytes(), "u", true)
    }

    #[test]
    fn only_a_plain_yes_is_one() {
        for plain in [
            r#","allowed":true"#,
            r#","allowed":true,"status":{"metadata":{},"code":200}"#,
            r#","allowed":true,"status":null,"patch":null"#,
            r#","allowed":true,"patch":"W10=","patchType":"JSONPatch""#,
        ] {
            assert!(answer(plain).is_some(), "{plain}");
        }
        for other in [
            "",
            r#","allowed":false"#,
            r#","allowed":"true""#,
            r#","allowed":true,"allowed":true"#,
            r#","allowed":true,"warnings":["a"]"#,
            r#","allowed":true,"auditAnnotations":{}"#,
            r#","allowed":true,"patch":"W10=""#,
            r#","allowed":true,"patch":"!","patchType":"JSONPatch""#,
            r#","allowed":true,"patchType":"JSONPatch""#,
            r#","allowed":true,"patch":"W10=","patchType":"Other""#,
            r#","allowed":true,"status":[]"#,
            r#","allowed":true,"status":{"code":"a"}"#,
            r#","allowed":true}}{"#,
            r#","allowed":true},"response":{"uid":"u","allowed":true"#,
        ] {
            assert!(answer(other).is_none(), "{other}");
        }
        let body =
            br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":{"uid":"u","allowed":true,"patch":"W10=","patchType":"JSONPatch"}}"#;
        assert!(yes(body, "u", false).is_none(), "who validates changes nothing");
        assert!(yes(body, "v", true).is_none(), "it is to another question");
        let list = br#"{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","response":["u",true,null,null,null]}"#;
        assert!(yes(list, "u", true).is_none(), "a list is no object");
    }
}
