//! A write as webhooks and policies see it: upstream's `admission.Attributes`, in the version that one of them asks for.
//!
//! A subresource whose body is another kind than the object's (`scale`, `eviction`, `binding`, `token`, what is connected to) is
//! seen as that kind. Only the scale of an object is a view of the object itself: those who judge a write see it made of that, and those
//! who may change it see it as it was sent.

use super::remade;
use crate::{
    Operation, Write,
    gate::{
        rules::{Asked, Rule},
        source::Source,
    },
    offload,
    rows::Row,
    subresources,
    world::World,
};
use kinds::custom::Scale;
use machinery::{
    Value, convert,
    gvk::Gvk,
    resources::Resource,
    schema::{self, TypeRef},
};
use serde::Serialize;
use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

/// Reviews are questions about the very right to write: who could refuse them could lock everybody out (KEP-5793).
const REVIEWS: [(&str, &str); 6] = [
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authentication.k8s.io", "tokenreviews"),
    ("authorization.k8s.io", "localsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
    ("authorization.k8s.io", "subjectaccessreviews"),
];
/// Kinds whose own admission they would be subject to: a webhook or a policy could make itself irremovable.
const OWN: [&str; 6] = [
    "validatingwebhookconfigurations",
    "mutatingwebhookconfigurations",
    "validatingadmissionpolicies",
    "validatingadmissionpolicybindings",
    "mutatingadmissionpolicies",
    "mutatingadmissionpolicybindings",
];

/// A write, named as the request names it.
#[derive(Clone, Copy)]
pub(crate) struct Attributes<'a> {
    pub(crate) world: &'a World,
    pub(crate) write: &'a Write<'a>,
}

/// A served version of what is written.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) resource: String,
    /// The kind of the objects, or of the subresource's.
    pub(crate) kind: Gvk,
    /// None where the subresource's kind is the same in all versions.
    row: Option<Arc<Row>>,
}

impl Version {
    /// The same objects at the resource that was asked for: so a webhook's match conditions see the request, whatever version its rule names
    /// (upstream's `matchconditions`).
    pub(crate) fn at(&self, own: &Resource) -> Version {
        Version { group: own.group.clone(), version: own.version.clone(), resource: own.resource.clone(), ..self.clone() }
    }

    /// Whether it is another by the same names. Scale is one kind in all versions of what has it; the resource tells which is meant.
    pub(crate) fn is_same(&self, other: &Version) -> bool {
        (&self.kind, &self.group, &self.version, &self.resource) == (&other.kind, &other.group, &other.version, &other.resource)
    }

    /// Whether the OpenAPI of its own group describes what is seen. Who merges what is applied looks nowhere else (upstream's
    /// `TypeConverterManager`): not for a Deployment's scale, a pod's eviction, an account's token, or what is connected with.
    pub(crate) fn is_described(&self) -> bool {
        (&self.kind.group, &self.kind.version) == (&self.group, &self.version) && !self.kind.kind.ends_with("Options")
    }
}

/// A version that a rule names.
pub(crate) enum Fits {
    /// The request's own.
    Own,
    Other(Version),
}

impl Fits {
    /// The version; the request's own is made once, whoever asks for it.
    pub(crate) fn version(self, asked: &Attributes<'_>, own: &mut Option<Arc<Version>>) -> Arc<Version> {
        match self {
            Fits::Own => Arc::clone(own.get_or_insert_with(|| Arc::new(asked.version()))),
            Fits::Other(version) => Arc::new(version),
        }
    }
}

/// What a review tells of a write beside its UID and its objects, in the order of Go's fields (`admission/v1.AdmissionRequest`).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request<'a> {
    kind: KindName<'a>,
    resource: ResourceName<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: KindName<'a>,
    request_resource: ResourceName<'a>,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'a str,
    user_info: UserInfo<'a>,
    dry_run: bool,
    options: Value,
}

