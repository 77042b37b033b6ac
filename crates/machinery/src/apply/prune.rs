//! Taking out of a merged object what its applier named before and names no more, unless somebody else owns it.
//!
//! The order is upstream's, since each step undoes a part of the one before: cut all that the applier owned; add back what
//! any owner names, in each owner's own version; add back what only fell because it stood below something that was cut.

use super::{
    compare::fields_of,
    managers::{Entry, Managers},
    merge::remove,
    set::FieldSet,
    versions::{Form, Versions},
};
use crate::Value;

/// The merged object without what `former` owned and nobody owns now. `own` is what is applied this time.
pub(super) fn prune(versions: &Versions<'_>, merged: Value, others: &Managers, own: &Entry, former: &Entry) -> Value {
    let home = versions.form(&former.api_version);
    let unchanged = home == Form::Same && former.set.is_within(&own.set);
    if unchanged || home == Form::Unknown || former.set.is_empty() {
        return merged;
    }
    let at_home = versions.convert(&merged, &Form::Same, &home);
    let ty = versions.type_of(&home);
    let last = former.set.with_named_fields(Some(ty));
    let mut cut = at_home.clone();
    remove(ty, &mut cut, &last);
    let mut form = home.clone();
    for (other, set) in by_form(versions, others, own, &home) {
        cut = versions.convert(&cut, &form, &other);
        let whole = versions.convert(&at_home, &home, &other);
        cut = add_back(versions, &whole, &cut, &other, &set);
        form = other;
    }
    cut = versions.convert(&cut, &form, &home);
    let named = |value: &Value| fields_of(ty, value).with_named_fields(Some(ty));
    let mut fallen = named(&at_home);
    fallen.subtract(&named(&cut));
    let mut pruned = at_home;
    remove(ty, &mut pruned, &fallen.intersection(&last));
    versions.convert(&pruned, &home, &Form::Same)
}

/// All that is owned, by the form in which it is told, the form of what is pruned first: a conversion may need what is
/// added back there.
fn by_form(versions: &Versions<'_>, others: &Managers, own: &Entry, home: &Form) -> Vec<(Form, FieldSet)> {
    let mut sets: Vec<(Form, FieldSet)> = vec![(home.clone(), FieldSet::new())];
    for entry in others.0.iter().chain([own]) {
        let form = versions.form(&entry.api_version);
        match sets.iter_mut().find(|(known, _)| *known == form) {
            _ if form == Form::Unknown => {}
            Some((_, set)) => set.union(&entry.set),
            None => sets.push((form, entry.set.clone())),
        }
    }
    sets
}

/// The whole object without what is neither in the cut one nor owned.
fn add_back(versions: &Versions<'_>, whole: &Value, cut: &Value, form: &Form, owned: &FieldSet) -> Value {
    let ty = versions.type_of(form);
    let named = |set: FieldSet| set.with_named_fields(Some(ty));
    let mut gone = named(fields_of(ty, whole));
    gone.subtract(&named(fields_of(ty, cut)));
    gone.subtract(&named(owned.clone()));
    let mut kept = whole.clone();
    remove(ty, &mut kept, &gone);
    kept
}
