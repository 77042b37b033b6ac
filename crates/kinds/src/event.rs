//! Events, in the core group and in `events.k8s.io`: one kind with two shapes (`pkg/apis/core/validation/events.go`).
//!
//! The newer API is strict about new events; the older one checks what it always has.

use crate::{Selectable, Strategy, meta, rules, tree};
use machinery::{
    Value,
    field::{Error, ErrorList, Path},
    names,
};

/// Most characters of an action, a reason and the reporter's name, and of the text.
const WORD_MAX: usize = 128;
const NOTE_MAX: usize = 1024;
const FOREIGN: &str = "does not match event.namespace";

/// The strategy of events in the core group.
#[derive(Debug, Clone, Copy)]
pub struct Events;

impl Strategy for Events {
    fn metadata_last(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        loose(&Parts::of(obj), "reportingComponent", errors);
    }

    /// Enumerations of events are not enforced here.
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        errors
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        let parts = Parts::of(obj);
        let of = |key: &str| tree::text(parts.object, key).to_owned();
        let source = tree::text(parts.source, "component");
        vec![
            ("involvedObject.kind".into(), of("kind")),
            ("involvedObject.namespace".into(), of("namespace")),
            ("involvedObject.name".into(), of("name")),
            ("involvedObject.uid".into(), of("uid")),
            ("involvedObject.apiVersion".into(), of("apiVersion")),
            ("involvedObject.resourceVersion".into(), of("resourceVersion")),
            ("involvedObject.fieldPath".into(), of("fieldPath")),
            ("reason".into(), tree::text(obj, "reason").to_owned()),
            ("reportingComponent".into(), parts.controller.to_owned()),
            ("source".into(), if source.is_empty() { parts.controller } else { source }.to_owned()),
            ("type".into(), tree::text(obj, "type").to_owned()),
        ]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn reset_fields(&self, _subresource: &str) -> &'static [&'static [&'static str]] {
        &[]
    }
}

/// The strategy of events in `events.k8s.io`.
#[derive(Debug, Clone, Copy)]
pub struct NewEvents;

impl Strategy for NewEvents {
    /// After what the older API asks, and before what only this one does.
    fn judges_metadata(&self) -> bool {
        true
    }

    fn any_finalizer_later(&self) -> bool {
        true
    }