impl Request<'_> {
    /// As a tree, for expressions.
    pub(crate) fn to_value(&self) -> Value {
        // Texts, flags and a tree: there is nothing that a tree does not hold.
        serde_json::to_value(self).unwrap_or_default()
    }

    /// As an object of JSON.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[derive(Serialize)]
struct KindName<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
}

impl<'a> KindName<'a> {
    fn of(kind: &'a Gvk) -> KindName<'a> {
        KindName { group: &kind.group, version: &kind.version, kind: &kind.kind }
    }
}

#[derive(Serialize)]
struct ResourceName<'a> {
    group: &'a str,
    version: &'a str,
    resource: &'a str,
}

/// `authentication/v1.UserInfo`.
#[derive(Serialize)]
struct UserInfo<'a> {
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

/// An operation as upstream names it.
pub(super) fn named(operation: Operation) -> &'static str {
    match operation {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

impl<'a> Attributes<'a> {
    /// Create, update, delete or connect, as reviews name them.
    pub(crate) fn operation(&self) -> &'static str {
        named(self.write.operation)
    }

    /// The namespace; for a Namespace its own name.
    pub(crate) fn namespace(&self) -> &'a str {
        if self.is_namespace() { self.write.name } else { self.write.namespace }
    }

    /// The name, which the deletion of a collection does not tell.
    pub(crate) fn name(&self) -> &'a str {
        if self.write.cx.info.verb == "deletecollection" { "" } else { self.write.name }
    }

    pub(crate) fn is_namespace(&self) -> bool {
        let resource = &self.write.row.resource;
        resource.group.is_empty() && resource.resource == "namespaces"
    }

    /// Those of a kind of askers that are asked about this: nobody about a review, and about what is registered for admission those
    /// alone that are not registered themselves.
    pub(crate) async fn askers<T: Send + Sync + 'static>(&self, source: &Source<T>) -> Arc<Vec<Arc<T>>> {
        let resource = &self.write.row.resource;
        let is_own = resource.group == "admissionregistration.k8s.io" && OWN.contains(&resource.resource.as_str());
        let is_review = REVIEWS.iter().any(|(group, name)| resource.group == *group && resource.resource == *name);
        match (is_review, is_own) {
            (true, _) => Arc::default(),
            (false, true) => source.given().await,
            (false, false) => source.all().await,
        }
    }

    /// The version of the request.
    pub(crate) fn version(&self) -> Version {
        version_of(self.write.row, self.write.subresource, None)
    }

    /// The other served versions of the same objects.
    pub(crate) fn equivalents(&self) -> Vec<Version> {
        let own = &self.write.row.resource;
        let part = self.write.subresource;
        let rows = self.world.rows();
        let same = rows.iter().filter(|row| row.root_key == self.write.row.root_key);
        let others = same.filter(|row| (&row.resource.group, &row.resource.version) != (&own.group, &own.version));
        others.filter(|row| part.is_empty() || row.resource.subresource(part).is_some()).map(|row| version_of(row, part, Some(row))).collect()
    }

    /// The version that the first of the rules names that fits: the write's own if there is one, otherwise, if `equivalent`, another
    /// in which the same objects are served. Earlier rules count first, whatever version they name.
    pub(crate) fn fitting<'r>(&self, rules: impl Iterator<Item = &'r Rule> + Clone, equivalent: bool) -> Option<Fits> {
        let resource = &self.write.row.resource;
        let own = Asked {
            group: &resource.group,
            version: &resource.version,
            resource: &resource.resource,
            subresource: self.write.subresource,
            namespace: self.namespace(),
            operation: self.operation(),
        };
        if rules.clone().any(|rule| rule.matches(&own)) {
            return Some(Fits::Own);
        }
        let mut rules = rules.peekable();
        if !equivalent || rules.peek().is_none() {
            return None;
        }
        let others = self.equivalents();
        rules.find_map(|rule| {
            let fits = |other: &&Version| rule.matches(&Asked { group: &other.group, version: &other.version, resource: &other.resource, ..own });
            others.iter().find(fits).cloned().map(Fits::Other)
        })
    }

    /// The object as this write's admission sees it.
    pub(crate) fn view<'v>(&self, object: &'v Value) -> Cow<'v, Value> {
        if !self.is_scale() || object.is_null() || says_scale(object) {
            return Cow::Borrowed(object);
        }
        // An object whose scale cannot be told is seen as it is; validation refuses it.
        subresources::scale_of(self.write.row, object).map_or(Cow::Borrowed(object), Cow::Owned)
    }

    /// The object before the write, as this write's admission sees it; null if there is none.
    pub(crate) fn old(&self) -> Cow<'a, Value> {
        self.write.old.map_or(Cow::Owned(Value::Null), |old| self.view(old))
    }

    /// Writes a changed view back.
    pub(crate) fn put(&self, viewed: Value, object: &mut Value) {
        if self.is_scale() && !says_scale(object) {
            put_scale(self.write.row.custom.as_ref().and_then(|custom| custom.scale.as_ref()), &viewed, object);
        } else {
            *object = viewed;
        }
    }

    fn is_scale(&self) -> bool {
        self.write.subresource == "scale"
    }

    /// An object of the request's version in another one.
    ///
    /// # Errors
    /// A webhook does not convert it; in upstream's words.
    pub(crate) async fn to(&self, version: &Version, object: Value) -> Result<Value, String> {
        match &version.row {
            Some(row) if !object.is_null() => self.turned(self.write.row, row, object).await,
            _ => Ok(object),
        }
    }

    /// An object of another version in the request's. A custom object is of the version that it says: converters go by that, and
    /// whoever has changed it may have written another one there.
    ///
    /// # Errors
    /// It is not converted; in upstream's words.
    pub(crate) async fn from(&self, version: &Version, object: Value) -> Result<Value, String> {
        let own = self.write.row;
        let from = match (&version.row, &own.custom) {
            _ if object.is_null() => return Ok(object),
            (other, Some(custom)) if self.row(version).is_some() => {
                custom.family.convertible(&object, &own.api_version)?;
                if other.is_none() && object["apiVersion"] == own.api_version.as_str() {
                    return Ok(object);
                }
                own
            }
            (Some(row), _) => row.as_ref(),
            (None, _) => return Ok(object),
        };
        let turned = self.turned(from, own, object).await?;
        // What was set in the other version and is not in the schema of this one is cut, as whoever reads it next would cut it.
        if own.custom.is_some() { Ok(remade(turned, own.ty())?.value) } else { Ok(turned) }
    }

    async fn turned(&self, from: &Row, to: &Row, mut object: Value) -> Result<Value, String> {
        match to.reader() {
            Some(reader) => offload::resting(Box::pin(reader.turned(self.world, object))).await,
            None if to.custom.is_some() => {
                if let Some(fields) = object.as_object_mut() {
                    fields.insert("apiVersion".into(), to.api_version.as_str().into());
                }
                Ok(object)
            }
            None => Ok(convert::convert(object, &from.resource.kind, &to.resource.kind)),
        }
    }

    /// The request of a review, without its objects.
    pub(crate) fn request<'v>(&'v self, told: &'v Version) -> Request<'v> {
        let (write, user) = (self.write, &self.write.cx.user);
        let own = &write.row.resource;
        let kind = own.subresource(write.subresource).map_or(&own.kind, |part| &part.kind);
        let request_resource = ResourceName { group: &own.group, version: &own.version, resource: &own.resource };
        Request {
            kind: KindName::of(&told.kind),
            resource: ResourceName { group: &told.group, version: &told.version, resource: &told.resource },
            sub_resource: write.subresource,
            request_kind: KindName::of(kind),
            request_resource,
            request_sub_resource: write.subresource,
            name: self.name(),
            namespace: self.namespace(),
            operation: self.operation(),
            user_info: UserInfo { username: &user.name, uid: &user.uid, groups: &user.groups, extra: &user.extra },
            dry_run: write.dry_run,
            options: write.options.map_or(Value::Null, |options| options.to_value(write.operation)),
        }
    }

    /// Whether objects of the request's version are objects of another as they are.
    pub(crate) fn is_as_asked(&self, version: &Version) -> bool {
        version.row.is_none()
    }

    /// The type of the objects of a version; none for what is no stored kind and has no schema.
    pub(crate) fn ty<'v>(&'v self, version: &'v Version) -> Option<TypeRef<'v>> {
        let row = version.row.as_deref().unwrap_or(self.write.row);
        if version.kind == row.resource.kind { Some(row.ty()) } else { schema::builtin().kind(&version.kind) }
    }

    /// The row whose objects a version's are, if they are objects and no subresource's.
    pub(crate) fn row<'v>(&'v self, version: &'v Version) -> Option<&'v Row> {
        let row = version.row.as_deref().unwrap_or(self.write.row);
        (version.kind == row.resource.kind).then_some(row)
    }
}

