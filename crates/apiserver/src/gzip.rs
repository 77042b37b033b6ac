//! Compressed answers. A large list is put together from stretches that are kept, so that it is compressed once, however
//! often it is listed, and while it is sent for the first time.
//!
//! A deflate stream (RFC 1951) may be cut at byte boundaries ("sync flush"), and parts that do not refer to each other can
//! be joined. A stretch is some [`STRETCH_BYTES`] of consecutive objects of a list; where it ends is decided by the object it
//! ends with, so that a change of one object costs one stretch and not all that come after it. A stretch is known by the
//! revisions of its objects, kept as long as lists ask for it, and as many as [`KEPT_BYTES_MAX`] holds. Every reader of gzip
//! (RFC 1952) takes the result for an ordinary stream. Nobody waits for another's compression: two that ask for the same
//! stretch at once both make it.

use crate::{
    negotiate::Encoding,
    rows::Row,
    storage,
    stretches::{Name, Stretch},
};
use bytes::Bytes;
use flate2::{Compress, CompressError, Compression, FlushCompress, write::GzEncoder};
use machinery::proto::ItemHead;
use std::{collections::VecDeque, io::Write as _, sync::Arc, vec};
use store::Entry;

/// Responses from this size on are compressed when asked for, as upstream's.
pub(crate) const MIN_BYTES: usize = 128 * 1024;
/// Upstream's level: the least work.
const LEVEL: u32 = 1;
/// The header: deflate, no name, no time, an unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
/// The last block, which is empty.
const LAST_BLOCK: [u8; 2] = [3, 0];
/// Bytes of a stretch before it is compressed, on average.
const STRETCH_BYTES: usize = 100 * 1024;
/// No stretch is longer than this and one object.
const STRETCH_BYTES_MAX: usize = 4 * STRETCH_BYTES;
/// Compressed bytes and new stretches that are made at a time.
const WINDOW_BYTES: usize = 64 * 1024;
const WINDOW_MADE: usize = 4;

/// Bytes that are needed once.
pub(crate) fn whole(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(bytes.len() / 6), Compression::new(LEVEL));
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// An answer that is compressed as it is made, and kept by nobody.
pub(crate) struct Packed(GzEncoder<Vec<u8>>);

impl Packed {
    pub(crate) fn new() -> Packed {
        Packed(GzEncoder::new(Vec::new(), Compression::new(LEVEL)))
    }

    /// Takes in a window; returns what is ready, which may be nothing. Compressing into memory cannot fail.
    pub(crate) fn push(&mut self, window: &[u8]) -> Bytes {
        let _ = self.0.write_all(window);
        std::mem::take(self.0.get_mut()).into()
    }

    /// The end.
    pub(crate) fn finish(&mut self) -> Bytes {
        let _ = self.0.try_finish();
        std::mem::take(self.0.get_mut()).into()
    }
}

/// Puts a compressed list together, window by window.
pub(crate) struct Packer {
    row: Arc<Row>,
    encoding: Encoding,
    entries: vec::IntoIter<Arc<Entry>>,
    /// Before the first stretch.
    head: Option<Vec<u8>>,
    tail: Vec<u8>,
    /// No object was written: the first has no comma before it.
    first: bool,
    /// Of the plain bytes, by the processor's own instructions.
    checksum: crc32fast::Hasher,
    plain_bytes: u32,
    /// A compressor is a quarter of a megabyte that must be cleared: a list of kept stretches needs none.
    compress: Option<Compress>,
}

impl Packer {
    pub(crate) fn new(row: &Arc<Row>, encoding: Encoding, head: Vec<u8>, entries: vec::IntoIter<Arc<Entry>>, tail: Vec<u8>) -> Packer {
        Packer {
            row: Arc::clone(row),
            encoding,
            entries,
            head: Some(head),
            tail,
            first: true,
            checksum: crc32fast::Hasher::new(),
            plain_bytes: 0,
            compress: None,
        }
    }

