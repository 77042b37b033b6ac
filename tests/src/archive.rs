//! Image archives (OCI layouts in a tar), good ones and bad ones.

use sha2::{Digest as _, Sha256};
use std::{fs::File, path::Path};

/// What a layer holds.
pub enum Entry<'a> {
    /// A file of this path, which is written as it is, and its text.
    File(&'a str, &'a str),
    /// A symbolic link and its target.
    Link(&'a str, &'a str),
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn header(path: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    // Not by `set_path`, which refuses what these tests want.
    let name = &mut header.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o755);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// A layer's tar.
#[must_use]
pub fn layer(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        match entry {
            Entry::File(path, text) => {
                let mut header = header(path, tar::EntryType::Regular, text.len() as u64);
                header.set_cksum();
                tar.append(&header, text.as_bytes()).expect("memory");
            }
            Entry::Link(path, target) => {
                let mut header = header(path, tar::EntryType::Symlink, 0);
                header.set_link_name_literal(target).expect("a short target");
                header.set_cksum();
                tar.append(&header, std::io::empty()).expect("memory");
            }
        }
    }
    tar.into_inner().expect("memory")
}

/// Writes an archive with one image of one layer. `stored` is what lies under the layer's digest.
pub fn write(path: &Path, name: &str, layer: &[u8], stored: &[u8]) {
    let mut tar = tar::Builder::new(File::create(path).expect("the test's folder"));
    let mut add = |path: &str, bytes: &[u8]| {
        let mut header = header(path, tar::EntryType::Regular, bytes.len() as u64);
        header.set_cksum();
        tar.append(&header, bytes).expect("the test's folder");
    };
    let config =
        format!(r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["/x"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}}}}"#, digest(layer));
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{}","size":{}}}]}}"#,
        digest(config.as_bytes()),
        config.len(),
        digest(layer),
        layer.len()
    );
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:{}","size":{},"annotations":{{"io.containerd.image.name":"{name}","org.opencontainers.image.ref.name":"{name}"}}}}]}}"#,
        digest(manifest.as_bytes()),
        manifest.len()
    );
    add("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    add("index.json", index.as_bytes());
    for bytes in [manifest.as_bytes(), config.as_bytes()] {
        add(&format!("blobs/sha256/{}", digest(bytes)), bytes);
    }
    add(&format!("blobs/sha256/{}", digest(layer)), stored);
    tar.finish().expect("the test's folder");
}
