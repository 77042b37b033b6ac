//! Whether a webhook is asked about a write, and in which version (upstream's `ShouldCallHook`).

use super::super::{
    attributes::{Attributes, Version},
    policy,
};
use crate::{
    Operation,
    gate::webhooks::Webhook,
    metrics::{Step, Whose},
    world::World,
};
use machinery::{Value, labels::Selector, status::Status};
use std::{ops::Deref, sync::Arc};

/// A webhook that is asked, and the version in which it wants the object.
pub(super) struct Invocation {
    pub(super) hook: Arc<Webhook>,
    pub(super) version: Arc<Version>,
}

/// An object in another version than the request's, as it was wanted before.
type Known = Vec<(Arc<Version>, Arc<Value>)>;

/// The object of a write and the one before it, in the versions that webhooks want them in: each is converted once, whoever asks.
#[derive(Default)]
pub(super) struct Turned {
    own: Option<Arc<Version>>,
    objects: Known,
    olds: Known,
}

/// An object in the version that a webhook wants.
pub(super) enum Form<'o> {
    /// The request's.
    Own(&'o Value),
    Turned(Arc<Value>),
}

impl Deref for Form<'_> {
    type Target = Value;

    fn deref(&self) -> &Value {
        match self {
            Form::Own(value) => value,
            Form::Turned(value) => value,
        }
    }
}

impl Turned {
    /// Both in a version.
    ///
    /// # Errors
    /// A webhook does not convert one; in upstream's words.
    pub(super) async fn of<'o>(
        &mut self,
        asked: &Attributes<'_>,
        version: &Arc<Version>,
        object: &'o Value,
        old: &'o Value,
    ) -> Result<(Form<'o>, Form<'o>), String> {
        if asked.is_as_asked(version) {
            return Ok((Form::Own(object), Form::Own(old)));
        }
        // In upstream's order: where both fail, the old one is told of.
        let old = Self::one(&mut self.olds, asked, version, old).await?;
        let object = Self::one(&mut self.objects, asked, version, object).await?;
        Ok((Form::Turned(object), Form::Turned(old)))
    }

    async fn one(known: &mut Known, asked: &Attributes<'_>, version: &Arc<Version>, object: &Value) -> Result<Arc<Value>, String> {
        let same = |other: &Version| (&other.kind.group, &other.kind.version) == (&version.kind.group, &version.kind.version);
        if let Some((_, found)) = known.iter().find(|(other, _)| same(other)) {
            return Ok(Arc::clone(found));
        }
        let turned = Arc::new(asked.to(version, object.clone()).await?);
        known.push((Arc::clone(version), Arc::clone(&turned)));
        Ok(turned)
    }

    /// The object is another now.
    pub(super) fn changed(&mut self) {
        self.objects.clear();
    }
}

/// The invocation of a webhook; none if the write does not concern it. `object` and `old` are null for what is not there.
pub(super) async fn find(
    asked: &Attributes<'_>,
    hook: &Arc<Webhook>,
    step: Step,
    (object, old): (&Value, &Value),
    turned: &mut Turned,
) -> Result<Option<Invocation>, Status> {
    // What goes wrong with a selector is no matter of those whom the write does not concern.
    let by_namespace = in_namespace(asked, hook.namespaces.as_ref(), object);
    if matches!(by_namespace, Ok(false)) {
        return Ok(None);
    }
    let by_object = by_labels(hook.objects.as_ref(), object, old);
    if matches!(by_object, Ok(false)) {
        return Ok(None);
    }
    let Some(fits) = asked.fitting(hook.rules.iter(), hook.equivalent) else { return Ok(None) };
    let version = fits.version(asked, &mut turned.own);
    by_namespace?;
    by_object?;
    if !hook.conditions.is_empty() {
        let (object, old) = turned.of(asked, &version, object, old).await.map_err(Status::internal)?;
        let refused = |why: String| {
            let resource = &asked.write.row.resource;
            Status::forbidden(&resource.group, &resource.resource, asked.name(), why)
        };
        let whose = Whose { kind: "webhook", name: &hook.name, step, operation: asked.operation() };
        if !policy::meets(asked, (hook.conditions.as_slice(), whose), hook.ignore, &version, &object, &old).map_err(refused)? {
            asked.world.metrics().admission().excluded(whose);
            return Ok(None);
        }
    }
    Ok(Some(Invocation { hook: Arc::clone(hook), version }))
}

/// Whether the write's namespace is selected; what lies in none always is.
pub(in crate::admission) fn in_namespace(asked: &Attributes<'_>, selector: Result<&Selector, &String>, object: &Value) -> Result<bool, Status> {
    let namespace = asked.namespace();
    if namespace.is_empty() && !asked.is_namespace() {
        return Ok(true);
    }
    let selector = selector.map_err(Status::internal)?;
    if selector.is_everything() {
        return Ok(true);
    }
    // The labels that a Namespace will have count, if the write tells them.
    let writes = matches!(asked.write.operation, Operation::Create | Operation::Update);
    if asked.is_namespace() && asked.write.subresource.is_empty() && writes {
        return Ok(selects(selector, object));
    }
    Ok(selects(selector, &*namespace_of(asked.world, namespace)?))
}

fn namespace_of(world: &World, name: &str) -> Result<Arc<Value>, Status> {
    world.read(("", "v1", "namespaces"), "", name)
}

/// Whether the object before or after the write is selected.
pub(in crate::admission) fn by_labels(selector: Result<&Selector, &String>, object: &Value, old: &Value) -> Result<bool, Status> {
    let selector = selector.map_err(Status::internal)?;
    let selected = |object: &Value| !object.is_null() && selects(selector, object);
    Ok(selector.is_everything() || selected(object) || selected(old))
}

fn selects(selector: &Selector, object: &Value) -> bool {
    let labels = object["metadata"]["labels"].as_object();
    selector.matches(|key| labels.and_then(|labels| labels.get(key)).and_then(Value::as_str))
}
