//! Stored JSON to messages, without a tree and without a copy of any string: what lists, gets and watches of protobuf are made of.
//!
//! The result is that of [`super::encode`] of the same object, byte for byte. A tree's fields come in the order of their names,
//! and stored ones in that of the Go type: each is written where it is met, and an object's fields change places when it ends,
//! where they must. An embedded struct is one more look at its object. The same walk only counts for whom the length is enough.
//!
//! It reads what [`crate::json`] writes: no spaces, maps sorted, no key twice, numbers and free-form values as they are to be.
//! At anything else it gives up, and the caller takes the way by the tree, which judges it.

use super::{
    scan::{Raw, Scan, compare, unescape},
    wire::short_varint,
};
use crate::schema::{Object, Type, TypeRef};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::cmp::Ordering;

/// Appends the message of a stored object; `None`, and nothing, if it is not as it would be written.
pub(super) fn message(ty: TypeRef<'_>, json: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let before = out.len();
    let written = walk(ty, json, out);
    if written.is_none() {
        out.truncate(before);
    }
    written
}

/// The length of that message.
pub(super) fn length(ty: TypeRef<'_>, json: &[u8]) -> Option<usize> {
    let mut count = Count(0);
    walk(ty, json, &mut count).map(|()| count.0)
}

fn walk<S: Sink>(ty: TypeRef<'_>, json: &[u8], out: &mut S) -> Option<()> {
    // What is cut from text at its quotes is text.
    std::str::from_utf8(json).ok()?;
    let mut walk = Walk { scan: Scan::new(json), out, parts: Vec::with_capacity(32), spare: Vec::new() };
    walk.message(ty)?;
    walk.scan.is_at_end().then_some(())
}

/// Where a message goes.
trait Sink {
    fn len(&self) -> usize;
    fn bytes(&mut self, bytes: &[u8]);
    fn varint(&mut self, n: u64);
    fn truncate(&mut self, len: usize);
    /// Writes the length of what stands from `start` on before it.
    fn close(&mut self, start: usize);
    /// Puts the parts, which stand from `start` on, into their order.
    fn arrange(&mut self, start: usize, parts: &[Part], spare: &mut Vec<u8>);
}

impl Sink for Vec<u8> {
    fn len(&self) -> usize {
        self.len()
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn varint(&mut self, n: u64) {
        super::wire::varint(self, n);
    }

    fn truncate(&mut self, len: usize) {
        self.truncate(len);
    }

    fn close(&mut self, start: usize) {
        let end = self.len();
        let (length, used) = short_varint((end - start) as u64);
        self.extend_from_slice(&length[..used]);
        self.copy_within(start..end, start + used);
        self[start..start + used].copy_from_slice(&length[..used]);
    }

    fn arrange(&mut self, start: usize, parts: &[Part], spare: &mut Vec<u8>) {
        spare.clear();
        for part in parts {
            spare.extend_from_slice(&self[part.start..part.end]);
        }
        self.truncate(start);
        self.extend_from_slice(spare);
    }
}

/// Counts what would be written.
struct Count(usize);

impl Sink for Count {
    fn len(&self) -> usize {
        self.0
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.0 += bytes.len();
    }

    fn varint(&mut self, n: u64) {
        self.0 += varint_len(n);
    }

    fn truncate(&mut self, len: usize) {
        self.0 = len;
    }

    fn close(&mut self, start: usize) {
        self.0 += varint_len((self.0 - start) as u64);
    }

    fn arrange(&mut self, _: usize, _: &[Part], _: &mut Vec<u8>) {}
}

/// Seven bits a byte.
fn varint_len(n: u64) -> usize {
    (n.checked_ilog2().unwrap_or(0) / 7 + 1) as usize
}

/// A member of an object that is being written.
struct Part {
    /// The place of its field in the type.
    field: usize,
    /// Where it was written.
    start: usize,
    end: usize,
}

struct Walk<'j, 'o, S> {
    scan: Scan<'j>,
    out: &'o mut S,
    /// The members of the objects that are being written, the innermost last.
    parts: Vec<Part>,
    spare: Vec<u8>,
}

impl<'j, S: Sink> Walk<'j, '_, S> {
    fn message(&mut self, ty: TypeRef<'_>) -> Option<()> {
        match (ty.get(), self.scan.first()?) {
            (Type::Object(object), b'{') => self.object(ty, object),
            _ => self.special(ty),
        }
    }

