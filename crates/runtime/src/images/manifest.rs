//! The documents of an image: index, manifest, configuration, of OCI and of Docker's second schema.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use super::unpack::hex;
use crate::error::{Error, Result};
use crate::types::ImageConfig;

/// Media types that are asked for, best first.
pub(crate) const ACCEPTED: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
    pub(crate) size: u64,
    pub(crate) platform: Option<Platform>,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Platform {
    architecture: String,
    os: String,
    variant: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Index {
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

/// What of an image's configuration counts.
pub(crate) struct Configuration {
    /// `sha256:…` of the document.
    pub(crate) id: String,
    pub(crate) config: ImageConfig,
    pub(crate) diff_ids: Vec<String>,
}

/// As Go names architectures.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Index {
    /// The entry for this machine; one that names no platform will do when it is alone.
    pub(crate) fn choose(&self) -> Option<&Descriptor> {
        let fits = |d: &&Descriptor| {
            d.platform.as_ref().is_some_and(|p| p.os == "linux" && p.architecture == architecture() && matches!(p.variant.as_str(), "" | "v1" | "v8"))
        };
        self.manifests.iter().find(fits).or(match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
    }
}

impl Manifest {
    /// Signatures, charts and other artefacts are stored alike but are no images.
    pub(crate) fn is_image(&self) -> bool {
        let kind = &self.config.media_type;
        kind.is_empty() || kind.ends_with("image.config.v1+json") || kind.contains("container.image.v1+json")
    }
}

/// By media type, else by what it contains.
pub(crate) fn is_index(bytes: &[u8], media_type: &str) -> bool {
    if ACCEPTED[..2].contains(&media_type) {
        return true;
    }
    if ACCEPTED[2..].contains(&media_type) {
        return false;
    }
    #[derive(Deserialize)]
    struct Peek {
        manifests: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Peek>(bytes).is_ok_and(|p| p.manifests.is_some())
}

pub(crate) fn read<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::Image(format!("{what} cannot be read: {e}")))
}

/// Compares a document with its digest.
pub(crate) fn check_digest(bytes: &[u8], digest: &str) -> Result<()> {
    let found = digest_of(bytes);
    if found == digest {
        return Ok(());
    }
    Err(Error::Image(format!("the content of {digest} is not what its digest says: found {found}")))
}

pub(crate) fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(&Sha256::digest(bytes)))
}

/// Reads an image's configuration.
pub(crate) fn configuration(bytes: &[u8]) -> Result<Configuration> {
    #[derive(Deserialize)]
    struct Document {
        #[serde(default)]
        architecture: String,
        #[serde(default)]
        os: String,
        config: Option<serde_json::Map<String, serde_json::Value>>,
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        diff_ids: Option<Vec<String>>,
    }
    let document: Document = read(bytes, "the image's configuration")?;
    let foreign = (!document.os.is_empty() && document.os != "linux") || (!document.architecture.is_empty() && document.architecture != architecture());
    if foreign {
        return Err(Error::Image(format!(
            "no match for platform in manifest: the image is for {}/{}, this machine is linux/{}",
            document.os,
            document.architecture,
            architecture()
        )));
    }
    let mut config = document.config.unwrap_or_default();
    // Go writes null for what is empty.
    config.retain(|_, value| !value.is_null());
    let config = serde_json::from_value(config.into()).map_err(|e| Error::Image(format!("the image's configuration cannot be read: {e}")))?;
    Ok(Configuration { id: digest_of(bytes), config, diff_ids: document.rootfs.diff_ids.unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::images::reference::Reference;

    #[test]
    fn fuzz_documents() {
        crate::fuzz::run(
            "documents",
            |_| {},
            |bytes| {
                let index: Result<Index> = read(bytes, "the index");
                if let Ok(index) = index {
                    index.choose();
                }
                let manifest: Result<Manifest> = read(bytes, "the manifest");
                if let Ok(manifest) = manifest {
                    manifest.is_image();
                }
                is_index(bytes, "");
                if let Ok(found) = configuration(bytes) {
                    crate::images::chain(&found.diff_ids);
                }
                if let Ok(found) = Reference::parse(&String::from_utf8_lossy(bytes)) {
                    // What is accepted is a path of a URL and a part of one of a file.
                    assert!(found.repository.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/".contains(&b)));
                    assert!(!found.version().contains('/') && !found.repository.split('/').any(|part| part == ".."));
                }
            },
        );
    }
}