/// Whether it is a scale itself that is written, as those see it who may change it.
fn says_scale(object: &Value) -> bool {
    object["kind"] == "Scale" && object["apiVersion"] == "autoscaling/v1"
}

/// Writes the replicas of a scale into its object. A scale without a number has none (`omitempty`).
fn put_scale(places: Option<&Scale>, viewed: &Value, object: &mut Value) {
    // An object whose scale cannot be told was seen as it is.
    if viewed["kind"] != "Scale" {
        return;
    }
    let replicas = viewed["spec"]["replicas"].as_i64().unwrap_or(0);
    match places {
        // What stands in its way is told by validation.
        Some(places) => drop(places.set_spec_replicas(object, replicas)),
        None => {
            if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                spec.insert("replicas".into(), replicas.into());
            }
        }
    }
}

fn version_of(row: &Row, part: &str, own: Option<&Arc<Row>>) -> Version {
    let resource = &row.resource;
    let kind = resource.subresource(part).map_or(&resource.kind, |part| &part.kind);
    Version {
        group: resource.group.clone(),
        version: resource.version.clone(),
        resource: resource.resource.clone(),
        row: own.filter(|row| *kind == row.resource.kind).cloned(),
        kind: kind.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_changed_scale_is_written_where_the_replicas_are() {
        let scale = |spec: Value| json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "spec": spec});
        let put = |places: Option<&Scale>, viewed: Value, mut object: Value| {
            put_scale(places, &viewed, &mut object);
            object
        };
        assert_eq!(put(None, scale(json!({"replicas": 3})), json!({"spec": {"replicas": 1, "a": 1}})), json!({"spec": {"replicas": 3, "a": 1}}));
        assert_eq!(put(None, scale(json!({})), json!({"spec": {"replicas": 2}})), json!({"spec": {"replicas": 0}}), "none is no null");
        assert_eq!(put(None, scale(json!({"replicas": 3})), json!({"spec": "a"})), json!({"spec": "a"}));
        let places = Scale { spec_replicas: ".spec.size.wanted".into(), status_replicas: String::new(), selector: String::new() };
        assert_eq!(put(Some(&places), scale(json!({"replicas": 3})), json!({"spec": {"a": 1}})), json!({"spec": {"a": 1, "size": {"wanted": 3}}}));
        assert_eq!(put(Some(&places), scale(json!({})), json!({"spec": {"size": {"wanted": 3}}})), json!({"spec": {"size": {"wanted": 0}}}));
        assert_eq!(put(None, json!({"kind": "A", "spec": {"replicas": 7}}), json!({"spec": {"replicas": 1}})), json!({"spec": {"replicas": 1}}));
    }
}