    /// An object: what the wire nests of it, and its own fields.
    fn object(&mut self, ty: TypeRef<'_>, object: &Object) -> Option<()> {
        let start = self.scan.at;
        for (tag, embedded) in &object.embedded {
            let (before, ty) = (self.out.len(), ty.to(*embedded));
            let begun = self.open(*tag);
            if let Some(inner) = ty.object() {
                self.scan.at = start;
                self.object(ty, inner)?;
            }
            self.out.close(begun);
            // A tag and a length of zero: the embedded struct holds nothing.
            if self.out.len() == before + 2 {
                self.out.truncate(before);
            }
        }
        self.scan.at = start;
        self.fields(ty, object)
    }

    fn fields(&mut self, ty: TypeRef<'_>, object: &Object) -> Option<()> {
        let (first, base, mut sorted, mut least) = (self.parts.len(), self.out.len(), true, 0);
        let mut more = self.scan.enter(b'}')?;
        while more {
            let key = self.scan.key()?;
            let name = key.plain()?;
            match object.fields.binary_search_by(|field| field.name.as_bytes().cmp(&name)) {
                Ok(at) if object.fields[at].tag > 0 => {
                    let (field, start) = (&object.fields[at], self.out.len());
                    self.field(ty.to(field.ty), field.tag)?;
                    sorted &= at >= least;
                    least = at + 1;
                    self.parts.push(Part { field: at, start, end: self.out.len() });
                }
                _ => {
                    self.scan.skip()?;
                }
            }
            more = self.scan.next(b'}')?;
        }
        if !sorted {
            let parts = &mut self.parts[first..];
            parts.sort_unstable_by_key(|part| part.field);
            if parts.windows(2).any(|pair| pair[0].field == pair[1].field) {
                return None;
            }
            self.out.arrange(base, parts, &mut self.spare);
        }
        self.parts.truncate(first);
        Some(())
    }

    /// One field, with its tag; repeated for lists and maps.
    fn field(&mut self, ty: TypeRef<'_>, tag: u32) -> Option<()> {
        match (ty.get(), self.scan.first()?) {
            (_, b'n') => self.scan.word(b"null"),
            (Type::String, b'"') => self.text(tag),
            (Type::Bytes, b'"') => self.base64(tag),
            (Type::Bool, b't' | b'f') => {
                let bool = self.scan.bool()?;
                self.varint_field(tag, u64::from(bool));
                Some(())
            }
            (Type::Int32 | Type::Int64, b'-' | b'0'..=b'9') => {
                let number = self.scan.integer()?;
                self.varint_field(tag, number.cast_unsigned());
                Some(())
            }
            (Type::Double, b'-' | b'0'..=b'9') => {
                let number = self.scan.number()?.as_f64().unwrap_or(0.0);
                self.out.varint(u64::from(tag) << 3 | 1);
                self.out.bytes(&number.to_bits().to_le_bytes());
                Some(())
            }
            (Type::List { elem, wrapped: false, .. }, b'[') => self.elements(ty.to(*elem), tag),
            (Type::List { elem, .. }, b'[') => {
                let begun = self.open(tag);
                self.elements(ty.to(*elem), 1)?;
                self.out.close(begun);
                Some(())
            }
            (Type::Map { elem, .. }, b'{') => self.map(ty.to(*elem), tag),
            // A value of another JSON type has no place on the wire.
            (Type::String | Type::Bytes | Type::Bool | Type::Int32 | Type::Int64 | Type::Double | Type::List { .. } | Type::Map { .. }, _) => {
                self.scan.skip().map(drop)
            }
            _ => {
                let begun = self.open(tag);
                self.message(ty)?;
                self.out.close(begun);
                Some(())
            }
        }
    }

    /// An element must be there even if it is null: it counts.
    fn element(&mut self, ty: TypeRef<'_>, tag: u32) -> Option<()> {
        if self.scan.first()? == b'n' {
            self.head(tag, 0);
        }
        self.field(ty, tag)
    }

    fn elements(&mut self, elem: TypeRef<'_>, tag: u32) -> Option<()> {
        let mut more = self.scan.enter(b']')?;
        while more {
            self.element(elem, tag)?;
            more = self.scan.next(b']')?;
        }
        Some(())
    }

    fn map(&mut self, elem: TypeRef<'_>, tag: u32) -> Option<()> {
        let mut last: Option<&[u8]> = None;
        let mut more = self.scan.enter(b'}')?;
        while more {
            let begun = self.open(tag);
            let key = self.scan.key()?;
            if last.is_some_and(|last| compare(last, key.text) != Ordering::Less) {
                return None;
            }
            last = Some(key.text);
            self.raw(1, &key)?;
            self.element(elem, 2)?;
            self.out.close(begun);
            more = self.scan.next(b'}')?;
        }
        Some(())
    }

