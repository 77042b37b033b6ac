//! Admission: what a cluster adds to objects and forbids, beyond what a kind says of itself.
//!
//! One ordered list of stages ([`STAGES`]) under upstream's names and in its order (`AllOrderedPlugins`): plug-ins of one shape
//! ([`Plugin`]), and those that ask others ([`webhook`]). Which of them are on the settings say
//! ([`crate::gate::settings`]). Mutating stages run first, on the object as sent and defaulted, and once more if a webhook has
//! changed it after others had seen it; validating stages see the object as it would be stored.
//!
//! A plug-in reads the store's memory and writes nothing, so a dry run needs no care of its own; the one exception is
//! ResourceQuota, which charges its quotas as the very last step ([`charge`]) and gives back what a write that was refused after
//! all was charged ([`quota::Charges::refund`]).

mod again;
mod always;
mod anti_affinity;
mod attributes;
mod certificates;
mod declared;
mod event_rate;
mod extended;
mod external_ips;
mod image_policy;
mod limits;
mod mountable;
mod namespace;
mod node;
mod node_requests;
mod node_selector;
mod owner_references;
mod pod;
mod pod_certificates;
mod policy;
mod pull_images;
mod quota;
mod rbac;
mod resize;
mod security;
mod service_account;
mod storage_objects;
mod tolerations;
mod webhook;

pub(crate) use quota::{Charges, charge, tidy};

use crate::{
    Context, Operation, Write,
    gate::order::{COUNT, ORDER},
    hooks::words,
    meta,
    metrics::Step,
    own,
    read::{items, text},
    rows::Row,
    world::World,
};
use again::Again;
use attributes::{Attributes, named};
use kinds::usage as amounts;
use machinery::{Value, apply, gvk::Gvk, json, names, quote::Quoted, schema::TypeRef, status::Status};
use std::{collections::HashSet, sync::Arc, time::Instant};

/// A plug-in that decides by what the server knows. Each method decides by the write whether it concerns the plug-in at all.
trait Plugin: Sync {
    /// Upstream's name of the plug-in.
    fn name(&self) -> &'static str;

