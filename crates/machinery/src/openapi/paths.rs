//! The operations of a row.

use super::{
    Served,
    operations::{ANY, Body, OBJECTS, Operation, Paths, STREAMS},
    parameters::{self, DELETE, LOG, NAMESPACE, PATCH, PRETTY, Parameter, READ, REST, SELECT, WATCH, WRITE},
    schemas::Schemas,
    words,
};
use crate::{
    Value,
    gvk::Gvk,
    resources::{Resource, Subresource},
};
use serde_json::json;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
/// The media types of patches; the last two are for built-in kinds alone, in this order.
const PATCHES: [&str; 4] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json", "application/apply-patch+yaml"];
const CUSTOM_PATCHES: [&str; 3] = ["application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml"];
const LOGS: [&str; 4] = ["text/plain", OBJECTS[0], OBJECTS[1], OBJECTS[2]];

/// The groups' resources whose deletion answers the object instead of a status.
const ANSWERED_WHEN_DELETED: [(&str, &[&str]); 3] = [
    ("", &["persistentvolumeclaims", "persistentvolumes", "pods", "podtemplates", "resourcequotas", "serviceaccounts", "services"]),
    ("resource.k8s.io", &["deviceclasses", "resourceclaims", "resourceclaimtemplates", "resourceslices"]),
    ("storage.k8s.io", &["csidrivers", "csinodes", "storageclasses", "volumeattachments", "volumeattributesclasses"]),
];

/// Methods of connections, and their names in operations.
const CONNECT: [(&str, &str); 7] =
    [("get", "Get"), ("post", "Post"), ("put", "Put"), ("delete", "Delete"), ("options", "Options"), ("head", "Head"), ("patch", "Patch")];

/// What the operations of one row share.
struct Row<'a> {
    resource: &'a Resource,
    custom: bool,
    kind: Value,
    list: Value,
    /// `apps_v1`, `core_v1`.
    tag: String,
    /// `name of the Pod`.
    name_text: String,
}

/// The tag of a built-in group's version.
pub(super) fn tag(group: &str, version: &str) -> String {
    format!("{}_{version}", words::of_group(group))
}

/// Adds the paths of a resource and the schemas that they use.
pub(super) fn add(served: &Served<'_>, schemas: &mut Schemas<'_>, out: &mut Paths) {
    let resource = served.resource;
    let list_kind = Gvk { kind: format!("{}List", resource.kind.kind), ..resource.kind.clone() };
    let (kind, list) = match &served.custom {
        Some(custom) => schemas.add_custom(&resource.kind, custom, &resource.resource),
        None => {
            let kind = schemas.add_kind(&resource.kind).unwrap_or_else(|| json!({"type": "object"}));
            let list = if resource.has_verb("list") { schemas.add_kind(&list_kind) } else { None };
            (kind.clone(), list.unwrap_or(kind))
        }
    };
    let custom = served.custom.is_some();
    let tag = if custom { words::lower(&format!("{}_{}", words_of_custom(resource), resource.version)) } else { tag(&resource.group, &resource.version) };
    let name_text = format!("name of the {}", resource.kind.kind);
    let row = Row { resource, custom, kind, list, tag, name_text };
    let (namespaced, plural) = (resource.namespaced, &resource.resource);
    let base = super::base_path(resource);
    let collection = if namespaced { format!("{base}/namespaces/{{namespace}}/{plural}") } else { format!("{base}/{plural}") };
    let item = format!("{collection}/{{name}}");
    out.add(collection.clone(), &row.tag, &row.own(false), row.collection(schemas));
    if namespaced && resource.has_verb("list") {
        let mut list = row.list();
        list.id = row.id("list", "", false, &format!("{}ForAllNamespaces", resource.kind.kind));
        out.add(format!("{base}/{plural}"), &row.tag, &[PRETTY], vec![list]);
    }
    out.add(item.clone(), &row.tag, &row.own(true), row.object(schemas));
    for sub in &resource.subresources {
        row.subresource(sub, schemas, out, &format!("{item}/{}", sub.name));
    }
    if resource.has_verb("watch") && !custom {
        row.watches(schemas, out, &base, &collection);
    }
}

