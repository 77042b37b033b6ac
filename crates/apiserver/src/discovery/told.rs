//! The types of aggregated discovery (`apidiscovery.k8s.io/v2`), which are no part of the published schema: the order of their
//! fields in JSON, and their tags in protobuf.

use bytes::Bytes;
use machinery::{
    Value,
    gvk::Gvk,
    schema::{Builder, Field, ListType, Object, Schema, Type, TypeId, TypeRef},
};
use std::sync::LazyLock;

struct Types {
    schema: Schema,
    list: TypeId,
    group: TypeId,
}

static TYPES: LazyLock<Types> = LazyLock::new(|| {
    let mut builder = Builder::new();
    let text = builder.plain(&Type::String);
    let texts = builder.list(text, ListType::Atomic, false);
    let mut object = |name: &'static str, fields: &[(&'static str, TypeId, u32)]| {
        let field = |&(name, ty, tag): &(&'static str, TypeId, u32)| {
            let mut field = Field::new(name, ty);
            field.tag = tag;
            field
        };
        let mut described = Object::anonymous(false, false);
        described.name = name.into();
        described.proto = name.into();
        described.fields = fields.iter().map(field).collect();
        if name == "APIGroupDiscoveryList" {
            described.gvk = Some(Gvk::parse("apidiscovery.k8s.io/v2", name));
        }
        let ty = builder.object(described);
        (ty, builder.list(ty, ListType::Atomic, false))
    };
    let (kind, kinds) = object("GroupVersionKind", &[("group", text, 1), ("version", text, 2), ("kind", text, 3)]);
    let subresource = [("subresource", text, 1), ("responseKind", kind, 2), ("acceptedTypes", kinds, 3), ("verbs", texts, 4)];
    let (_, subresources) = object("APISubresourceDiscovery", &subresource);
    let resource = [
        ("resource", text, 1),
        ("responseKind", kind, 2),
        ("scope", text, 3),
        ("singularResource", text, 4),
        ("verbs", texts, 5),
        ("shortNames", texts, 6),
        ("categories", texts, 7),
        ("subresources", subresources, 8),
    ];
    let (_, resources) = object("APIResourceDiscovery", &resource);
    let (_, versions) = object("APIVersionDiscovery", &[("version", text, 1), ("resources", resources, 2), ("freshness", text, 3)]);
    let (metadata, _) = object("ObjectMeta", &[("name", text, 1), ("resourceVersion", text, 6)]);
    let (group, groups) = object("APIGroupDiscovery", &[("metadata", metadata, 1), ("versions", versions, 2)]);
    let (about, _) = object("ListMeta", &[("resourceVersion", text, 2)]);
    let kinds = [("kind", text, 0), ("apiVersion", text, 0), ("metadata", about, 1), ("items", groups, 2)];
    let (list, _) = object("APIGroupDiscoveryList", &kinds);
    Types { schema: builder.build(), list, group }
});

fn of(id: TypeId) -> TypeRef<'static> {
    TypeRef { schema: &TYPES.schema, id }
}

/// A group's part as the original writes it.
pub(crate) fn in_order(group: &Value) -> Vec<u8> {
    machinery::json::encode_as(Some(of(TYPES.group)), group)
}

/// A document as a message.
pub(crate) fn packed(document: &[u8]) -> Bytes {
    machinery::proto::encode(of(TYPES.list), &machinery::json::read(document).unwrap_or_default()).into()
}
