//! What types and fields mean, unpacked on demand.

use flate2::read::GzDecoder;
use std::{collections::HashMap, io::Read};

/// What k8s-openapi says of types and fields (`xtask/descriptions` writes it).
const TEXTS: &[u8] = include_bytes!("../../data/descriptions.txt.gz");
/// What a server adds to them of the values that a field may have (upstream's `OpenAPIEnums`); k8s-openapi is made of documents
/// without it. The same lines, of what follows the text of a field.
const VALUES: &[u8] = include_bytes!("../../data/enum_values.txt.gz");

/// Texts by type and field; a type's own under the empty field.
pub(super) struct Descriptions {
    texts: HashMap<(String, String), String>,
}

impl Descriptions {
    /// Unpacks the texts. The files are part of the program; the tests hold that they can be read.
    pub(super) fn load() -> Self {
        let mut texts: HashMap<(String, String), String> = HashMap::new();
        for packed in [TEXTS, VALUES] {
            let mut lines = String::new();
            if GzDecoder::new(packed).read_to_string(&mut lines).is_err() {
                continue;
            }
            for line in lines.lines() {
                let mut parts = line.splitn(3, '\t');
                if let (Some(ty), Some(field), Some(text)) = (parts.next(), parts.next(), parts.next())
                    && let Ok(text) = serde_json::from_str::<String>(text)
                {
                    texts.entry((ty.to_owned(), field.to_owned())).or_default().push_str(&text);
                }
            }
        }
        Self { texts }
    }

    pub(super) fn of(&self, ty: &str, field: &str) -> Option<&str> {
        self.texts.get(&(ty.to_owned(), field.to_owned())).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::Descriptions;

    #[test]
    fn the_values_of_a_field_are_told_behind_it() {
        let all = Descriptions::load();
        let policy = all.of("io.k8s.api.core.v1.Container", "imagePullPolicy").expect("a text");
        let (text, values) = policy.split_once("\n\nPossible enum values:\n - `\"Always\"` means ").expect("its values");
        assert!(text.starts_with("Image pull policy.") && values.contains("\n - `\"Never\"` means "), "{policy}");
        let reason = all.of("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.ValidationRule", "reason").expect("a text");
        assert!(reason.starts_with("reason provides ") && reason.contains("\n - `\"FieldValueRequired\"` is used to "), "{reason}");
    }
}