    /// The messages of types with an encoding of their own.
    fn special(&mut self, ty: TypeRef<'_>) -> Option<()> {
        match (ty.get(), self.scan.first()?) {
            (Type::IntOrString, b'-' | b'0'..=b'9') => {
                let number = self.scan.integer()?;
                self.varint_field(1, 0);
                self.varint_field(2, number.cast_unsigned());
                self.head(3, 0);
            }
            (Type::IntOrString, b'"') => {
                self.varint_field(1, 1);
                self.varint_field(2, 0);
                self.text(3)?;
            }
            (Type::Quantity, b'"') => self.text(1)?,
            (Type::Quantity, b'-' | b'0'..=b'9') => {
                let number = self.scan.number()?.to_string();
                self.string(1, number.as_bytes());
            }
            (Type::Time | Type::MicroTime, b'"') => self.time(matches!(ty.get(), Type::MicroTime))?,
            // Their text is kept, and the rest is sorted where it is stored, too: a set of fields in the order of sets.
            (Type::RawExtension | Type::RawJson | Type::Fields, _) => {
                let text = self.scan.skip()?;
                self.string(1, text);
            }
            (Type::SchemaOrArray(schema), b'[') => {
                let mut more = self.scan.enter(b']')?;
                while more {
                    self.field(ty.to(*schema), 2)?;
                    more = self.scan.next(b']')?;
                }
            }
            (Type::SchemaOrBool(_), b't' | b'f') => {
                let bool = self.scan.bool()?;
                self.varint_field(1, u64::from(bool));
            }
            (Type::SchemaOrBool(schema), _) => {
                self.varint_field(1, 1);
                self.field(ty.to(*schema), 2)?;
            }
            (Type::SchemaOrStrings(_), b'[') => {
                let mut more = self.scan.enter(b']')?;
                while more {
                    if self.scan.first()? == b'"' {
                        self.text(2)?;
                    } else {
                        self.scan.skip()?;
                    }
                    more = self.scan.next(b']')?;
                }
            }
            (Type::SchemaOrArray(schema) | Type::SchemaOrStrings(schema), _) => self.field(ty.to(*schema), 1)?,
            _ => drop(self.scan.skip()?),
        }
        Some(())
    }

    fn time(&mut self, micro: bool) -> Option<()> {
        let text = self.scan.quoted()?.plain()?;
        if let Some((seconds, nanos)) = crate::unix::parse(std::str::from_utf8(&text).ok()?) {
            self.varint_field(1, seconds.cast_unsigned());
            self.varint_field(2, if micro { u64::from(nanos) } else { 0 });
        }
        Some(())
    }

    fn text(&mut self, tag: u32) -> Option<()> {
        let raw = self.scan.quoted()?;
        self.raw(tag, &raw)
    }

    fn base64(&mut self, tag: u32) -> Option<()> {
        let text = self.scan.quoted()?.plain()?;
        let mut bytes = std::mem::take(&mut self.spare);
        bytes.clear();
        // What is no base64 is empty.
        if STANDARD.decode_vec(&text, &mut bytes).is_err() {
            bytes.clear();
        }
        self.string(tag, &bytes);
        self.spare = bytes;
        Some(())
    }

    fn raw(&mut self, tag: u32, raw: &Raw<'j>) -> Option<()> {
        if raw.escaped {
            let begun = self.open(tag);
            unescape(raw.text, |piece| self.out.bytes(piece))?;
            self.out.close(begun);
        } else {
            self.string(tag, raw.text);
        }
        Some(())
    }

    fn varint_field(&mut self, tag: u32, n: u64) {
        self.out.varint(u64::from(tag) << 3);
        self.out.varint(n);
    }

    fn string(&mut self, tag: u32, bytes: &[u8]) {
        self.head(tag, bytes.len());
        self.out.bytes(bytes);
    }

    fn head(&mut self, tag: u32, bytes: usize) {
        self.out.varint(u64::from(tag) << 3 | 2);
        self.out.varint(bytes as u64);
    }

    /// Begins what has a length; where that will stand.
    fn open(&mut self, tag: u32) -> usize {
        self.out.varint(u64::from(tag) << 3 | 2);
        self.out.len()
    }
}
