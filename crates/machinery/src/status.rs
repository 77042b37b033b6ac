//! `Status`: every error that leaves the API, with upstream's codes, reasons and wording (`apimachinery/pkg/api/errors`).

use crate::quote::{Quoted, replace_bytes};
use crate::{Value, field::ErrorList};
use serde_json::json;
use std::{collections::HashSet, fmt};

/// Errors of one object that are told at most.
pub const ERRORS_MAX: usize = 1_000;
/// Bytes that their texts have together.
const ERRORS_BYTES_MAX: usize = 1 << 20;

/// An error of the API.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// One word for programs: `NotFound`, `Conflict`, …
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// What it is about.
    pub details: Option<Box<Details>>,
    /// What only another's has.
    pub theirs: Option<Box<Theirs>>,
}

/// What a [`Status`] that another server made says besides.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Theirs {
    /// That of a list.
    pub metadata: Value,
    /// Its `status`.
    pub status: String,
}

/// What a [`Status`] is about.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Details {
    /// The object's name.
    pub name: String,
    /// Its group.
    pub group: String,
    /// Its resource or kind.
    pub kind: String,
    /// Its uid.
    pub uid: String,
    /// More than one thing may be wrong.
    pub causes: Vec<Cause>,
    /// When to try again, in seconds; 0 for no advice.
    pub retry_after_seconds: i64,
}

/// One of the causes of a [`Status`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cause {
    /// One word for programs.
    pub reason: String,
    /// A sentence for people.
    pub message: String,
    /// The field in question.
    pub field: String,
}

/// `deployments.apps`, or `pods`.
fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl Status {
    /// From its parts, without details.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self { code, reason: reason.to_owned(), message: message.into(), details: None, theirs: None }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details.get_or_insert_default();
        (details.name, details.group, details.kind) = (name.into(), group.into(), kind.into());
        self
    }

    /// Adds advice on when to try again, in seconds.
    #[must_use]
    pub fn retry_after(mut self, seconds: i64) -> Self {
        self.details.get_or_insert_default().retry_after_seconds = seconds;
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }

    /// 404 for an object.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} not found", qualified(group, resource), Quoted(name));
        Self::new(404, "NotFound", message).about(group, resource, name)
    }

    /// 404 for a path that the server does not serve.
    pub fn path_not_found() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource")
    }

    /// 409 for an object that exists.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let message = format!("{} {} already exists", qualified(group, resource), Quoted(name));
        Self::new(409, "AlreadyExists", message).about(group, resource, name)
    }

    /// 409 for an object that is not as the writer thinks.
    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} {}: {why}", qualified(group, resource), Quoted(name));
        Self::new(409, "Conflict", message).about(group, resource, name)
    }

    /// 409 for an apply that fields of other managers stand against: each cause a message and a field.
    pub fn apply_conflict(message: &str, causes: &[(String, String)]) -> Self {
        let status = Self::new(409, "Conflict", message);
        causes.iter().fold(status, |s, (message, field)| s.cause("FieldManagerConflict", message, field))
    }

    /// 422 for an object with errors: the first thousand of them, and no more than a megabyte of text. (The original tells all, which
    /// for an object of a megabyte can be a gigabyte.)
    pub fn invalid(group: &str, kind: &str, name: &str, errors: ErrorList) -> Self {
        let (mut all, mut bytes) = (Vec::new(), 0);
        for error in errors.iter().take(ERRORS_MAX) {
            let text = error.to_string();
            bytes += text.len();
            if bytes > ERRORS_BYTES_MAX && !all.is_empty() {
                break;
            }
            all.push(text);
        }
        let count = all.len();
        let mut known = HashSet::new();
        let texts: Vec<&str> = all.iter().map(String::as_str).filter(|text| known.insert(*text)).collect();
        let all = match texts.as_slice() {
            [one] => (*one).to_owned(),
            more => format!("[{}]", more.join(", ")),
        };
        let message = format!("{} {} is invalid: {all}", qualified(group, kind), Quoted(name));
        let status = Self::new(422, "Invalid", message).about(group, kind, name);
        errors.iter().take(count).fold(status, |s, e| s.cause(e.kind.reason(), e.body(), e.path.as_str()))
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 403.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let what = qualified(group, resource);
        let message = match (resource, name) {
            ("", _) => format!("forbidden: {why}"),
            (_, "") => format!("{what} is forbidden: {why}"),
            (_, name) => format!("{what} {} is forbidden: {why}", Quoted(name)),
        };
        Self::new(403, "Forbidden", message).about(group, resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 404 for a path that no resource has.
    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with_empty_details()
    }

    /// 405.
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource").with_empty_details()
    }

    /// 406.
    pub fn not_acceptable(accepted: &[impl AsRef<str>]) -> Self {
        let accepted: Vec<&str> = accepted.iter().map(AsRef::as_ref).collect();
        let message = format!("406: Not Acceptable\n\nAvailable representations: {}", accepted.join(", "));
        Self::new(406, "NotAcceptable", message).with_empty_details()
    }

    /// Answers that upstream makes of a code alone have details without anything in them.
    fn with_empty_details(mut self) -> Self {
        self.details = Some(Box::default());
        self
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[impl AsRef<str>]) -> Self {
        let accepted: Vec<&str> = accepted.iter().map(AsRef::as_ref).collect();
        let message = format!("the body of the request was in an unknown format - accepted media types include: {}", accepted.join(", "));
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// 410 for a resourceVersion or continue token that is too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 410 for what will not come back.
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Gone", message)
    }

    /// 413.
    pub fn too_large(message: impl fmt::Display) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: {message}"))
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, "Timeout", message)
    }

    /// 504 for a resourceVersion that this server has not seen yet.
    pub fn too_large_resource_version(wanted: u64, current: u64) -> Self {
        Self::timeout(format!("Timeout: Too large resource version: {wanted}, current: {current}"))
            .cause("ResourceVersionTooLarge", "Too large resource version", "")
            .retry_after(1)
    }

    /// 429, with the time to wait in seconds.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: i64) -> Self {
        Self::new(429, "TooManyRequests", message).retry_after(retry_after_seconds)
    }

    /// 500.
    pub fn internal(message: impl fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {message}")).cause("", message, "")
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The `Status` object.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": self.message, "code": self.code});
        if !self.reason.is_empty() {
            out["reason"] = self.reason.as_str().into();
        }
        if let Some(details) = &self.details {
            out["details"] = details.to_value();
        }
        if let Some(theirs) = &self.theirs {
            out["metadata"] = theirs.metadata.clone();
            out["status"] = theirs.status.as_str().into();
        }
        replace_bytes(&mut out);
        out
    }

    /// The error in a `Status` object.
    pub fn from_value(value: &Value) -> Self {
        let text = |v: &Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
        let causes = value["details"]["causes"].as_array().map_or(&[][..], Vec::as_slice);
        Self {
            code: value["code"].as_u64().and_then(|c| u16::try_from(c).ok()).unwrap_or(0),
            reason: text(value, "reason"),
            message: text(value, "message"),
            details: value["details"].is_object().then(|| {
                Box::new(Details {
                    name: text(&value["details"], "name"),
                    group: text(&value["details"], "group"),
                    kind: text(&value["details"], "kind"),
                    uid: text(&value["details"], "uid"),
                    causes: causes.iter().map(|c| Cause { reason: text(c, "reason"), message: text(c, "message"), field: text(c, "field") }).collect(),
                    retry_after_seconds: value["details"]["retryAfterSeconds"].as_i64().unwrap_or(0),
                })
            }),
            theirs: None,
        }
    }
}