    /// Makes a window; `None` if it was the last.
    pub(crate) fn window(&mut self, out: &mut VecDeque<Bytes>) -> Option<()> {
        let (mut bytes, mut made) = (0, 0);
        if let Some(head) = self.head.take() {
            let mut begin = HEADER.to_vec();
            self.stored(&head, &mut begin);
            out.push_back(begin.into());
        }
        while bytes < WINDOW_BYTES && made < WINDOW_MADE {
            let (name, count) = self.next_stretch();
            if count == 0 {
                out.push_back(self.end());
                return None;
            }
            // What a webhook has converted may be another the next time at the same revisions.
            let keeps = self.row.reader().is_none();
            let stretch = match keeps.then(|| self.row.stretches().get(name)).flatten() {
                Some(stretch) => stretch,
                None => {
                    made += 1;
                    let stretch = self.make(count);
                    if keeps {
                        self.row.stretches().put(name, stretch.clone());
                    }
                    stretch
                }
            };
            self.entries.by_ref().take(count).for_each(drop);
            self.first = false;
            self.checksum.combine(&stretch.checksum);
            self.plain_bytes = self.plain_bytes.wrapping_add(stretch.plain_bytes);
            bytes += stretch.packed.len();
            out.push_back(stretch.packed);
        }
        Some(())
    }

    /// The name of the next stretch, and of how many objects it is.
    fn next_stretch(&self) -> (Name, usize) {
        let mut name = (u64::from(self.encoding == Encoding::Protobuf), u64::from(self.first));
        let (mut bytes, mut count) = (0, 0);
        for entry in self.entries.as_slice() {
            name = (scatter(name.0 ^ entry.revision), scatter(name.1.rotate_left(7).wrapping_add(entry.revision)));
            bytes += entry.json.len();
            count += 1;
            // An object ends a stretch the more likely the larger it is, whatever comes before it.
            let share = u64::MAX / STRETCH_BYTES as u64 * entry.json.len().min(STRETCH_BYTES) as u64;
            if bytes >= STRETCH_BYTES_MAX || scatter(entry.create_revision) < share {
                break;
            }
        }
        (name, count)
    }

    /// Compresses the next objects without regard to what comes before. Compressing into memory cannot fail.
    fn make(&mut self, count: usize) -> Stretch {
        let mut plain = Vec::with_capacity(STRETCH_BYTES);
        for (at, entry) in self.entries.as_slice().iter().take(count).enumerate() {
            if self.encoding == Encoding::Protobuf {
                plain.extend_from_slice(ItemHead::new(storage::protobuf_len(&self.row, entry)).as_ref());
                storage::write_protobuf(&self.row, entry, &mut plain);
                continue;
            }
            if !(self.first && at == 0) {
                plain.push(b',');
            }
            storage::item_json(&self.row, entry).into_iter().for_each(|part| plain.extend_from_slice(part));
        }
        let compress = self.compress.get_or_insert_with(|| Compress::new(Compression::new(LEVEL), false));
        compress.reset();
        let mut packed = Vec::new();
        if let Err(error) = deflate(compress, &plain, FlushCompress::Sync, &mut packed) {
            tracing::error!(%error, "a list could not be compressed");
        }
        packed.shrink_to_fit();
        let mut checksum = crc32fast::Hasher::new();
        checksum.update(&plain);
        Stretch { packed: packed.into(), checksum, plain_bytes: plain.len() as u32 }
    }

    /// Adds bytes as they are, for what is short and stands alone: blocks of a length, its complement, and so many bytes.
    fn stored(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        // What the trailer tells: a checksum, and the length modulo 2^32.
        self.checksum.update(bytes);
        self.plain_bytes = self.plain_bytes.wrapping_add(bytes.len() as u32);
        for block in bytes.chunks(usize::from(u16::MAX)) {
            let length = block.len() as u16;
            out.push(0);
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(&(!length).to_le_bytes());
            out.extend_from_slice(block);
        }
    }

    fn end(&mut self) -> Bytes {
        let mut out = Vec::new();
        let tail = std::mem::take(&mut self.tail);
        self.stored(&tail, &mut out);
        out.extend_from_slice(&LAST_BLOCK);
        out.extend_from_slice(&self.checksum.clone().finalize().to_le_bytes());
        out.extend_from_slice(&self.plain_bytes.to_le_bytes());
        out.into()
    }
}