    fn check(&self, obj: &Value, errors: &mut ErrorList) {
        let parts = Parts::of(obj);
        loose(&parts, "reportingController", errors);
        errors.extend(meta::created(obj, true, self));
        series(obj, errors);
        if parts.time.is_empty() {
            errors.push(Error::required(&Path::root("eventTime"), ""));
        }
        let kind = tree::text(obj, "type");
        if !matches!(kind, "Normal" | "Warning") {
            errors.push(Error::invalid(&Path::root("type"), "", format!("has invalid value: {kind}")));
        }
        for (own, shown) in [("deprecatedFirstTimestamp", "firstTimestamp"), ("deprecatedLastTimestamp", "lastTimestamp")] {
            if !tree::empty(&obj[own]) {
                errors.push(Error::invalid(&Path::root(shown), "", "needs to be unset"));
            }
        }
        if obj["deprecatedCount"].as_i64().unwrap_or(0) != 0 {
            errors.push(Error::invalid(&Path::root("count"), "", "needs to be unset"));
        }
        if ["component", "host"].iter().any(|key| !tree::empty(&parts.source[*key])) {
            errors.push(Error::invalid(&Path::root("source"), "", "needs to be unset"));
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        self.check(obj, &mut errors);
        errors
    }

    fn validate_update(&self, obj: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        loose(&Parts::of(obj), "reportingController", &mut errors);
        errors.extend(meta::changed(obj, old));
        meta::unqualified(&obj["metadata"], &Path::root("metadata"), &mut errors);
        if obj["series"] != old["series"] {
            series(obj, &mut errors);
        }
        // Upstream looks at the reason twice.
        for (own, shown, form) in [
            ("regarding", "involvedObject", "core.ObjectReference"),
            ("reason", "reason", "s"),
            ("note", "message", "s"),
            ("deprecatedSource", "source", "core.EventSource"),
            ("deprecatedFirstTimestamp", "firstTimestamp", "t"),
            ("deprecatedLastTimestamp", "lastTimestamp", "t"),
            ("deprecatedCount", "count", "i"),
            ("reason", "reason", "s"),
            ("type", "type", "s"),
            ("eventTime", "eventTime", "t"),
            ("action", "action", "s"),
            ("related", "related", "*core.ObjectReference"),
            ("reportingController", "reportingController", "s"),
            ("reportingInstance", "reportingInstance", "s"),
        ] {
            rules::immutable_part(form, &obj[own], &old[own], &Path::root(shown), &mut errors);
        }
        errors
    }

    fn selectable_fields(&self, obj: &Value) -> Selectable {
        let parts = Parts::of(obj);
        let of = |key: &str| tree::text(parts.object, key).to_owned();
        vec![
            ("regarding.kind".into(), of("kind")),
            ("regarding.namespace".into(), of("namespace")),
            ("regarding.name".into(), of("name")),
            ("regarding.uid".into(), of("uid")),
            ("regarding.apiVersion".into(), of("apiVersion")),
            ("regarding.resourceVersion".into(), of("resourceVersion")),
            ("regarding.fieldPath".into(), of("fieldPath")),
            ("reason".into(), tree::text(obj, "reason").to_owned()),
            ("reportingController".into(), parts.controller.to_owned()),
            ("type".into(), tree::text(obj, "type").to_owned()),
        ]
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn reset_fields(&self, _subresource: &str) -> &'static [&'static [&'static str]] {
        &[]
    }
}

/// The fields that the two shapes name differently.
struct Parts<'v> {
    obj: &'v Value,
    object: &'v Value,
    note: &'v str,
    controller: &'v str,
    source: &'v Value,
    time: &'v str,
}

impl<'v> Parts<'v> {
    fn of(obj: &'v Value) -> Self {
        let new = obj.get("regarding").is_some();
        Self {
            obj,
            object: &obj[if new { "regarding" } else { "involvedObject" }],
            note: tree::text(obj, if new { "note" } else { "message" }),
            controller: tree::text(obj, if obj.get("reportingController").is_some() { "reportingController" } else { "reportingComponent" }),
            source: &obj[if new { "deprecatedSource" } else { "source" }],
            time: tree::text(obj, "eventTime"),
        }
    }
}

fn series(obj: &Value, errors: &mut ErrorList) {
    let series = &obj["series"];
    if !series.is_object() {
        return;
    }
    if series["count"].as_i64().unwrap_or(0) < 2 {
        errors.push(Error::invalid(&Path::root("series.count"), "", "should be at least 2"));
    }
    if tree::empty(&series["lastObservedTime"]) {
        errors.push(Error::required(&Path::root("series.lastObservedTime"), ""));
    }
}

/// What both APIs have always asked.
fn loose(parts: &Parts<'_>, reporter: &str, errors: &mut ErrorList) {
    let namespace = tree::text(&parts.obj["metadata"], "namespace");
    let about = tree::text(parts.object, "namespace");
    let place = Path::root("involvedObject.namespace");
    if parts.time.is_empty() {
        let fits = if about.is_empty() { matches!(namespace, "" | "default") } else { about == namespace };
        if !fits {
            errors.push(Error::invalid(&place, about, FOREIGN));
        }
        return;
    }
    if about.is_empty() && !matches!(namespace, "default" | "kube-system") {
        errors.push(Error::invalid(&place, about, FOREIGN));
    }
    if parts.controller.is_empty() {
        errors.push(Error::required(&Path::root(reporter), ""));
    }
    rules::name(parts.controller, &Path::root(reporter), names::qualified_name(parts.controller), errors);
    for field in ["reportingInstance", "action", "reason"] {
        let text = tree::text(parts.obj, field);
        if text.is_empty() {
            errors.push(Error::required(&Path::root(field), ""));
        }
        if text.len() > WORD_MAX {
            errors.push(Error::invalid(&Path::root(field), "", format!("can have at most {WORD_MAX} characters")));
        }
    }
    if parts.note.len() > NOTE_MAX {
        errors.push(Error::invalid(&Path::root("message"), "", format!("can have at most {NOTE_MAX} characters")));
    }
}
