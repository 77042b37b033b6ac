//! Errors of fields, as validation reports them (`apimachinery/pkg/util/validation/field`).

use crate::{Value, json::write, numerals, quote::Quoted};
use std::fmt;

/// Where a field is: `spec.containers[0].name`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Path(String);

impl Path {
    /// The empty path.
    pub fn empty() -> Self {
        Self::default()
    }

    /// A path of one field, or of several joined by dots.
    pub fn root(name: impl AsRef<str>) -> Self {
        Self(name.as_ref().to_owned())
    }

    /// The same as [`Path::root`].
    pub fn new(name: impl AsRef<str>) -> Self {
        Self::root(name)
    }

    /// The path of a field without a name, as upstream writes it.
    pub fn unnamed() -> Self {
        Self("[]".into())
    }

    /// A field below.
    #[must_use]
    pub fn child(&self, name: impl AsRef<str>) -> Self {
        let name = name.as_ref();
        Self(if self.0.is_empty() { name.to_owned() } else { format!("{}.{name}", self.0) })
    }

    /// A list element.
    #[must_use]
    pub fn index(&self, at: usize) -> Self {
        Self(format!("{}[{at}]", self.0))
    }

    /// A map's entry.
    #[must_use]
    pub fn key(&self, key: impl AsRef<str>) -> Self {
        Self(format!("{}[{}]", self.0, key.as_ref()))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Missing.
    Required,
    /// A bad value.
    Invalid,
    /// None of the allowed values.
    NotSupported,
    /// Not allowed here and now.
    Forbidden,
    /// There already.
    Duplicate,
    /// Too long a text.
    TooLong,
    /// Too many elements.
    TooMany,
    /// A value of the wrong type.
    TypeInvalid,
    /// What it names is not there.
    NotFound,
    /// The server's own fault.
    Internal,
}

impl ErrorKind {
    /// The reason of the cause in a `Status`.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::Duplicate => "FieldValueDuplicate",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotFound => "FieldValueNotFound",
            Self::Internal => "InternalError",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Required => "Required value",
            Self::Invalid | Self::TypeInvalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::Duplicate => "Duplicate value",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
            Self::Internal => "Internal error",
        })
    }
}

/// One error of one field.
#[derive(Debug, Clone, PartialEq)]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where.
    pub path: Path,
    /// The value in question; `Null` where it is not shown.
    pub value: Value,
    /// More words; may be empty.
    pub detail: String,
    /// The value says nothing and is left out of the message.
    pub bare: bool,
    /// What is shown for the value, where that is not its JSON with sorted keys.
    pub shown: Option<String>,
}

/// Errors in the order in which they were found.
pub type ErrorList = Vec<Error>;

impl Error {
    fn make(kind: ErrorKind, path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self { kind, path: path.clone(), value: value.into(), detail: detail.into(), bare: false, shown: None }
    }

    /// A value is missing.
    pub fn required(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Required, path, Value::Null, detail)
    }

    /// A value is bad.
    pub fn invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Invalid, path, value, detail)
    }

    /// The same error with a value that is written otherwise: upstream's types have an order, and some are none of the API's.
    pub fn shown_as(self, shown: impl Into<String>) -> Self {
        Self { shown: Some(shown.into()), ..self }
    }

    /// Something is bad, and showing it would not help.
    pub fn invalid_unshown(path: &Path, detail: impl Into<String>) -> Self {
        Self { bare: true, ..Self::invalid(path, Value::Null, detail) }
    }

    /// A value is none of the allowed ones.
    pub fn not_supported(path: &Path, value: impl Into<Value>, allowed: &[impl AsRef<str>]) -> Self {
        let allowed: Vec<String> = allowed.iter().map(|a| Quoted(a.as_ref()).to_string()).collect();
        let detail = if allowed.is_empty() { String::new() } else { format!("supported values: {}", allowed.join(", ")) };
        Self::make(ErrorKind::NotSupported, path, value, detail)
    }

    /// A field may not be set, or changed.
    pub fn forbidden(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Forbidden, path, Value::Null, detail)
    }

    /// A value that must be unique is not.
    pub fn duplicate(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorKind::Duplicate, path, value, "")
    }

    /// A text is longer than `max` bytes.
    pub fn too_long(path: &Path, max: usize) -> Self {
        Self::make(ErrorKind::TooLong, path, Value::Null, format!("may not be more than {max} {}", if max == 1 { "byte" } else { "bytes" }))
    }

    /// A text has more than `max` characters.
    pub fn too_many_characters(path: &Path, max: usize) -> Self {
        Self::make(ErrorKind::TooLong, path, Value::Null, format!("may not be more than {max} characters"))
    }

    /// A list or map has more than `max` elements.
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::make(ErrorKind::TooMany, path, actual, format!("must have at most {max} {items}"))
    }

    /// A value has the wrong type.
    pub fn type_invalid(path: &Path, value: impl Into<Value>, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::TypeInvalid, path, value, detail)
    }

    /// What a value names is not there.
    pub fn not_found(path: &Path, value: impl Into<Value>) -> Self {
        Self::make(ErrorKind::NotFound, path, value, "")
    }

    /// The server's own fault.
    pub fn internal(path: &Path, detail: impl Into<String>) -> Self {
        Self::make(ErrorKind::Internal, path, Value::Null, detail)
    }

    /// The error without its place, as it stands in a cause.
    pub fn body(&self) -> String {
        let mut out = self.kind.to_string();
        let shown = !self.bare && !matches!(self.kind, ErrorKind::Required | ErrorKind::Forbidden | ErrorKind::TooLong | ErrorKind::Internal);
        if shown {
            out.push_str(&match &self.value {
                _ if self.shown.is_some() => format!(": {}", self.shown.as_deref().unwrap_or_default()),
                Value::String(text) => format!(": {}", Quoted(text)),
                Value::Number(number) if number.is_f64() => format!(": {}", number.as_f64().map(numerals::float).unwrap_or_default()),
                other => format!(": {}", String::from_utf8_lossy(&write::encode(other))),
            });
        }
        if !self.detail.is_empty() {
            out.push_str(": ");
            out.push_str(&self.detail);
        }
        out
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl std::error::Error for Error {}