    /// Changes the object.
    fn mutate(&self, _world: &World, _write: &Write<'_>, _object: &mut Value) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses the object.
    fn validate(&self, _world: &World, _write: &Write<'_>, _object: &Value) -> Result<(), Status> {
        Ok(())
    }
}

/// A stage of admission.
enum Stage {
    Plugin(&'static dyn Plugin),
    AutoProvision,
    ImagePolicy,
    MutatingPolicies,
    MutatingWebhooks,
    ValidatingPolicies,
    ValidatingWebhooks,
    /// Charged apart, when nothing else can refuse.
    Quota,
    /// The feature of the plug-in is off in the original.
    Idle,
}

impl Stage {
    /// Whether others are asked here in a step, which takes time that is told of: what the server knows takes none.
    fn asks(&self, step: Step) -> bool {
        match self {
            Stage::AutoProvision | Stage::MutatingPolicies | Stage::MutatingWebhooks => step == Step::Admit,
            Stage::ImagePolicy | Stage::ValidatingPolicies | Stage::ValidatingWebhooks => step == Step::Validate,
            Stage::Plugin(_) | Stage::Quota | Stage::Idle => false,
        }
    }
}

/// What a plug-in that asks others, or all of a step, has said of a write; it is counted.
fn counted(world: &World, write: &Write<'_>, plugin: Option<&str>, step: Step, begun: Instant, said: Result<(), Status>) -> Result<(), Status> {
    let (counts, operation, took) = (world.metrics().admission(), named(write.operation), begun.elapsed());
    match plugin {
        Some(name) => counts.plugin(name, step, operation, said.is_err(), took),
        None => counts.step(step, operation, said.is_err(), took),
    }
    said
}

/// The stages, each at the place that [`ORDER`] names.
static STAGES: [Stage; COUNT] = [
    Stage::Plugin(&always::AlwaysAdmit),
    Stage::AutoProvision,
    Stage::Plugin(&namespace::NamespaceLifecycle),
    Stage::Plugin(&namespace::NamespaceExists),
    Stage::Plugin(&anti_affinity::LimitPodHardAntiAffinityTopology),
    Stage::Plugin(&limits::LimitRanger),
    Stage::Plugin(&service_account::ServiceAccount),
    Stage::Plugin(&node::NodeRestriction),
    Stage::Plugin(&node::TaintNodesByCondition),
    Stage::Plugin(&pull_images::AlwaysPullImages),
    Stage::ImagePolicy,
    Stage::Plugin(&security::PodSecurity),
    Stage::Plugin(&node_selector::PodNodeSelector),
    Stage::Plugin(&pod::Priority),
    Stage::Plugin(&pod::DefaultTolerationSeconds),
    Stage::Plugin(&tolerations::PodTolerationRestriction),
    Stage::Plugin(&event_rate::EventRateLimit),
    Stage::Plugin(&extended::ExtendedResourceToleration),
    Stage::Plugin(&storage_objects::DefaultStorageClass),
    Stage::Plugin(&storage_objects::StorageObjectInUseProtection),
    Stage::Idle,
    Stage::Plugin(&owner_references::OwnerReferencesPermissionEnforcement),
    Stage::Plugin(&storage_objects::PersistentVolumeClaimResize),
    Stage::Plugin(&pod::RuntimeClass),
    Stage::Plugin(&certificates::CertificateRight::Approval),
    Stage::Plugin(&certificates::CertificateRight::Signing),
    Stage::Plugin(&certificates::ClusterTrustBundleAttest),
    Stage::Plugin(&certificates::CertificateSubjectRestriction),
    Stage::Plugin(&namespace::DefaultIngressClass),
    Stage::Plugin(&external_ips::DenyServiceExternalIps),
    Stage::Plugin(&pod::PodTopologyLabels),
    Stage::Plugin(&declared::NodeDeclaredFeatureValidator),
    Stage::Plugin(&resize::PodResizeValidator),
    Stage::MutatingPolicies,
    Stage::MutatingWebhooks,
    Stage::ValidatingPolicies,
    Stage::ValidatingWebhooks,
    Stage::Quota,
    Stage::Plugin(&always::AlwaysDeny),
];

/// Checks that upstream makes in the storage of these kinds: nobody can switch them off. They tell of an object by its own name.
static ALWAYS: [&dyn Plugin; 3] = [&policy::ParamRights, &certificates::SignedRequests, &pod_certificates::PodCertificateRequests];

/// The stages that are on, each with its name.
fn stages(world: &World) -> impl Iterator<Item = (&'static Stage, &'static str)> + '_ {
    let named = STAGES.iter().zip(ORDER).enumerate();
    named.filter(|(at, _)| world.config().admission.is_on(*at)).map(|(_, (stage, (name, _)))| (stage, name))
}

fn is_on(world: &World, name: &str) -> bool {
    ORDER.iter().position(|(known, _)| *known == name).is_some_and(|at| world.config().admission.is_on(at))
}

/// The mutating stages, but for deletions and connections; and what is looked at before the object is judged.
pub(crate) async fn mutate(world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
    let begun = Instant::now();
    let said = rounds(world, write, object).await;
    counted(world, write, None, Step::Admit, begun, said)?;
    own::owners_once(object, write.cx, true);
    rbac::check(world, write, object)
}

async fn rounds(world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
    if creates(write, "", "pods") && is_on(world, "ServiceAccount") {
        service_account::wait_for_default(world, write.namespace, object).await;
    }
    let (mut hooks, mut policies) = (Again::default(), Again::default());
    round(world, write, object, &mut hooks, &mut policies).await?;
    if hooks.wanted || policies.wanted {
        (hooks.second, policies.second) = (true, true);
        round(world, write, object, &mut hooks, &mut policies).await?;
    }
    Ok(())
}

async fn round(world: &World, write: &Write<'_>, object: &mut Value, hooks: &mut Again, policies: &mut Again) -> Result<(), Status> {
    for (stage, name) in stages(world) {
        let begun = stage.asks(Step::Admit).then(Instant::now);
        let said = match stage {
            Stage::Plugin(plugin) => plugin.mutate(world, write, object),
            Stage::AutoProvision => namespace::provide(world, write, object).await,
            Stage::MutatingWebhooks => webhook::admit(&Attributes { world, write }, object, hooks).await,
            Stage::MutatingPolicies => policy::admit(&Attributes { world, write }, object, policies).await,
            Stage::ImagePolicy | Stage::ValidatingPolicies | Stage::ValidatingWebhooks | Stage::Quota | Stage::Idle => Ok(()),
        };
        let said = match begun {
            Some(begun) => counted(world, write, Some(name), Step::Admit, begun, said),
            None => said,
        };
        said.inspect_err(|error| tracing::debug!(plugin = name, %error, "refused"))?;
        in_time(write)?;
    }
    Ok(())
}

/// The validating stages; `object` is null for a deletion. ResourceQuota is not among them: [`charge`] follows when nothing
/// else can refuse.
pub(crate) async fn validate(world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    for plugin in ALWAYS {
        plugin.validate(world, write, object).inspect_err(|error| tracing::debug!(plugin = plugin.name(), %error, "refused"))?;
    }
    let begun = Instant::now();
    let said = judge(world, write, object).await;
    counted(world, write, None, Step::Validate, begun, said)
}

async fn judge(world: &World, write: &Write<'_>, object: &Value) -> Result<(), Status> {
    for (stage, name) in stages(world) {
        let begun = stage.asks(Step::Validate).then(Instant::now);
        let said = match stage {
            Stage::Plugin(plugin) => plugin.validate(world, write, object),
            Stage::ImagePolicy => image_policy::review(world, write, object).await,
            Stage::ValidatingPolicies => policy::validate(&Attributes { world, write }, object).await,
            Stage::ValidatingWebhooks => webhook::validate(&Attributes { world, write }, object).await,
            Stage::AutoProvision | Stage::MutatingPolicies | Stage::MutatingWebhooks | Stage::Quota | Stage::Idle => Ok(()),
        };
        let said = match begun {
            Some(begun) => counted(world, write, Some(name), Step::Validate, begun, said),
            None => said,
        };
        said.inspect_err(|error| tracing::debug!(plugin = name, %error, "refused"))?;
        in_time(write)?;
    }
    Ok(())
}

/// Nobody is there any more to hear what was evaluated, and it was not evaluated to its end: policies and conditions whose failures
/// are ignored must not be got around by hanging up.
fn in_time(write: &Write<'_>) -> Result<(), Status> {
    match write.cx.was_cut_short() {
        true => Err(Status::timeout("Timeout: request did not complete within requested timeout")),
        false => Ok(()),
    }
}

/// All stages of a deletion: what would change its object can only refuse.
pub(crate) async fn remove(world: &World, write: &Write<'_>) -> Result<(), Status> {
    asks_mutating(world, write, &mut Value::Null).await?;
    validate(world, write, &Value::Null).await
}

/// All stages of a connection to a workload, whose object are its options. Gives those with which it is to be opened, if they are
/// others than those that were sent.
pub(crate) async fn connect(world: &World, cx: &Context, row: &Row, mut options: Value) -> Result<Option<Value>, Status> {
    let info = &cx.info;
    let write = Write {
        cx,
        row,
        operation: Operation::Connect,
        subresource: &info.subresource,
        namespace: &info.namespace,
        name: &info.name,
        dry_run: false,
        old: None,
        options: None,
    };
    let sent = options.clone();
    asks_mutating(world, &write, &mut options).await?;
    validate(world, &write, &options).await?;
    Ok((options != sent).then_some(options))
}

/// The mutating stages that ask others: no plug-in changes what is deleted or connected to.
async fn asks_mutating(world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
    let begun = Instant::now();
    let said = asked_of(world, write, object).await;
    counted(world, write, None, Step::Admit, begun, said)
}

async fn asked_of(world: &World, write: &Write<'_>, object: &mut Value) -> Result<(), Status> {
    const POLICIES: &str = "MutatingAdmissionPolicy";
    const WEBHOOKS: &str = "MutatingAdmissionWebhook";
    // Upstream's policies of this kind are not asked about deletions.
    if write.operation == Operation::Connect && is_on(world, POLICIES) {
        let begun = Instant::now();
        let said = policy::admit(&Attributes { world, write }, object, &mut Again::default()).await;
        counted(world, write, Some(POLICIES), Step::Admit, begun, said)?;
    }
    if !is_on(world, WEBHOOKS) {
        return Ok(());
    }
    let begun = Instant::now();
    let said = webhook::admit(&Attributes { world, write }, object, &mut Again::default()).await;
    counted(world, write, Some(WEBHOOKS), Step::Admit, begun, said)
}

/// Whether a write concerns a resource, in whatever version.
fn is(write: &Write<'_>, group: &str, resource: &str) -> bool {
    write.row.resource.group == group && write.row.resource.resource == resource
}

/// Whether a write makes a new object of a resource.
fn creates(write: &Write<'_>, group: &str, resource: &str) -> bool {
    write.operation == Operation::Create && write.subresource.is_empty() && is(write, group, resource)
}

/// 403 in the words that every plug-in refuses with.
fn forbidden(write: &Write<'_>, object: &Value, why: impl std::fmt::Display) -> Status {
    let meta = &object["metadata"];
    let named = if write.cx.info.verb == "deletecollection" { "" } else { write.name };
    let name = [named, text(meta, "name"), text(meta, "generateName")].into_iter().find(|n| !n.is_empty()).unwrap_or("Unknown");
    Status::forbidden(&write.row.resource.group, &write.row.resource.resource, name, why)
}

/// The kind that an object says it is; what it leaves out is as it was before.
fn said(before: &Value, next: &Value) -> Gvk {
    let or = |said: &str, own: &str| if said.is_empty() { own.to_owned() } else { said.to_owned() };
    let of = |field: &str| or(text(next, field), text(before, field));
    Gvk::parse(&of("apiVersion"), &of("kind"))
}

/// Whether an object of the server's own kinds is one of the kind that it says it is, before it is looked at as what it should be
/// (upstream decodes it by its own word first).
fn readable_as_said(before: &Value, next: &Value) -> Result<(), String> {
    let (own, other) = (Gvk::parse(text(before, "apiVersion"), text(before, "kind")), said(before, next));
    if own == other {
        return Ok(());
    }
    match machinery::schema::builtin().kind(&other) {
        Some(ty) => machinery::json::canonical(next.clone(), ty).map(drop),
        None => Err(words::unregistered(&other.kind, &other.api_version())),
    }
}

/// Whether an object of the server's own kinds still is of its kind, which it need not say; in the words of a conversion that there is not.
fn same_kind(before: &Value, next: &mut Value) -> Result<(), String> {
    let (own, other) = (Gvk::parse(text(before, "apiVersion"), text(before, "kind")), said(before, next));
    if own == other {
        if let Some(fields) = next.as_object_mut() {
            fields.extend(["apiVersion", "kind"].map(|field| (field.to_owned(), before[field].clone())));
        }
        return Ok(());
    }
    let package = own.group.split('.').next().filter(|group| !group.is_empty()).unwrap_or("core");
    Err(format!("converting ({}.{}) to ({package}.{}): unknown conversion", other.version, other.kind, own.kind))
}

/// What a patch has made of an object, as its kind is decoded. Of a custom object a null stays where the schema has none: validation
/// refuses it, while of a body it is left out.
fn remade(next: Value, ty: TypeRef<'_>) -> Result<json::Decoded, String> {
    let whole = ty.schema.is_lenient().then(|| next.clone());
    let read = json::canonical(next, ty)?;
    Ok(whole.and_then(|whole| json::from_maps(&whole, ty).ok()).unwrap_or(read))
}

/// Puts the managedFields back that were made unreadable, and tells so.
fn keep_managers(write: &Write<'_>, before: &Value, next: &mut Value) {
    if before["metadata"]["managedFields"] == next["metadata"]["managedFields"] {
        return;
    }
    let Some(why) = apply::unfit_managers(next) else { return };
    let fault = "this could be caused by an outdated mutating admission controller; please fix your requests";
    write.cx.warn(format!(".metadata.managedFields was in an invalid state after admission; {fault}: {why}"));
    meta::set(next, "managedFields", before["metadata"]["managedFields"].clone());
}

/// Why upstream's client does not even ask for what no object can be called.
fn unaskable(name: &str) -> Option<String> {
    match names::path_segment(name).as_slice() {
        [] => None,
        wrong => Some(format!("invalid resource name {}: [{}]", Quoted(name), wrong.join(" "))),
    }
}

/// Several errors as upstream joins them, each once.
pub(crate) fn joined(errors: &[String]) -> String {
    let mut told = HashSet::new();
    let once: Vec<&str> = errors.iter().map(String::as_str).filter(|error| told.insert(*error)).collect();
    match once.as_slice() {
        [one] => (*one).to_owned(),
        more => format!("[{}]", more.join(", ")),
    }
}

/// Adds to a list, which is made if it is not there.
fn push(object: &mut Value, key: &str, value: Value) {
    match object[key].as_array_mut() {
        Some(list) => list.push(value),
        None => object[key] = Value::Array(vec![value]),
    }
}

/// The objects that are marked as default by an annotation: the newest counts, then the first by name (upstream).
fn default_of(objects: Vec<Arc<Value>>, annotations: &[&str]) -> Option<Arc<Value>> {
    let marked = |o: &Arc<Value>| annotations.iter().any(|a| text(&o["metadata"]["annotations"], a) == "true");
    objects.into_iter().filter(marked).min_by(|a, b| {
        let created = |o: &Value| text(&o["metadata"], "creationTimestamp").to_owned();
        created(b).cmp(&created(a)).then_with(|| text(&a["metadata"], "name").cmp(text(&b["metadata"], "name")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plug_in_stands_at_the_place_of_its_name() {
        for (stage, (name, _)) in STAGES.iter().zip(ORDER) {
            let own = match stage {
                Stage::Plugin(plugin) => plugin.name(),
                Stage::AutoProvision => "NamespaceAutoProvision",
                Stage::ImagePolicy => "ImagePolicyWebhook",
                Stage::MutatingPolicies => "MutatingAdmissionPolicy",
                Stage::ValidatingPolicies => "ValidatingAdmissionPolicy",
                Stage::MutatingWebhooks => "MutatingAdmissionWebhook",
                Stage::ValidatingWebhooks => "ValidatingAdmissionWebhook",
                Stage::Quota => "ResourceQuota",
                Stage::Idle => continue,
            };
            assert_eq!(own, name);
        }
    }

    #[test]
    fn an_object_stays_of_its_kind() {
        let own = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap"});
        let told = |version: &str, kind: &str| {
            let mut next = serde_json::json!({"apiVersion": version, "kind": kind});
            readable_as_said(&own, &next).and_then(|()| same_kind(&own, &mut next)).map(|()| next)
        };
        assert_eq!(told("v1", "ConfigMap"), Ok(own.clone()));
        assert_eq!(told("", ""), Ok(own.clone()));
        assert_eq!(told("v1", "Secret").unwrap_err(), "converting (v1.Secret) to (core.ConfigMap): unknown conversion");
        let unknown = |kind: &str, version: &str| format!("no kind \"{kind}\" is registered for version \"{version}\" in scheme \"pkg/runtime/scheme.go:111\"");
        assert_eq!(told("v2", "ConfigMap").unwrap_err(), unknown("ConfigMap", "v2"));
        assert_eq!(told("example.com/v1", "").unwrap_err(), unknown("ConfigMap", "example.com/v1"));
    }
}
