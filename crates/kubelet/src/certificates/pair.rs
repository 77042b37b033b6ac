//! A certificate with its key.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::Error;
use crate::util;

/// A certificate (and those between it and its authority) with its key, as one text of PEM blocks.
#[derive(Clone)]
pub struct Pair {
    pem: String,
    certified: Arc<CertifiedKey>,
    common_name: String,
    names: BTreeSet<String>,
    ips: BTreeSet<IpAddr>,
    begins: SystemTime,
    ends: SystemTime,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pair").field("common_name", &self.common_name).field("ends", &self.ends).finish_non_exhaustive()
    }
}

fn at(time: x509_parser::time::ASN1Time) -> SystemTime {
    u64::try_from(time.timestamp()).ok().and_then(|s| UNIX_EPOCH.checked_add(Duration::from_secs(s))).unwrap_or(UNIX_EPOCH)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(bytes).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

impl Pair {
    /// A certificate and its key.
    ///
    /// # Errors
    /// One of them is not PEM, or they do not belong together.
    pub fn new(chain_pem: &str, key_pem: &str) -> Result<Self, Error> {
        let wrong = |why: String| Error::Pair(why);
        let chain = CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect::<Result<Vec<_>, _>>().map_err(|e| wrong(format!("the certificate: {e}")))?;
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|e| wrong(format!("the key: {e}")))?;
        let leaf = chain.first().cloned().ok_or_else(|| wrong("there is no certificate".into()))?;
        let (_, read) = X509Certificate::from_der(&leaf).map_err(|e| wrong(format!("the certificate: {e}")))?;
        // Refuses a key that is another certificate's.
        let certified =
            CertifiedKey::from_der(chain, key, &rustls::crypto::ring::default_provider()).map_err(|e| wrong(format!("certificate and key: {e}")))?;
        let (mut names, mut ips) = (BTreeSet::new(), BTreeSet::new());
        for name in read.subject_alternative_name().ok().flatten().iter().flat_map(|san| &san.value.general_names) {
            match name {
                GeneralName::DNSName(name) => drop(names.insert((*name).to_owned())),
                GeneralName::IPAddress(bytes) => ips.extend(address(bytes)),
                _ => {}
            }
        }
        Ok(Self {
            pem: format!("{}\n{}\n", chain_pem.trim(), key_pem.trim()),
            certified: Arc::new(certified),
            common_name: read.subject().iter_common_name().last().and_then(|n| n.as_str().ok()).unwrap_or_default().to_owned(),
            names,
            ips,
            begins: at(read.validity().not_before),
            ends: at(read.validity().not_after),
        })
    }

    /// What a file has; none: there is no file.
    ///
    /// # Errors
    /// The file cannot be read, or holds no pair.
    pub fn load(file: &Path) -> Result<Option<Self>, Error> {
        match fs::read_to_string(file) {
            // Each reader passes over the blocks that are not its own.
            Ok(text) => Self::new(&text, &text).map(|pair| Some(Self { pem: text, ..pair })).map_err(|e| Error::Pair(format!("{}: {e}", file.display()))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::Pair(format!("cannot read {}: {e}", file.display()))),
        }
    }

    /// Writes it into a file that its owner alone may read; after a crash, also of the machine, the former or this one is there.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, file: &Path) -> Result<(), Error> {
        let folder = file.parent().unwrap_or(Path::new("/"));
        let written = util::private_dir(folder).and_then(|()| util::write_private(file, self.pem.as_bytes()));
        written.map_err(|e| Error::Pair(format!("cannot write {}: {e}", file.display())))
    }

    /// Who it says its owner is.
    #[must_use]
    pub fn common_name(&self) -> &str {
        &self.common_name
    }

    /// Whether it names these, and no others.
    #[must_use]
    pub fn is_for(&self, names: &[String], ips: &[IpAddr]) -> bool {
        self.names == names.iter().cloned().collect() && self.ips == ips.iter().copied().collect()
    }

    /// Since when it is good.
    #[must_use]
    pub fn begins(&self) -> SystemTime {
        self.begins
    }

    /// Until when.
    #[must_use]
    pub fn ends(&self) -> SystemTime {
        self.ends
    }

    /// For handshakes.
    #[must_use]
    pub fn certified(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.certified)
    }

    /// For a client of an API server.
    ///
    /// # Errors
    /// None that [`Pair::new`] has not found.
    pub fn credentials(&self) -> Result<client::Credentials, Error> {
        let key = PrivateKeyDer::from_pem_slice(self.pem.as_bytes()).map_err(|e| Error::Pair(format!("the key: {e}")))?;
        Ok(client::Credentials { certificate: Some((self.certified.cert.clone(), key)), ..client::Credentials::default() })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::testing::TempDir;
    use rcgen::{CertificateParams, DnType, KeyPair};

    /// A pair that nobody signed, good from then to then.
    pub(in super::super) fn made(name: &str, sans: &[&str], begins: SystemTime, ends: SystemTime) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(sans.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        (params.not_before, params.not_after) = (begins.into(), ends.into());
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn a_pair_is_kept_whole_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = TempDir::new("pair");
        let file = folder.path().join("pki/kubelet-client.pem");
        assert!(Pair::load(&file).unwrap().is_none());
        let now = UNIX_EPOCH + Duration::from_secs(1_900_000_000);
        let (cert, key) = made("system:node:a", &["a", "192.0.2.1", "2001:db8::1"], now, now + Duration::from_secs(3600));
        Pair::new(&cert, &key).unwrap().save(&file).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o7777, 0o600);
        let pair = Pair::load(&file).unwrap().unwrap();
        assert_eq!((pair.common_name(), pair.begins(), pair.ends()), ("system:node:a", now, now + Duration::from_secs(3600)));
        let (name, ips) = (["a".to_owned()], ["192.0.2.1", "2001:db8::1"].map(|ip| ip.parse().unwrap()));
        assert!(pair.is_for(&name, &ips) && !pair.is_for(&name, &ips[..1]) && !pair.is_for(&[], &ips));
        assert_eq!(pair.credentials().unwrap().certificate.unwrap().0.len(), 1);
        let (_, other) = made("b", &[], now, now);
        assert!(Pair::new(&cert, &other).is_err(), "another's key");
        fs::write(&file, "cut off").unwrap();
        assert!(Pair::load(&file).unwrap_err().to_string().contains("kubelet-client.pem: "));
    }
}
