//! Compressed answers. A large list is put together from pieces that each object keeps, so that it is compressed once,
//! however often it is listed.
//!
//! A deflate stream (RFC 1951) may be cut at byte boundaries ("sync flush"), and parts that do not refer to each other can
//! be joined in any order. An object that is listed again keeps its part; objects that are listed for the first time are
//! compressed together, as a stretch, which costs less and packs better. Every reader of gzip (RFC 1952) takes the result
//! for an ordinary stream.

use bytes::Bytes;
use flate2::{Compress, CompressError, Compression, FlushCompress, write::GzEncoder};
use machinery::proto::ItemHead;
use std::io::Write as _;
use store::{Deflated, Entry};

/// Responses from this size on are compressed when asked for, as upstream's.
pub(crate) const MIN_BYTES: usize = 128 * 1024;
/// Upstream's level: the least work.
const LEVEL: u32 = 1;
/// The header: deflate, no name, no time, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block, which is empty.
const LAST_BLOCK: [u8; 2] = [3, 0];

/// Bytes that are needed once.
pub(crate) fn whole(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 6), Compression::new(LEVEL));
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// An object of a list.
pub(crate) struct Item<'e> {
    entry: &'e Entry,
    encoding: Deflated,
    lead: Lead,
    body: Bytes,
}

/// What stands before an object.
enum Lead {
    /// Nothing: the first of a JSON list; the pieces that are kept begin with a comma.
    Nothing,
    Comma,
    Protobuf(ItemHead),
}

