//! Frames of watches: how an event is written, and those that are remembered while watchers read them.

use bytes::Bytes;
use parking_lot::Mutex;
use std::sync::OnceLock;

/// What happened to an object, as watches name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Change::Added => "ADDED",
            Change::Modified => "MODIFIED",
            Change::Deleted => "DELETED",
        }
    }
}

/// A frame of protobuf: four bytes of length, most significant first, and the message.
pub(crate) fn delimited(message: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(message.len() + 4);
    out.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(message);
    out.into()
}

/// A frame of JSON: one line.
pub(crate) fn json_line(kind: &str, object: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(object.len() + kind.len() + 24);
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(br#"","object":"#);
    out.extend_from_slice(object);
    out.extend_from_slice(b"}\n");
    out.into()
}

/// Frames that are remembered for each resource: those of the events that watchers are reading now.
const FRAMES: usize = 128;
/// Frames beyond this size are not kept: few watch what is so large, and they would hold much memory.
const FRAME_BYTES_MAX: usize = 64 * 1024;

type Slot = Mutex<Option<((u64, Change, bool), Bytes)>>;

/// The frames of a row's latest events, so that an event is encoded once however many watch it. A slot belongs to the
/// revisions of its remainder; a newer event takes it over.
#[derive(Default)]
pub(crate) struct Frames(OnceLock<Box<[Slot]>>);

impl Frames {
    pub(crate) fn get(&self, revision: u64, change: Change, protobuf: bool, make: impl FnOnce() -> Bytes) -> Bytes {
        let slots = self.0.get_or_init(|| (0..FRAMES).map(|_| Slot::default()).collect());
        let at = (revision.wrapping_mul(2) + u64::from(protobuf)) % FRAMES as u64;
        let Some(slot) = usize::try_from(at).ok().and_then(|at| slots.get(at)) else { return make() };
        let mut slot = slot.lock();
        match &*slot {
            Some((key, bytes)) if *key == (revision, change, protobuf) => bytes.clone(),
            _ => {
                let bytes = make();
                if bytes.len() <= FRAME_BYTES_MAX {
                    *slot = Some(((revision, change, protobuf), bytes.clone()));
                }
                bytes
            }
        }
    }
}
