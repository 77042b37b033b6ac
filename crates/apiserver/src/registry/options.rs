//! The options of writes, from the query: `dryRun`, `fieldManager`, `fieldValidation`, `force`.

use super::Call;
use crate::context::{Operation, Options};
use machinery::{
    Value,
    apply::{MANAGER_MAX_BYTES, manager_errors},
    field::{self, ErrorList, Path},
    json::Validation,
    quote::is_print,
    status::Status,
};
use serde_json::json;

/// The options of a create, update or patch.
#[derive(Debug, Clone)]
pub(crate) struct WriteOptions {
    /// Nothing is stored.
    pub(crate) dry_run: bool,
    /// Who owns the fields that are set.
    pub(crate) manager: String,
    /// What happens with unknown fields.
    pub(crate) validation: Validation,
    /// Apply takes over the fields of others.
    pub(crate) force: bool,
    /// `fieldManager` was given.
    pub(crate) manager_given: bool,
    /// `fieldValidation` was given.
    pub(crate) validation_given: bool,
}

impl WriteOptions {
    /// Reads the query; 422 in upstream's words for wrong values. `kind` names the options in the error.
    pub(crate) fn of(call: &Call<'_>, kind: &str) -> Result<WriteOptions, Status> {
        WriteOptions::with(call, kind, ErrorList::new())
    }

    /// As it, where something is wrong already.
    pub(crate) fn with(call: &Call<'_>, kind: &str, mut errors: ErrorList) -> Result<WriteOptions, Status> {
        let given = call.query.text("fieldManager");
        errors.extend(manager_errors(given, &Path::root("fieldManager")));
        let dry_run = dry_run(call.query.all("dryRun"), &mut errors);
        let validation = match call.query.text("fieldValidation") {
            "" | "Warn" => Validation::Warn,
            "Strict" => Validation::Strict,
            "Ignore" => Validation::Ignore,
            other => {
                errors.push(field::Error::not_supported(&Path::root("fieldValidation"), json!(other), &["", "Ignore", "Strict", "Warn"]));
                Validation::Warn
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", errors));
        }
        let manager = if given.is_empty() { default_manager(&call.cx.user_agent) } else { given.to_owned() };
        Ok(WriteOptions {
            dry_run,
            manager,
            validation,
            force: call.query.flag("force"),
            manager_given: !given.is_empty(),
            validation_given: !call.query.text("fieldValidation").is_empty(),
        })
    }
}

/// Whether `dryRun` asks for `All`, its only value.
pub(crate) fn dry_run<'q>(values: impl Iterator<Item = &'q str>, errors: &mut ErrorList) -> bool {
    let values: Vec<&str> = values.collect();
    if values.iter().any(|value| *value != "All") {
        errors.push(field::Error::not_supported(&Path::root("dryRun"), json!(values), &["All"]));
    }
    !values.is_empty()
}

/// The first part of the user agent, as upstream's `prefixFromUserAgent`.
fn default_manager(user_agent: &str) -> String {
    let mut room = MANAGER_MAX_BYTES;
    let first = user_agent.split('/').next().unwrap_or_default().chars().filter(|c| is_print(*c));
    let name: String = first
        .take_while(|c| {
            let left = room.checked_sub(c.len_utf8());
            room = left.unwrap_or(room);
            left.is_some()
        })
        .collect();
    // Whoever does not say who it is.
    if name.is_empty() { "unknown".to_owned() } else { name }
}

impl WriteOptions {
    /// The options of the server's own writes.
    pub(crate) fn internal(manager: &str) -> WriteOptions {
        WriteOptions { dry_run: false, manager: manager.into(), validation: Validation::Ignore, force: false, manager_given: true, validation_given: false }
    }
}

impl Options for WriteOptions {
    fn to_value(&self, operation: Operation) -> Value {
        let kind = if operation == Operation::Create { "CreateOptions" } else { "UpdateOptions" };
        let mut out = json!({"kind": kind, "apiVersion": "meta.k8s.io/v1"});
        if self.dry_run {
            out["dryRun"] = json!(["All"]);
        }
        if self.manager_given {
            out["fieldManager"] = self.manager.as_str().into();
        }
        if self.validation_given {
            out["fieldValidation"] = match self.validation {
                Validation::Strict => "Strict",
                Validation::Warn => "Warn",
                Validation::Ignore => "Ignore",
            }
            .into();
        }
        out
    }
}