impl<'e> Item<'e> {
    /// An object of a JSON list, at a place in it.
    pub(crate) fn json(entry: &'e Entry, at: usize) -> Item<'e> {
        let lead = if at == 0 { Lead::Nothing } else { Lead::Comma };
        Item { entry, encoding: Deflated::Json, lead, body: entry.json.clone() }
    }

    /// An object of a protobuf list with its message.
    pub(crate) fn protobuf(entry: &'e Entry, message: Bytes) -> Item<'e> {
        Item { entry, encoding: Deflated::Protobuf, lead: Lead::Protobuf(ItemHead::new(message.len())), body: message }
    }

    fn lead(&self) -> &[u8] {
        match &self.lead {
            Lead::Nothing => b"",
            Lead::Comma => b",",
            Lead::Protobuf(head) => head.as_ref(),
        }
    }

    /// The bytes that it takes in its list, uncompressed.
    pub(crate) fn len(&self) -> usize {
        self.lead().len() + self.body.len()
    }
}

/// A list: `head`, the objects, `tail`.
pub(crate) fn list(head: &[u8], items: &[Item<'_>], tail: &[u8]) -> Result<Vec<u8>, CompressError> {
    let mut out = Joined::new(items.iter().map(Item::len).sum::<usize>() / 4);
    // A compressor is a quarter of a megabyte that must be cleared: a list of kept pieces needs none.
    let mut apart = None;
    out.stored(head)?;
    for item in items {
        let plain = [item.lead(), &item.body];
        if matches!(item.lead, Lead::Nothing) {
            out.stored(&item.body)?;
            continue;
        }
        match item.entry.deflated(item.encoding, || piece(apart.get_or_insert_with(compressor), plain)) {
            Some(piece) => out.piece(piece, plain)?,
            None => plain.into_iter().try_for_each(|bytes| out.stretch(bytes))?,
        }
    }
    out.stored(tail)?;
    out.finish()
}

fn compressor() -> Compress {
    Compress::new(Compression::new(LEVEL), false)
}

/// An object and what stands before it, compressed without regard to the rest. `None` if that fails, which it does not in
/// memory.
fn piece(compress: &mut Compress, [lead, body]: [&[u8]; 2]) -> Option<Box<[u8]>> {
    compress.reset();
    let mut out = Vec::new();
    deflate(compress, lead, FlushCompress::None, &mut out).ok()?;
    deflate(compress, body, FlushCompress::Sync, &mut out).ok()?;
    Some(out.into())
}

/// Takes in all of `input`, and with a flush puts out all that is pending.
fn deflate(compress: &mut Compress, input: &[u8], flush: FlushCompress, out: &mut Vec<u8>) -> Result<(), CompressError> {
    let begun = compress.total_in();
    loop {
        let taken = usize::try_from(compress.total_in() - begun).unwrap_or(input.len());
        let rest = input.get(taken..).unwrap_or_default();
        out.reserve(rest.len() / 4 + 64);
        compress.compress_vec(rest, out, flush)?;
        // Room that is left over says that nothing is pending.
        if compress.total_in() - begun == input.len() as u64 && out.len() < out.capacity() {
            return Ok(());
        }
    }
}

/// A gzip stream that is put together.
struct Joined {
    out: Vec<u8>,
    /// Of the plain bytes, by the processor's own instructions: flate2's would take more time than all the rest.
    checksum: crc32fast::Hasher,
    plain_bytes: u32,
    /// Of the stretches, once there is one.
    compress: Option<Compress>,
    /// A stretch is open: the compressor holds bytes of it.
    open: bool,
}

impl Joined {
    fn new(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity + HEADER.len());
        out.extend_from_slice(&HEADER);
        Joined { out, checksum: crc32fast::Hasher::new(), plain_bytes: 0, compress: None, open: false }
    }

    /// Adds bytes to the open stretch.
    fn stretch(&mut self, bytes: &[u8]) -> Result<(), CompressError> {
        self.count(bytes);
        let compress = self.compress.get_or_insert_with(compressor);
        if !self.open {
            // What was put in between is in the reader's window, but not in the compressor's.
            compress.reset();
            self.open = true;
        }
        deflate(compress, bytes, FlushCompress::None, &mut self.out)
    }

    /// Adds bytes as they are, for what is short and stands alone: blocks of a length, its complement, and so many bytes.
    fn stored(&mut self, bytes: &[u8]) -> Result<(), CompressError> {
        self.close()?;
        self.count(bytes);
        for block in bytes.chunks(usize::from(u16::MAX)) {
            let length = block.len() as u16;
            self.out.push(0);
            self.out.extend_from_slice(&length.to_le_bytes());
            self.out.extend_from_slice(&(!length).to_le_bytes());
            self.out.extend_from_slice(block);
        }
        Ok(())
    }

    /// Adds a piece that was compressed before.
    fn piece(&mut self, piece: &[u8], plain: [&[u8]; 2]) -> Result<(), CompressError> {
        self.close()?;
        self.out.extend_from_slice(piece);
        plain.into_iter().for_each(|bytes| self.count(bytes));
        Ok(())
    }

    /// What the trailer tells: a checksum, and the length modulo 2^32.
    fn count(&mut self, plain: &[u8]) {
        self.checksum.update(plain);
        self.plain_bytes = self.plain_bytes.wrapping_add(plain.len() as u32);
    }

    fn close(&mut self) -> Result<(), CompressError> {
        match &mut self.compress {
            Some(compress) if std::mem::take(&mut self.open) => deflate(compress, b"", FlushCompress::Sync, &mut self.out),
            _ => Ok(()),
        }
    }

    fn finish(mut self) -> Result<Vec<u8>, CompressError> {
        self.close()?;
        self.out.extend_from_slice(&LAST_BLOCK);
        self.out.extend_from_slice(&self.checksum.finalize().to_le_bytes());
        self.out.extend_from_slice(&self.plain_bytes.to_le_bytes());
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use machinery::{Value, gvk::Gvk, proto, schema};
    use serde_json::json;
    use std::{io::Read as _, sync::Arc};
    use store::{Draft, Expect, Options, Store};

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut plain).expect("one stream of gzip with a right checksum");
        plain
    }

    /// A list as JSON: compressed and unpacked again, and as it should be.
    fn json_lists(entries: &[Arc<Entry>]) -> [Vec<u8>; 2] {
        let items: Vec<_> = entries.iter().enumerate().map(|(at, entry)| Item::json(entry, at)).collect();
        let texts: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&e.json).into_owned()).collect();
        [unpacked(&list(b"{[", &items, b"]}").expect("compressed")), format!("{{[{}]}}", texts.join(",")).into_bytes()]
    }

    /// The same as protobuf.
    fn protobuf_lists(entries: &[Arc<Entry>]) -> [Vec<u8>; 2] {
        let kind = Gvk { group: String::new(), version: "v1".into(), kind: "ConfigMap".into() };
        let ty = schema::builtin().kind(&kind).expect("a kind");
        let messages: Vec<Bytes> = entries.iter().map(|e| e.protobuf(|value| proto::encode_raw(ty, value))).collect();
        let items: Vec<_> = entries.iter().zip(&messages).map(|(entry, message)| Item::protobuf(entry, message.clone())).collect();
        let (kind, metadata) = (Gvk { kind: "ConfigMapList".into(), ..kind }, json!({"resourceVersion": "7"}));
        let frame = proto::ListFrame::new(&kind, &metadata, items.iter().map(Item::len).sum());
        [unpacked(&list(&frame.head, &items, &frame.tail).expect("compressed")), proto::list(&kind, &metadata, messages.iter().map(AsRef::as_ref))]
    }

    async fn put(store: &Store, number: usize, data: &str) -> Arc<Entry> {
        let bucket = store.bucket("/registry/configmaps/");
        let value: Value = json!({"metadata": {"name": format!("map-{number}")}, "data": {"data": data}});
        store.put(&bucket, &format!("/registry/configmaps/default/map-{number}"), Expect::Absent, Draft::new(value, Vec::new())).await.expect("stored")
    }

    #[tokio::test]
    async fn lists_are_the_same_text_however_often_and_in_whatever_order_their_objects_are_listed() {
        let store = Store::in_memory(&Options::default()).expect("a store");
        let mut entries = Vec::new();
        for number in 0..40 {
            // From the compressible to what takes more room than it had.
            let data: String = (0..number * 50).map(|n| char::from(b'#' + (n * n * (number + 7) % 89) as u8)).collect();
            entries.push(put(&store, number, &data).await);
        }
        for lists in [json_lists, protobuf_lists] {
            // Only some of them have been listed before, then all, then in another order.
            let every_third: Vec<_> = entries.iter().step_by(3).cloned().collect();
            let reversed: Vec<_> = entries.iter().rev().cloned().collect();
            for entries in [&every_third, &every_third, &entries, &entries, &entries, &reversed] {
                let [packed, plain] = lists(entries);
                assert!(packed == plain, "{}\n{}", String::from_utf8_lossy(&packed), String::from_utf8_lossy(&plain));
            }
            let [packed, plain] = lists(&[]);
            assert_eq!(packed, plain);
        }
    }

    #[tokio::test]
    async fn what_is_listed_again_is_compressed_once() {
        let store = Store::in_memory(&Options::default()).expect("a store");
        let entry = put(&store, 1, "data").await;
        let never = || panic!("not for the first list, and not when it is kept");
        assert_eq!(entry.deflated(Deflated::Json, never), None);
        assert_eq!(entry.deflated(Deflated::Protobuf, never), None, "each encoding counts by itself");
        assert_eq!(entry.deflated(Deflated::Json, || Some(Box::new([7]))), Some([7].as_slice()));
        assert_eq!(entry.deflated(Deflated::Json, never), Some([7].as_slice()));
    }
}