/// Every bit of the number decides on every bit of the result (the last steps of splitmix64).
fn scatter(number: u64) -> u64 {
    let mut x = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stretches::KEPT_AGE;
    use machinery::{Value, proto};
    use serde_json::json;
    use std::io::Read as _;
    use store::{Draft, Expect, Options, Store};

    fn unpacked(packed: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(packed).read_to_end(&mut plain).expect("one stream of gzip with a right checksum");
        plain
    }

    fn row() -> Arc<Row> {
        let found = machinery::resources::builtin().iter().find(|r| r.resource == "configmaps").expect("a resource");
        Arc::new(Row::builtin(found).expect("a row"))
    }

    fn list(row: &Arc<Row>, encoding: Encoding, entries: &[Arc<Entry>]) -> Vec<u8> {
        let mut packer = Packer::new(row, encoding, b"{[".to_vec(), Vec::from(entries).into_iter(), b"]}".to_vec());
        let mut frames = VecDeque::new();
        while packer.window(&mut frames).is_some() {}
        frames.iter().flat_map(|frame| frame.to_vec()).collect()
    }

    fn expected(row: &Arc<Row>, encoding: Encoding, entries: &[Arc<Entry>]) -> Vec<u8> {
        if encoding == Encoding::Protobuf {
            let items = entries.iter().flat_map(|entry| {
                let message = proto::encode_raw(row.ty(), &entry.value());
                [ItemHead::new(message.len()).as_ref(), &message].concat()
            });
            return b"{[".iter().copied().chain(items).chain(*b"]}").collect();
        }
        let texts: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&storage::item_json(row, e).concat()).into_owned()).collect();
        format!("{{[{}]}}", texts.join(",")).into_bytes()
    }

    async fn put(store: &Store, number: usize, data: &str) -> Arc<Entry> {
        let bucket = store.bucket("/registry/configmaps/");
        let key = format!("/registry/configmaps/default/map-{number}");
        let present = bucket.get(&key).map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
        let value: Value = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("map-{number}")}, "data": {"data": data}});
        store.put(&bucket, &key, present, Draft::new(value, Some(row().ty()), Vec::new())).await.expect("stored")
    }

    /// Text that does not repeat itself much.
    fn text(seed: usize, length: usize) -> String {
        (0..length).map(|n| char::from(b'#' + (scatter((n * 31 + seed) as u64) % 57) as u8)).collect()
    }

    #[tokio::test]
    async fn lists_are_the_same_text_however_often_and_in_whatever_order_their_objects_are_listed() {
        let (store, row) = (Store::in_memory(&Options::default()).expect("a store"), row());
        let mut entries = Vec::new();
        for number in 0..60 {
            entries.push(put(&store, number, &text(number, number * 400)).await);
        }
        let every_third: Vec<_> = entries.iter().step_by(3).cloned().collect();
        let reversed: Vec<_> = entries.iter().rev().cloned().collect();
        for encoding in [Encoding::Json, Encoding::Protobuf] {
            for entries in [&every_third[..], &every_third, &entries, &entries, &reversed, &[]] {
                let packed = unpacked(&list(&row, encoding, entries));
                assert!(packed == expected(&row, encoding, entries), "{encoding:?}, {} objects", entries.len());
            }
        }
    }

    #[tokio::test]
    async fn a_change_costs_one_stretch_and_kept_ones_are_hardly_longer_than_the_whole() {
        let (store, row) = (Store::in_memory(&Options::default()).expect("a store"), row());
        let mut entries = Vec::new();
        for number in 0..400 {
            entries.push(put(&store, number, &text(number, 2500)).await);
        }
        let known = || row.stretches().0.lock().late.len();
        let first = list(&row, Encoding::Json, &entries);
        let stretches = known();
        assert!((5..40).contains(&stretches), "{stretches}");
        assert_eq!(list(&row, Encoding::Json, &entries), first, "the second time is the first");
        assert_eq!(known(), stretches);
        let best = whole(&expected(&row, Encoding::Json, &entries)).expect("compressed");
        assert!(first.len() < best.len() * 11 / 10, "{} to {}", first.len(), best.len());
        entries[200] = put(&store, 200, &text(7, 2500)).await;
        entries.remove(100);
        list(&row, Encoding::Json, &entries);
        assert!((1..=3).contains(&(known() - stretches)), "the others stay as they were");
        let now = std::time::Instant::now();
        row.stretches().forget(now + KEPT_AGE);
        row.stretches().forget(now + 2 * KEPT_AGE);
        assert_eq!(known() + row.stretches().0.lock().before.len(), 0, "what nobody asks for is given back");
    }
}
