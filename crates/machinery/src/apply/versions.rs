//! Versions of a kind: a set of fields is in the version in which its owner wrote, so what is compared with it or cut out by
//! it is an object in that version.

use crate::{Value, convert, gvk::Gvk, schema::TypeRef};

/// The kind that is written, in the version of the request.
pub(super) struct Versions<'a> {
    ty: TypeRef<'a>,
    gvk: Option<&'a Gvk>,
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
    pub(super) fn new(ty: TypeRef<'a>) -> Self {
        Self { ty, gvk: ty.gvk() }
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
            None => Form::Unknown,
            Some(_) if convert::changes_shape(own, &other) => Form::Other(other),
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

    /// An object of one form in another.
    pub(super) fn convert(&self, value: &Value, from: &Form, to: &Form) -> Value {
        match (self.gvk, from == to) {
            (Some(own), false) => {
                let gvk = |form: &Form| if let Form::Other(gvk) = form { gvk.clone() } else { own.clone() };
                convert::convert(value.clone(), &gvk(from), &gvk(to))
            }
            _ => value.clone(),
        }
    }
}