impl Details {
    fn to_value(&self) -> Value {
        let mut out = json!({});
        for (key, value) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)] {
            if !value.is_empty() {
                out[key] = value.as_str().into();
            }
        }
        if !self.causes.is_empty() {
            let cause = |c: &Cause| {
                let mut out = json!({});
                for (key, value) in [("reason", &c.reason), ("message", &c.message), ("field", &c.field)] {
                    if !value.is_empty() {
                        out[key] = value.as_str().into();
                    }
                }
                out
            };
            out["causes"] = self.causes.iter().map(cause).collect();
        }
        if self.retry_after_seconds > 0 {
            out["retryAfterSeconds"] = self.retry_after_seconds.into();
        }
        out
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::field::{Error, Path};

    #[test]
    fn no_object_has_an_answer_of_any_size() {
        let errors = |count: usize, text: &str| (0..count).map(|at| Error::invalid(&Path::root("list").index(at), json!(1), text)).collect::<Vec<_>>();
        let told = |status: &Status| status.details.as_ref().map_or(0, |details| details.causes.len());
        let many = Status::invalid("", "Pod", "p", errors(5_000, "is wrong"));
        assert_eq!((told(&many), many.message.matches("is wrong").count()), (1_000, 1_000));
        let long = Status::invalid("", "Pod", "p", errors(5_000, &"x".repeat(10_000)));
        assert!(told(&long) > 50 && long.to_value().to_string().len() < 3 << 20, "{} causes", told(&long));
        assert_eq!(told(&Status::invalid("", "Pod", "p", errors(1, &"x".repeat(2 << 20)))), 1, "the first is told whatever it is");
    }
}