impl<'a> Row<'a> {
    /// Parameters of a path itself.
    fn own(&self, name: bool) -> Vec<Parameter<'_>> {
        let name = name.then(|| parameters::name_of(&self.name_text));
        name.into_iter().chain(self.resource.namespaced.then_some(NAMESPACE)).chain([PRETTY]).collect()
    }

    fn media(&self) -> &'static [&'static str] {
        if self.custom { &OBJECTS[..2] } else { &OBJECTS }
    }

    /// An operation that reads nothing and has no parameters.
    fn operation(&'a self, method: &'static str, action: &'static str, sub: &str) -> Operation<'a> {
        let (verb, what) = match action {
            "post" => ("create", "create"),
            "put" => ("replace", "replace"),
            "patch" => ("patch", "partially update"),
            "get" => ("read", "read"),
            other => (other, other),
        };
        let kind = &self.resource.kind.kind;
        let article = match kind.strip_suffix('s') {
            Some(rest) if !rest.ends_with('s') => "",
            _ if kind.starts_with(['A', 'E', 'I', 'O', 'U', 'a', 'e', 'i', 'o', 'u']) => " an",
            _ => " a",
        };
        let of = if sub.is_empty() { String::new() } else { format!(" {sub} of") };
        let description = match action {
            "list" if self.resource.has_verb("watch") && !self.custom => format!("list or watch objects of kind {kind}"),
            "list" => format!("list objects of kind {kind}"),
            "post" | "delete" => format!("{what}{of}{article} {kind}"),
            _ => format!("{what}{of} the specified {kind}"),
        };
        let codes: &[_] = match action {
            "post" => &[("201", "Created"), ("202", "Accepted")],
            "put" => &[("201", "Created")],
            "patch" if !self.custom => &[("201", "Created")],
            "delete" => &[("202", "Accepted")],
            _ => &[],
        };
        Operation {
            method,
            action: Some(action),
            id: self.id(verb, "", true, &format!("{kind}{}", words::upper(sub))),
            description,
            kind: Some(&self.resource.kind),
            parameters: Vec::new(),
            body: None,
            answer: self.kind.clone(),
            codes,
            produces: self.media(),
            consumes: if self.custom { self.media() } else { &ANY },
        }
    }

    fn list(&'a self) -> Operation<'a> {
        let produces = if self.custom { self.media() } else { &STREAMS };
        Operation { parameters: [SELECT, WATCH].concat(), answer: self.list.clone(), produces, ..self.operation("get", "list", "") }
    }

    /// A write of the object, or of a subresource that has this schema.
    fn write(&'a self, method: &'static str, sub: &str, schema: &Value, schemas: &mut Schemas<'_>) -> Operation<'a> {
        let operation = Operation { answer: schema.clone(), ..self.operation(method, method, sub) };
        if method != "patch" {
            return Operation { parameters: WRITE.to_vec(), body: Some(Body { schema: schema.clone(), required: true }), ..operation };
        }
        let schema = schemas.add(&format!("{META}.Patch"));
        let consumes: &[&str] = if self.custom { &CUSTOM_PATCHES } else { &PATCHES };
        Operation { parameters: PATCH.to_vec(), body: Some(Body { schema, required: true }), consumes, ..operation }
    }

    fn collection(&'a self, schemas: &mut Schemas<'_>) -> Vec<Operation<'a>> {
        let mut all = Vec::new();
        let resource = self.resource;
        if resource.has_verb("list") {
            all.push(self.list());
        }
        if resource.has_verb("create") {
            all.push(self.write("post", "", &self.kind, schemas));
        }
        if resource.has_verb("deletecollection") {
            let kind = &resource.kind.kind;
            let options = Body { schema: schemas.add(&format!("{META}.DeleteOptions")), required: false };
            all.push(Operation {
                action: Some("deletecollection"),
                id: self.id("delete", "Collection", true, kind),
                description: format!("delete collection of {kind}"),
                parameters: if self.custom { [SELECT, WATCH].concat() } else { [SELECT, DELETE].concat() },
                body: (!self.custom).then_some(options),
                answer: schemas.add(&format!("{META}.Status")),
                codes: &[],
                ..self.operation("delete", "delete", "")
            });
        }
        all
    }

    fn object(&'a self, schemas: &mut Schemas<'_>) -> Vec<Operation<'a>> {
        let resource = self.resource;
        let mut all = Vec::new();
        if resource.has_verb("get") {
            all.push(Operation { parameters: self.read(), ..self.operation("get", "get", "") });
        }
        for (verb, method) in [("update", "put"), ("patch", "patch")] {
            if resource.has_verb(verb) {
                all.push(self.write(method, "", &self.kind, schemas));
            }
        }
        if resource.has_verb("delete") {
            let answered = ANSWERED_WHEN_DELETED.iter().any(|(group, all)| *group == resource.group && all.contains(&resource.resource.as_str()));
            all.push(Operation {
                parameters: DELETE.to_vec(),
                body: Some(Body { schema: schemas.add(&format!("{META}.DeleteOptions")), required: false }),
                answer: if answered && !self.custom { self.kind.clone() } else { schemas.add(&format!("{META}.Status")) },
                ..self.operation("delete", "delete", "")
            });
        }
        all
    }

    fn subresource(&'a self, sub: &'a Subresource, schemas: &mut Schemas<'_>, out: &mut Paths, path: &str) {
        if let (Some(options), false) = (parameters::of_connection(&sub.kind.kind), self.custom) {
            return self.connection(sub, options, out, path);
        }
        let schema = match self.custom {
            true if sub.name == "status" => self.kind.clone(),
            _ => schemas.add_kind(&sub.kind).unwrap_or_else(|| json!({"type": "string"})),
        };
        let mut all = Vec::new();
        for (verb, method) in [("get", "get"), ("update", "put"), ("patch", "patch"), ("create", "post")] {
            if !sub.verbs.iter().any(|own| own == verb) {
                continue;
            }
            let mut operation = match method {
                "get" if sub.name == "log" => {
                    Operation { parameters: LOG.to_vec(), answer: json!({"type": "string"}), produces: &LOGS, ..self.operation("get", "get", "log") }
                }
                "get" => Operation { parameters: self.read(), answer: schema.clone(), ..self.operation("get", "get", &sub.name) },
                _ => self.write(method, &sub.name, &schema, schemas),
            };
            operation.kind = Some(if self.custom { &self.resource.kind } else { &sub.kind });
            all.push(operation);
        }
        out.add(path.to_owned(), &self.tag, &self.own(true), all);
    }

    /// A subresource that is a connection: what it carries is its own matter.
    fn connection(&self, sub: &Subresource, options: &[Parameter<'_>], out: &mut Paths, path: &str) {
        let proxy = sub.name == "proxy";
        let name_text = format!("name of the {}", sub.kind.kind);
        let own: Vec<_> = [parameters::name_of(&name_text)].into_iter().chain(self.resource.namespaced.then_some(NAMESPACE)).collect();
        for (end, suffix, rest) in [("", "", None), ("/{path}", "WithPath", Some(REST))] {
            if rest.is_some() && !proxy {
                continue;
            }
            let methods = CONNECT.iter().take(if proxy { CONNECT.len() } else { 2 });
            let all = methods.map(|(method, word)| Operation {
                method,
                action: Some("connect"),
                id: self.id("connect", word, true, &format!("{}{}{suffix}", self.resource.kind.kind, words::upper(&sub.name))),
                description: format!("connect {} requests to {} of {}", method.to_ascii_uppercase(), sub.name, self.resource.kind.kind),
                kind: Some(&sub.kind),
                parameters: options.to_vec(),
                body: None,
                answer: json!({"type": "string"}),
                codes: &[],
                produces: &ANY,
                consumes: &ANY,
            });
            let all = all.collect();
            let own: Vec<_> = own.iter().copied().chain(rest).collect();
            out.add(format!("{path}{end}"), &self.tag, &own, all);
        }
    }

    /// The paths of watches as they were before lists had a parameter for it.
    fn watches(&self, schemas: &mut Schemas<'_>, out: &mut Paths, base: &str, collection: &str) {
        let (kind, instead) = (&self.resource.kind.kind, "deprecated: use the 'watch' parameter with a list operation instead");
        let many = format!("watch individual changes to a list of {kind}. {instead}.");
        let one = format!("watch changes to an object of kind {kind}. {instead}, filtered to a single item with the 'fieldSelector' parameter.");
        let event = schemas.add(&format!("{META}.WatchEvent"));
        let place = collection.strip_prefix(base).unwrap_or_default();
        let mut add = |path: String, own: &[Parameter<'_>], action, id: String, description: &str| {
            let operation = Operation { action: Some(action), id, description: description.to_owned(), answer: event.clone(), ..self.list() };
            out.add(format!("{base}/watch{path}"), &self.tag, own, vec![operation]);
        };
        add(place.to_owned(), &self.own(false), "watchlist", self.id("watch", "", true, &format!("{kind}List")), &many);
        add(format!("{place}/{{name}}"), &self.own(true), "watch", self.id("watch", "", true, kind), &one);
        if self.resource.namespaced {
            let id = self.id("watch", "", false, &format!("{kind}ListForAllNamespaces"));
            add(format!("/{}", self.resource.resource), &[PRETTY], "watchlist", id, &many);
        }
    }

    /// The parameters of a read.
    fn read(&self) -> Vec<Parameter<'static>> {
        if self.custom { READ.to_vec() } else { Vec::new() }
    }

    /// `patchAppsV1NamespacedDeploymentScale`; `word` stands before the scope.
    fn id(&self, verb: &str, word: &str, scoped: bool, what: &str) -> String {
        let group = if self.custom { words_of_custom(self.resource) + &words::upper(&self.resource.version) } else { words::joined(&self.tag) };
        let scope = if scoped && self.resource.namespaced { "Namespaced" } else { "" };
        // What follows the group begins with a capital, also a kind that does not.
        format!("{verb}{group}{}", words::upper(&format!("{word}{scope}{what}")))
    }
}

/// A custom group as one word: `ExampleCom`, `SnapshotStorage` (of `snapshot.storage.k8s.io`).
fn words_of_custom(resource: &Resource) -> String {
    resource.group.strip_suffix(".k8s.io").unwrap_or(&resource.group).split(['.', '-']).map(words::upper).collect()
}
