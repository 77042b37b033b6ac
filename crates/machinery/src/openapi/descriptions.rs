//! What types and fields mean, unpacked on demand.

use flate2::read::GzDecoder;
use std::{collections::HashMap, io::Read};

/// Texts by type and field; a type's own under the empty field.
pub(super) struct Descriptions {
    texts: HashMap<(String, String), String>,
}

impl Descriptions {
    /// Unpacks the texts. The file is part of the program; the tests hold that it can be read.
    pub(super) fn load() -> Self {
        let mut text = String::new();
        let packed: &[u8] = include_bytes!("../../data/descriptions.txt.gz");
        let mut texts = HashMap::new();
        if GzDecoder::new(packed).read_to_string(&mut text).is_ok() {
            for line in text.lines() {
                let mut parts = line.splitn(3, '\t');
                if let (Some(ty), Some(field), Some(text)) = (parts.next(), parts.next(), parts.next())
                    && let Ok(text) = serde_json::from_str(text)
                {
                    texts.insert((ty.to_owned(), field.to_owned()), text);
                }
            }
        }
        Self { texts }
    }

    pub(super) fn of(&self, ty: &str, field: &str) -> Option<&str> {
        self.texts.get(&(ty.to_owned(), field.to_owned())).map(String::as_str)
    }
}
