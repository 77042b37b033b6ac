//! Versions of a kind: a set of fields is in the version in which its owner wrote, so what is compared with it or cut out by
//! it is an object in that version.

use super::{managers::Managers, typed};
use crate::{Value, convert, gvk::Gvk, schema::TypeRef};

/// Who knows how the versions of a kind differ, where the program does not.
pub trait Conversions {
    /// An object of one version in another.
    fn convert(&self, value: &Value, from: &Gvk, to: &Gvk) -> Value;
}

/// The kind of what is written, in the version of the request.
#[derive(Clone, Copy)]
pub struct Written<'a> {
    /// Its type.
    pub ty: TypeRef<'a>,
    /// Who converts it; none where the program does.
    pub conversions: Option<&'a dyn Conversions>,
}

impl<'a> From<TypeRef<'a>> for Written<'a> {
    fn from(ty: TypeRef<'a>) -> Self {
        Self { ty, conversions: None }
    }
}

impl Written<'_> {
    /// Of a kind that a definition describes.
    pub(super) fn is_lenient(&self) -> bool {
        self.ty.schema.is_lenient()
    }
}

/// The kind that is written, in the version of the request.
pub(super) struct Versions<'a> {
    ty: TypeRef<'a>,
    gvk: Option<&'a Gvk>,
    conversions: Option<&'a dyn Conversions>,
}

/// What a version is to the one of the request.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Form {
    /// The same, or of the same shape.
    Same,
    /// Of another shape: objects are to be converted.
    Other(Gvk),
    /// Not a version of the kind any more; its owners are forgotten.
    Unknown,
}

impl<'a> Versions<'a> {
    pub(super) fn new(written: Written<'a>) -> Self {
        Self { ty: written.ty, gvk: written.ty.gvk(), conversions: written.conversions }
    }

    pub(super) fn ty(&self) -> TypeRef<'a> {
        self.ty
    }

    pub(super) fn form(&self, api_version: &str) -> Form {
        let Some(own) = self.gvk else { return Form::Same };
        let other = Gvk::parse(api_version, &own.kind);
        if other == *own {
            return Form::Same;
        }
        match self.ty.schema.kind(&other) {
            // Of an Event its owners in the other group are forgotten: who converts knows one group.
            _ if other.group != own.group => Form::Unknown,
            None => Form::Unknown,
            // The versions of a definition have schemas of their own.
            Some(_) if self.conversions.is_some() || self.ty.schema.is_lenient() || convert::changes_shape(own, &other) => Form::Other(other),
            Some(_) => Form::Same,
        }
    }

    /// The type of a form that is known.
    pub(super) fn type_of(&self, form: &Form) -> TypeRef<'a> {
        match form {
            Form::Other(gvk) => self.ty.schema.kind(gvk).unwrap_or(self.ty),
            _ => self.ty,
        }
    }

    /// Gives those who own parts of what a definition has made a whole since then the whole of it.
    pub(super) fn reconcile(&self, managers: &mut Managers) {
        // What is built in does not change.
        if !self.ty.schema.is_lenient() {
            return;
        }
        for entry in &mut managers.0 {
            match self.form(&entry.api_version) {
                Form::Unknown => {}
                form => entry.set.own_wholes(self.type_of(&form)),
            }
        }
    }

    /// What is wrong with an object as an owner's version has it. A conversion by name alone leaves it the fields that it has, which the
    /// other version may not know; and a definition's version that there is no more is none that anything is converted to.
    pub(super) fn misfit(&self, value: &Value, api_version: &str) -> Option<String> {
        if api_version.matches('/').count() > 1 {
            return Some(format!("unexpected GroupVersion string: {api_version}"));
        }
        if !self.ty.schema.is_lenient() {
            return None;
        }
        match self.form(api_version) {
            Form::Unknown => Some(format!("request to convert CR to an invalid group/version: {api_version}")),
            form @ Form::Other(_) if self.conversions.is_none() => typed::live_errors(self.type_of(&form), value),
            Form::Same | Form::Other(_) => None,
        }
    }

    /// An object of one form in another.
    pub(super) fn convert(&self, value: &Value, from: &Form, to: &Form) -> Value {
        match (self.gvk, from == to) {
            (Some(own), false) => {
                let gvk = |form: &Form| if let Form::Other(gvk) = form { gvk.clone() } else { own.clone() };
                match self.conversions {
                    Some(conversions) => conversions.convert(value, &gvk(from), &gvk(to)),
                    None => convert::convert(value.clone(), &gvk(from), &gvk(to)),
                }
            }
            _ => value.clone(),
        }
    }
}
