//! The objects that are the same in every cluster, from a generated file (`cargo xtask generate`; its grammar stands there).

use super::{Gvr, Policy, Wanted};
use crate::consumption;
use machinery::Value;
use std::{collections::HashMap, sync::LazyLock};

static TEXT: &str = include_str!("../../data/bootstrap.txt");

/// The priorities of what an add-on registers of `metrics.k8s.io`.
const METRICS: (i64, i64) = (100, 100);

/// All of them and some more. What aggregated roles are made of, a controller fills in.
pub(super) fn wanted(further: Vec<Wanted>) -> Vec<Wanted> {
    let mut out = further;
    let mut section = None;
    for line in TEXT.lines() {
        match line.strip_prefix("# ") {
            Some(head) => section = Section::parse(head),
            None => out.extend(section.as_ref().and_then(|s| s.object(line))),
        }
    }
    out
}

/// The priorities of a group and of its version in discovery; none for those that the original does not register.
pub(super) fn priorities(group: &str, version: &str) -> Option<(i64, i64)> {
    static KNOWN: LazyLock<HashMap<String, (i64, i64)>> = LazyLock::new(|| {
        let services = wanted(Vec::new()).into_iter().filter(|wanted| wanted.resource.2 == "apiservices");
        let numbers = |spec: &Value| Some((spec["groupPriorityMinimum"].as_i64()?, spec["versionPriority"].as_i64()?));
        services.filter_map(|wanted| Some((wanted.meta("name").to_owned(), numbers(&wanted.value["spec"])?))).collect()
    });
    if group == consumption::GROUP {
        return Some(METRICS);
    }
    KNOWN.get(&format!("{version}.{group}")).copied()
}

struct Section {
    resource: Gvr,
    api_version: &'static str,
    kind: &'static str,
    common: Value,
}

impl Section {
    fn parse(head: &'static str) -> Option<Section> {
        let mut parts = head.splitn(4, ' ');
        let (api_version, resource, kind) = (parts.next()?, parts.next()?, parts.next()?);
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        Some(Section { resource: (group, version, resource), api_version, kind, common: serde_json::from_str(parts.next()?).ok()? })
    }

    fn object(&self, line: &str) -> Option<Wanted> {
        let mut value: Value = serde_json::from_str(line).ok()?;
        value["apiVersion"] = self.api_version.into();
        value["kind"] = self.kind.into();
        // Its finalizer is given to every namespace, and is nobody's.
        if let (Some(fields), "namespaces") = (value.as_object_mut(), self.resource.2) {
            fields.remove("spec");
        }
        for (part, shared) in self.common.as_object()? {
            for (key, text) in shared.as_object()? {
                value["metadata"][part.as_str()][key.as_str()] = text.clone();
            }
        }
        let policy = match self.resource.2 {
            "clusterroles" | "roles" => Policy::Role,
            "clusterrolebindings" | "rolebindings" => Policy::Binding,
            "flowschemas" | "prioritylevelconfigurations" => Policy::FlowControl,
            "apiservices" => Policy::Registration,
            _ => Policy::Keep,
        };
        Some(Wanted { resource: self.resource, policy, value })
    }
}
