//! Compressed answers. A large list is put together from pieces that each object keeps, so that it is compressed once,
//! however often it is listed.
//!
//! A deflate stream (RFC 1951) may be cut at byte boundaries ("sync flush"), and parts that do not refer to each other can
//! be joined in any order. An object that is listed again keeps its part; objects that are listed for the first time are
//! compressed together, as a stretch, which costs less and packs better. Every reader of gzip (RFC 1952) takes the result
//! for an ordinary stream.

use flate2::{Compress, CompressError, Compression, FlushCompress, write::GzEncoder};
use std::{io::Write as _, sync::Arc};
use store::Entry;

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

/// A JSON list: `head`, the objects with commas between them, `tail`.
pub(crate) fn list(head: &[u8], entries: &[Arc<Entry>], tail: &[u8]) -> Result<Vec<u8>, CompressError> {
    let size: usize = entries.iter().map(|entry| entry.json.len()).sum();
    let mut out = Joined::new(size / 4);
    let mut apart = compressor();
    out.stretch(head)?;
    for (at, entry) in entries.iter().enumerate() {
        // A kept piece begins with the comma, so the first object is always part of the stretch that the head begins.
        match entry.deflated(|json| piece(&mut apart, json)).filter(|_| at > 0) {
            Some(piece) => out.piece(piece, [b",", &entry.json])?,
            None => {
                if at > 0 {
                    out.stretch(b",")?;
                }
                out.stretch(&entry.json)?;
            }
        }
    }
    out.stretch(tail)?;
    out.finish()
}

fn compressor() -> Compress {
    Compress::new(Compression::new(LEVEL), false)
}

/// A comma and an object, compressed without regard to what stands before. `None` if that fails, which it does not in memory.
fn piece(compress: &mut Compress, json: &[u8]) -> Option<Box<[u8]>> {
    compress.reset();
    let mut out = Vec::new();
    deflate(compress, b",", FlushCompress::None, &mut out).ok()?;
    deflate(compress, json, FlushCompress::Sync, &mut out).ok()?;
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
    compress: Compress,
    /// A stretch is open: the compressor holds bytes of it.
    open: bool,
}

impl Joined {
    fn new(capacity: usize) -> Self {
        let mut out = Vec::with_capacity(capacity + HEADER.len());
        out.extend_from_slice(&HEADER);
        Joined { out, checksum: crc32fast::Hasher::new(), plain_bytes: 0, compress: compressor(), open: false }
    }

    /// Adds bytes to the open stretch.
    fn stretch(&mut self, bytes: &[u8]) -> Result<(), CompressError> {
        if !self.open {
            // What was put in between is in the reader's window, but not in the compressor's.
            self.compress.reset();
            self.open = true;
        }
        self.count(bytes);
        deflate(&mut self.compress, bytes, FlushCompress::None, &mut self.out)
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
        if std::mem::take(&mut self.open) {
            deflate(&mut self.compress, b"", FlushCompress::Sync, &mut self.out)?;
        }
        Ok(())
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
    use machinery::Value;
    use serde_json::json;
    use std::io::Read as _;
    use store::{Draft, Expect, Options, Store};

    fn unpacked(packed: &[u8]) -> String {
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed).read_to_string(&mut text).expect("one stream of gzip with a right checksum");
        text
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
        let plain = |entries: &[Arc<Entry>]| {
            let items: Vec<_> = entries.iter().map(|e| String::from_utf8_lossy(&e.json).into_owned()).collect();
            format!("{{[{}]}}", items.join(","))
        };
        let packed = |entries: &[Arc<Entry>]| unpacked(&list(b"{[", entries, b"]}").expect("compressed"));
        // Only some of them have been listed before, then all, then in another order.
        let every_third: Vec<_> = entries.iter().step_by(3).cloned().collect();
        for entries in [&every_third, &every_third, &entries, &entries, &entries] {
            assert_eq!(packed(entries), plain(entries));
        }
        entries.reverse();
        assert_eq!(packed(&entries), plain(&entries));
        assert_eq!(packed(&[]), "{[]}");
    }

    #[tokio::test]
    async fn what_is_listed_again_is_compressed_once() {
        let store = Store::in_memory(&Options::default()).expect("a store");
        let entry = put(&store, 1, "data").await;
        assert_eq!(entry.deflated(|_| panic!("not for the first list")), None);
        assert_eq!(entry.deflated(|_| Some(Box::new([7]))), Some([7].as_slice()));
        assert_eq!(entry.deflated(|_| panic!("it is kept")), Some([7].as_slice()));
    }
}
