//! Work that compares objects of several versions (who owns which field), which a webhook converts.
//!
//! That work is pure and waits for nobody. So it is run with the conversions that are known, writes down those that it lacks, and is
//! run again when they are there: each run gets further, and the last one is the result. What it lacks at once goes in one review.

use super::reader::Reader;
use crate::{hooks::Services, rows::Row};
use machinery::{
    Value,
    apply::{Conversions, Written, live_errors},
    gvk::Gvk,
    schema::TypeRef,
};
use parking_lot::Mutex;

/// Runs at most. A run asks for all versions at once; pruning asks for one after the other, and back.
const RUNS_MAX: usize = 64;

/// An object of one version, and it in another.
struct Known {
    value: Value,
    to: Gvk,
    converted: Value,
}

#[derive(Default)]
struct Replay {
    known: Vec<Known>,
    lacks: Mutex<Vec<(Value, Gvk)>>,
}

impl Conversions for Replay {
    fn convert(&self, value: &Value, _: &Gvk, to: &Gvk) -> Value {
        // What is not there yet is nothing in every version.
        if value.get("metadata").is_none_or(|metadata| metadata.get("uid").is_none()) {
            return value.clone();
        }
        if let Some(known) = self.known.iter().find(|known| known.to == *to && known.value == *value) {
            return known.converted.clone();
        }
        let mut lacks = self.lacks.lock();
        if !lacks.iter().any(|(lacked, version)| version == to && lacked == value) {
            lacks.push((value.clone(), to.clone()));
        }
        value.clone()
    }
}

/// What is wrong with an object of a version. Whose fields are whose is known by the fields that the version has: what was converted is
/// pruned only where it is read or stored.
fn misfit(ty: TypeRef<'_>, version: &Gvk, value: &Value) -> Option<String> {
    live_errors(ty.schema.kind(version).unwrap_or(ty), value)
}

/// An object that does not fit a version, as upstream tells it: what there was is looked at first, and told as it is.
fn told(live: Option<&Value>, value: &Value, why: String) -> String {
    let unowned = |value: &Value| {
        let mut value = value.clone();
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
        value
    };
    if live.is_some_and(|live| unowned(live) == unowned(value)) { why } else { format!("failed to convert new object: {why}") }
}

/// Nobody knows: objects of other versions look all the same, so that what is owned in them stays owned.
struct Unknown;

impl Conversions for Unknown {
    fn convert(&self, _: &Value, _: &Gvk, _: &Gvk) -> Value {
        Value::Null
    }
}

/// What `run` makes of objects of a row's kind, of which this is the one that there is.
///
/// # Errors
/// A webhook does not convert what is compared, or into no object of its version, in upstream's words; and what `run` makes where other
/// versions are left alone.
pub(crate) async fn replayed<T: Send>(
    services: &dyn Services,
    row: &Row,
    live: Option<&Value>,
    mut run: impl FnMut(Written<'_>) -> T + Send,
) -> Result<T, (String, T)> {
    let ty = row.ty();
    // Versions that differ by name alone are compared by what they have fields for.
    let Some(reader) = row.reader() else { return Ok(run(ty.into())) };
    let mut replay = Replay::default();
    for _ in 0..RUNS_MAX {
        let made = run(Written { ty, conversions: Some(&replay) });
        let lacks = std::mem::take(replay.lacks.get_mut());
        if lacks.is_empty() {
            return Ok(made);
        }
        if let Err(why) = Box::pin(learn(services, ty, live, reader, &mut replay.known, lacks)).await {
            return Err((why, run(Written { ty, conversions: Some(&Unknown) })));
        }
    }
    let why = "the versions of an object do not come to rest".to_owned();
    Err((why, run(Written { ty, conversions: Some(&Unknown) })))
}

async fn learn(
    services: &dyn Services,
    ty: TypeRef<'_>,
    live: Option<&Value>,
    reader: &Reader,
    known: &mut Vec<Known>,
    mut lacks: Vec<(Value, Gvk)>,
) -> Result<(), String> {
    while let Some((_, to)) = lacks.first() {
        let to = to.clone();
        let (now, later): (Vec<_>, Vec<_>) = lacks.into_iter().partition(|(_, version)| *version == to);
        lacks = later;
        let values: Vec<Value> = now.into_iter().map(|(value, _)| value).collect();
        let converted = reader.compared(services, &to, values.clone()).await?;
        let unfit = values.iter().zip(&converted).find_map(|(value, converted)| Some((value, misfit(ty, &to, converted)?)));
        if let Some((value, why)) = unfit {
            return Err(told(live, value, why));
        }
        known.extend(values.into_iter().zip(converted).map(|(value, converted)| Known { value, to: to.clone(), converted }));
    }
    Ok(())
}
