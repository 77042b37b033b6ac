//! The end of the engine's journal, as a cut of power may leave it: the batch that was under way, of which any sectors are there.
//!
//! The engine cuts a batch that ends too early, but takes one with a hole in it for damage, and would not open. So before it looks, the
//! newest journal is walked as the engine does (`fjall/src/journal`), and what follows the last whole batch is cut away if it is no more
//! than one: each batch is synced before the next is begun, so two that are not whole are no cut of power. Ends may be gone themselves, so
//! one end is no proof of one batch: a copy of what is cut with an end is kept. What was acknowledged and is missing then is still told
//! ([`super::synced`]).
//!
//! A batch is a start (1, number of items, sequence number), items (2) or clearings (4), and an end (3, checksum of what is in
//! between, a mark). Numbers are little endian.

use std::hash::Hasher as _;

use xxhash_rust::xxh3::Xxh3;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// What every end ends with.
const MARK: &[u8] = b"FJL\x03";
/// The checksum of an end, and its mark.
const END_BYTES: usize = 8 + MARK.len();

/// Where the whole batches end, if what follows them is what a cut of power leaves of one more.
pub(crate) fn torn_at(journal: &[u8]) -> Option<usize> {
    let mut whole = 0;
    while let Some(length) = batch(journal.get(whole..)?) {
        whole += length;
    }
    let rest = journal.get(whole..)?;
    // The file is made long beforehand: nothing is what usually follows.
    let written = rest.iter().rposition(|byte| *byte != 0)? + 1;
    (ends(rest.get(..written)?) <= 1).then_some(whole)
}

/// The length of the whole batch that bytes begin with.
fn batch(bytes: &[u8]) -> Option<usize> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.take(1)? != [START] {
        return None;
    }
    let items = reader.number(4)?;
    reader.take(8)?;
    let begin = reader.at;
    for _ in 0..items {
        match reader.take(1)? {
            [ITEM] => {
                // Kind of value, compression, keyspace.
                reader.take(10)?;
                let (key, _, stored) = (reader.number(2)?, reader.number(4)?, reader.number(4)?);
                reader.take(key + stored)?;
            }
            [CLEAR] => drop(reader.take(8)?),
            _ => return None,
        }
    }
    let content = bytes.get(begin..reader.at)?;
    if reader.take(1)? != [END] {
        return None;
    }
    let told = reader.number(8)? as u64;
    let mut sum = Xxh3::new();
    sum.write(content);
    (reader.take(MARK.len())? == MARK && sum.finish() == told).then_some(reader.at)
}

/// Whether there is an end of a batch in bytes.
pub(crate) fn has_end(bytes: &[u8]) -> bool {
    ends(bytes) > 0
}

/// How many ends of batches there are in bytes; what users wrote may look like one, and then a tear is taken for damage.
fn ends(bytes: &[u8]) -> usize {
    bytes.windows(1 + END_BYTES).filter(|w| w.first() == Some(&END) && w.ends_with(MARK)).count()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(length)?)?;
        self.at += length;
        Some(taken)
    }

    fn number(&mut self, length: usize) -> Option<usize> {
        let mut bytes = [0; 8];
        bytes.get_mut(..length)?.copy_from_slice(self.take(length)?);
        usize::try_from(u64::from_le_bytes(bytes)).ok()
    }
}
