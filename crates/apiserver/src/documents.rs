//! What is made of a table of rows when it is first asked for, and kept with the table.

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use parking_lot::Mutex;
use std::{collections::HashMap, io::Write as _, sync::OnceLock, time::SystemTime};

/// Packed once, read often.
const GZIP_LEVEL: u32 = 6;

/// The aggregated documents of one table.
#[derive(Debug)]
pub(crate) struct Aggregated {
    pub(crate) core: Document,
    pub(crate) groups: Document,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) v2: Bytes,
    pub(crate) etag: String,
    /// As a message; made when it is first asked for.
    pub(crate) packed: OnceLock<Bytes>,
}

/// The OpenAPI documents of one table, packed, by their path.
#[derive(Debug, Default)]
pub(crate) struct Documents(Mutex<HashMap<String, Packed>>);

/// One of them.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    pub(crate) bytes: Bytes,
    /// When it was made.
    pub(crate) made: SystemTime,
}

impl Documents {
    /// A document, packed; made if it is not there. Two that ask at once may both make it.
    pub(crate) fn get(&self, path: &str, make: impl FnOnce() -> Vec<u8>) -> Packed {
        if let Some(found) = self.0.lock().get(path) {
            return found.clone();
        }
        let packed = Packed::new(&make());
        self.0.lock().insert(path.to_owned(), packed.clone());
        packed
    }
}

impl Packed {
    pub(crate) fn new(document: &[u8]) -> Self {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(GZIP_LEVEL));
        let written = encoder.write_all(document);
        Packed { bytes: Bytes::from(written.and_then(|()| encoder.finish()).unwrap_or_default()), made: SystemTime::now() }
    }
}
