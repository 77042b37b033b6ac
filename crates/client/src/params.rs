//! What a request asks for beside the object: the query parameters and options of the API's verbs.

use serde_json::{Value, json};

/// Which objects a list, watch or deletecollection is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ListParams {
    /// Label selector in its text form; empty selects all.
    pub label_selector: String,
    /// Field selector in its text form; empty selects all.
    pub field_selector: String,
    /// Objects a page at most; 0 is all.
    pub limit: u32,
    /// Where the former page ended.
    pub continue_token: String,
    /// A list not older than this revision; `0` is whatever the server has at hand; empty the newest.
    pub resource_version: String,
}

impl ListParams {
    /// Those with these labels.
    #[must_use]
    pub fn labels(selector: impl Into<String>) -> Self {
        Self { label_selector: selector.into(), ..Self::default() }
    }

    /// Those with these fields.
    #[must_use]
    pub fn fields(selector: impl Into<String>) -> Self {
        Self { field_selector: selector.into(), ..Self::default() }
    }

    /// The selectors as query pairs.
    pub(crate) fn selectors(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        if !self.label_selector.is_empty() {
            query.push(("labelSelector", self.label_selector.clone()));
        }
        if !self.field_selector.is_empty() {
            query.push(("fieldSelector", self.field_selector.clone()));
        }
        query
    }

    /// Everything as query pairs.
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = self.selectors();
        if self.limit > 0 {
            query.push(("limit", self.limit.to_string()));
        }
        if !self.continue_token.is_empty() {
            query.push(("continue", self.continue_token.clone()));
        }
        if !self.resource_version.is_empty() {
            query.push(("resourceVersion", self.resource_version.clone()));
        }
        query
    }
}

/// What becomes of an object's dependents when it is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They lose their owner and stay.
    Orphan,
    /// The garbage collector deletes them afterwards.
    Background,
    /// The object stays, being deleted, until its blocking dependents are gone.
    Foreground,
}

impl Propagation {
    /// The API's word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Orphan => "Orphan",
            Self::Background => "Background",
            Self::Foreground => "Foreground",
        }
    }
}

/// What must hold for a deletion to take place; else the server answers 409.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Preconditions {
    /// The object is this one, not a later one of the same name.
    pub uid: Option<String>,
    /// The object has not changed since.
    pub resource_version: Option<String>,
}

/// The options of a deletion.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Seconds until the object is removed by force; none for the kind's own.
    pub grace_period_seconds: Option<i64>,
    /// None for the kind's own.
    pub propagation: Option<Propagation>,
    /// What must hold.
    pub preconditions: Preconditions,
}

impl DeleteParams {
    /// At once.
    #[must_use]
    pub fn now() -> Self {
        Self { grace_period_seconds: Some(0), ..Self::default() }
    }

    /// Dependents afterwards.
    #[must_use]
    pub fn background() -> Self {
        Self { propagation: Some(Propagation::Background), ..Self::default() }
    }

    /// Only if it is still this object.
    #[must_use]
    pub fn uid(mut self, uid: impl Into<String>) -> Self {
        self.preconditions.uid = Some(uid.into());
        self
    }

    /// The `DeleteOptions` object.
    pub(crate) fn body(&self) -> Value {
        let mut body = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = propagation.as_str().into();
        }
        if let Some(uid) = &self.preconditions.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &self.preconditions.resource_version {
            body["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        body
    }
}

/// A change to an object, in one of the API's four forms.
#[derive(Clone, Debug, PartialEq)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Kubernetes' own, which merges lists by their keys.
    Strategic(Value),
    /// Server-side apply; needs a field manager.
    Apply(Value),
}

impl Patch {
    /// The media type that names the form.
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "application/json-patch+json",
            Self::Merge(_) => "application/merge-patch+json",
            Self::Strategic(_) => "application/strategic-merge-patch+json",
            Self::Apply(_) => "application/apply-patch+yaml",
        }
    }

    /// The document.
    pub(crate) fn document(&self) -> &Value {
        match self {
            Self::Json(v) | Self::Merge(v) | Self::Strategic(v) | Self::Apply(v) => v,
        }
    }
}

/// The options of a patch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchParams {
    /// Who owns the fields; empty leaves it to the user agent.
    pub field_manager: String,
    /// Take over fields that others own (apply only).
    pub force: bool,
    /// Go through everything but store nothing.
    pub dry_run: bool,
}

impl PatchParams {
    /// Everything as query pairs.
    pub(crate) fn query(&self) -> Vec<(&'static str, String)> {
        let mut query = Vec::new();
        if !self.field_manager.is_empty() {
            query.push(("fieldManager", self.field_manager.clone()));
        }
        if self.force {
            query.push(("force", "true".to_owned()));
        }
        if self.dry_run {
            query.push(("dryRun", "All".to_owned()));
        }
        query
    }
}
