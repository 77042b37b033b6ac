//! Parameters of operations: their tables, and how a document tells them.
//!
//! Version 2 keeps a parameter that does not speak of its kind once for all, under its name and a hash that the original
//! takes of it with the original's text; ours has other words and the same reference.

use super::Version;
use crate::{Map, Value};
use serde_json::json;

/// A parameter of a query or of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parameter<'a> {
    pub(super) name: &'a str,
    ty: &'a str,
    place: &'a str,
    /// What follows its name where version 2 keeps it for all; empty: it is told where it is used.
    shared: &'a str,
    text: &'a str,
}

const fn query(name: &'static str, ty: &'static str, shared: &'static str, text: &'static str) -> Parameter<'static> {
    Parameter { name, ty, place: "query", shared, text }
}

const fn path(name: &'static str, shared: &'static str, text: &'static str) -> Parameter<'static> {
    Parameter { name, ty: "string", place: "path", shared, text }
}

const DRY_RUN: Parameter<'static> = query("dryRun", "string", "", "When present, indicates that modifications should not be persisted. Valid values are: All.");
const FIELD_VALIDATION: Parameter<'static> = query("fieldValidation", "string", "", "What to do with unknown or duplicate fields: Ignore, Warn or Strict.");
pub(super) const WRITE: &[Parameter<'static>] =
    &[DRY_RUN, query("fieldManager", "string", "Qy4HdaTW", "The name of the actor or entity that is making these changes."), FIELD_VALIDATION];
pub(super) const PATCH: &[Parameter<'static>] = &[
    DRY_RUN,
    query("fieldManager", "string", "7c6nTn1T", "The name of the actor or entity that is making these changes; apply patches must have it."),
    FIELD_VALIDATION,
    query("force", "boolean", "tOGGb0Yi", "Apply even if other managers own fields with other values. Only for apply patches."),
];
pub(super) const DELETE: &[Parameter<'static>] = &[
    DRY_RUN,
    query("gracePeriodSeconds", "integer", "-K5HaBOS", "The seconds before the object is deleted; zero deletes at once."),
    query("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean", "QbNkfIqj", "Deletes an object even if it cannot be read from the store."),
    query("orphanDependents", "boolean", "uRB25kX5", "Deprecated: use propagationPolicy."),
    query("propagationPolicy", "string", "6jk3prlO", "Whether and how dependents are deleted: Orphan, Background or Foreground."),
];
pub(super) const SELECT: &[Parameter<'static>] = &[
    query("continue", "string", "QfD61s0i", "Where a list with a limit goes on; the server's answer to the request before."),
    query("fieldSelector", "string", "xIcQKXFG", "Selects objects by their fields."),
    query("labelSelector", "string", "5Zw57w4C", "Selects objects by their labels."),
    query("limit", "integer", "1NfNmdNH", "The most objects in an answer."),
    READ[0],
    query("resourceVersionMatch", "string", "t8XhRHeC", "How resourceVersion is meant."),
    query("sendInitialEvents", "boolean", "rLXlEK_k", "Begins a watch with the present objects and a bookmark."),
    query("shardSelector", "string", "Kgyki_3_", "Selects objects by the hash of a field."),
    query("timeoutSeconds", "integer", "yvYezaOC", "How long the call may take."),
];
/// Of a custom resource's read, as the original tells it there alone.
pub(super) const READ: &[Parameter<'static>] = &[query("resourceVersion", "string", "5WAnf1kx", "Which state to answer from.")];
pub(super) const WATCH: &[Parameter<'static>] = &[
    query("allowWatchBookmarks", "boolean", "HC2hJt-J", "Asks for BOOKMARK events."),
    query("watch", "boolean", "XNNPZGbK", "Answers changes as events instead of a list."),
];
pub(super) const LOG: &[Parameter<'static>] = &[
    query("container", "string", "1GeXxFDC", "Whose log it is; may be left out if there is one container alone."),
    query("follow", "boolean", "9OIXh_2R", "Goes on with what is written later."),
    query("insecureSkipTLSVerifyBackend", "boolean", "gM00jVbe", "Does not ask the kubelet for a certificate that can be trusted."),
    query("limitBytes", "integer", "zwd1RXuc", "The most bytes in the answer."),
    query("previous", "boolean", "1jxDPu3y", "The log of the container that ended before this one."),
    query("sinceSeconds", "integer", "vE2NLdnP", "How old the oldest line may be."),
    query("stream", "string", "l-48cgXv", "Which stream: All, Stdout or Stderr."),
    query("tailLines", "integer", "9xQLWHMV", "How many of the last lines."),
    query("timestamps", "boolean", "c17fW1w_", "Begins each line with its time."),
];
const ATTACH: &[Parameter<'static>] = &[
    query("container", "string", "_Q-EJ3nR", "The container to attach to; may be left out if there is one alone."),
    query("stderr", "boolean", "26jJhFUR", "Carries the standard error."),
    query("stdin", "boolean", "sEFnN3IS", "Carries the standard input."),
    query("stdout", "boolean", "005YMKE6", "Carries the standard output."),
    query("tty", "boolean", "g7MlET_l", "The container has a terminal."),
];
const EXEC: &[Parameter<'static>] = &[
    query("command", "string", "Py3eQybp", "What is run, word by word, without a shell."),
    query("container", "string", "i5dOmRiM", "The container to run it in; may be left out if there is one alone."),
    query("stderr", "boolean", "W_1TNlWc", "Carries the standard error."),
    query("stdin", "boolean", "PSzNhyUC", "Carries the standard input."),
    query("stdout", "boolean", "-EZLRwV1", "Carries the standard output."),
    query("tty", "boolean", "s0flW37O", "Gives the command a terminal."),
];
const PORT_FORWARD: &[Parameter<'static>] = &[query("ports", "integer", "91KROJmm", "The ports to forward; WebSockets must name them.")];
const POD_PROXY: &[Parameter<'static>] = &[query("path", "string", "oPbzgLUj", "The path that the pod is asked for.")];
const SERVICE_PROXY: &[Parameter<'static>] = &[query("path", "string", "QCf0eosM", "The path that the service is asked for.")];
const NODE_PROXY: &[Parameter<'static>] = &[query("path", "string", "rFDtV0x9", "The path that the node is asked for.")];

pub(super) const NAMESPACE: Parameter<'static> = path("namespace", "vgWSWtn3", "object name and auth scope, such as for teams and projects");
/// The rest of a path behind a proxy.
pub(super) const REST: Parameter<'static> = path("path", "z6Ciiujn", "path to the resource");
pub(super) const PRETTY: Parameter<'static> = query("pretty", "string", "tJGM1-ng", "If 'true', then the output is pretty printed.");

/// The parameters of a connection by the kind of its options; `None` if it is no such kind.
pub(super) fn of_connection(kind: &str) -> Option<&'static [Parameter<'static>]> {
    Some(match kind {
        "PodAttachOptions" => ATTACH,
        "PodExecOptions" => EXEC,
        "PodPortForwardOptions" => PORT_FORWARD,
        "PodProxyOptions" => POD_PROXY,
        "ServiceProxyOptions" => SERVICE_PROXY,
        "NodeProxyOptions" => NODE_PROXY,
        _ => return None,
    })
}

/// The name of an object of a kind; `text` says so.
pub(super) fn name_of(text: &str) -> Parameter<'_> {
    Parameter { name: "name", ty: "string", place: "path", shared: "", text }
}

/// Parameters as a document tells them, in its order; those that are kept for all go to `kept`.
pub(super) fn told(mut parameters: Vec<Parameter<'_>>, version: Version, kept: &mut Map<String, Value>) -> Vec<Value> {
    parameters.sort_by_key(|parameter| (parameter.name, parameter.place));
    parameters.into_iter().map(|parameter| parameter.told(version, kept)).collect()
}

/// Keeps a parameter for all; answers a reference to it.
pub(super) fn keep(kept: &mut Map<String, Value>, name: String, parameter: Value) -> Value {
    let reference = json!({"$ref": format!("#/parameters/{name}")});
    kept.insert(name, parameter);
    reference
}

impl Parameter<'_> {
    fn told(&self, version: Version, kept: &mut Map<String, Value>) -> Value {
        let mut out = json!({"name": self.name, "in": self.place, "description": self.text});
        if self.place == "path" {
            out["required"] = true.into();
        }
        if version == Version::V3 {
            out["schema"] = json!({"type": self.ty, "uniqueItems": true});
            return out;
        }
        out["type"] = self.ty.into();
        out["uniqueItems"] = true.into();
        if self.shared.is_empty() { out } else { keep(kept, format!("{}-{}", self.name, self.shared), out) }
    }
}
