//! The texts of the free-form values in a message, for those kinds that keep them ([`Texts`]).

use super::wire::{Malformed, Payload, Reader};
use crate::{
    json::Texts,
    schema::{Type, TypeRef},
};

/// Walks a message whose decoding has succeeded. The types of these kinds do not nest in themselves.
pub(super) fn walk(ty: TypeRef<'_>, bytes: &[u8], texts: &mut Texts) -> Result<(), Malformed> {
    let mut reader = Reader::new(bytes);
    while let Some((tag, payload)) = reader.next()? {
        match (ty.get(), payload) {
            (Type::RawExtension, Payload::Bytes(json)) if tag == 1 => texts.add(json),
            (Type::Object(object), Payload::Bytes(bytes)) => {
                let embedded = || object.embedded.iter().find(|(t, _)| *t == tag).map(|(_, id)| *id);
                if let Some(inner) = object.by_tag(tag).map(|field| field.ty).or_else(embedded).map(|id| ty.to(id)) {
                    match inner.get() {
                        Type::List { elem, wrapped: false, .. } => walk(inner.to(*elem), bytes, texts)?,
                        Type::Object(_) | Type::RawExtension => walk(inner, bytes, texts)?,
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    Ok(())
}
