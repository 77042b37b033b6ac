//! Which images this node pulled, also in former processes, and whose logins opened them.
//!
//! A line each in a file: the image's ID alone when it came without a login, else with the login's hash and the Secret it came
//! from. Lines are only added while the kubelet runs, and the file is written anew when images went.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::{fs, io};

use parking_lot::Mutex;

use crate::cri::Credentials;
use crate::util;

/// A login, and the Secret (`namespace/name/uid`) that it came from.
#[derive(Clone, Debug)]
pub struct Login {
    /// The login.
    pub credentials: Credentials,
    /// The Secret.
    pub secret: String,
}

impl Login {
    fn hash(&self) -> String {
        let c = &self.credentials;
        util::stable_hash(&(&c.username, &c.password, &c.identity_token))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Access {
    /// It came without a login: every pod may have it.
    everybody: bool,
    /// Hashes of logins, and Secrets.
    keys: BTreeSet<String>,
}

/// The memory of pulls.
pub struct Pulled {
    images: Mutex<BTreeMap<String, Access>>,
    file: PathBuf,
}

impl Pulled {
    /// What the file in this directory tells.
    #[must_use]
    pub fn open(root: &Path) -> Self {
        let file = root.join("pulled-images");
        let mut images: BTreeMap<String, Access> = BTreeMap::new();
        for line in fs::read_to_string(&file).unwrap_or_default().lines() {
            let mut words = line.split('\t');
            let Some(id) = words.next().filter(|id| !id.is_empty()) else { continue };
            let access = images.entry(id.to_owned()).or_default();
            let keys: Vec<String> = words.map(str::to_owned).collect();
            access.everybody |= keys.is_empty();
            access.keys.extend(keys);
        }
        Self { images: Mutex::new(images), file }
    }

    /// Whether an image came by a pull.
    #[must_use]
    pub fn contains(&self, id: &str) -> bool {
        self.images.lock().contains_key(id)
    }

    /// Whether an image was only ever pulled with logins.
    #[must_use]
    pub fn needs_login(&self, id: &str) -> bool {
        self.images.lock().get(id).is_some_and(|a| !a.everybody)
    }

    /// Whether one of these logins opened the image before, or is of a Secret that did.
    #[must_use]
    pub fn opened_by(&self, id: &str, logins: &[Login]) -> bool {
        let images = self.images.lock();
        let Some(access) = images.get(id) else { return false };
        logins.iter().any(|l| access.keys.contains(&l.hash()) || access.keys.contains(&l.secret))
    }

    /// An image was pulled with this login, or without one.
    pub async fn note(&self, id: &str, login: Option<&Login>) {
        let keys: Vec<String> = login.map(|l| vec![l.hash(), l.secret.clone()]).unwrap_or_default();
        {
            let mut images = self.images.lock();
            let before = images.get(id).cloned();
            let access = images.entry(id.to_owned()).or_default();
            access.everybody |= keys.is_empty();
            access.keys.extend(keys.iter().cloned());
            if before.as_ref() == Some(access) {
                return;
            }
        }
        let (file, line) = (self.file.clone(), [vec![id.to_owned()], keys].concat().join("\t"));
        let written = util::blocking(move || fs::OpenOptions::new().create(true).append(true).open(&file).and_then(|mut f| writeln!(f, "{line}")));
        if let Err(e) = written.await {
            tracing::debug!(error = %e, "pull not recorded: the image will not be collected");
        }
    }

    /// The images that are remembered.
    #[must_use]
    pub fn remembered(&self) -> HashSet<String> {
        self.images.lock().keys().cloned().collect()
    }

    /// Forgets these images. Blocks on the disk.
    pub fn gone(&self, ids: &HashSet<String>) {
        let mut images = self.images.lock();
        let before = images.len();
        images.retain(|id, _| !ids.contains(id));
        if images.len() < before
            && let Err(e) = self.rewrite(&images)
        {
            tracing::debug!(error = %e, "record of pulls not written");
        }
    }

    fn rewrite(&self, images: &BTreeMap<String, Access>) -> io::Result<()> {
        let mut text = String::new();
        for (id, access) in images {
            if access.everybody {
                text += &format!("{id}\n");
            }
            if !access.keys.is_empty() {
                let keys: Vec<&str> = access.keys.iter().map(String::as_str).collect();
                text += &format!("{id}\t{}\n", keys.join("\t"));
            }
        }
        let new = self.file.with_extension("new");
        fs::write(&new, text)?;
        fs::rename(new, &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, secret: &str) -> Login {
        Login { credentials: Credentials { username: user.into(), ..Credentials::default() }, secret: secret.into() }
    }

    #[tokio::test]
    async fn an_image_is_for_those_whose_login_opened_it() {
        let dir = crate::testing::TempDir::new("pulled");
        let pulled = Pulled::open(dir.path());
        pulled.note("sha256:a", Some(&login("alice", "n/s/1"))).await;
        pulled.note("sha256:b", None).await;
        for memory in [pulled, Pulled::open(dir.path())] {
            assert!(memory.needs_login("sha256:a") && !memory.needs_login("sha256:b") && !memory.needs_login("sha256:imported"));
            assert!(memory.opened_by("sha256:a", &[login("alice", "m/t/2")]), "the same login from elsewhere");
            assert!(memory.opened_by("sha256:a", &[login("new", "n/s/1")]), "the same Secret with another login");
            assert!(!memory.opened_by("sha256:a", &[login("bob", "n/s/9")]));
            assert!(!memory.opened_by("sha256:a", &[]));
        }
        let again = Pulled::open(dir.path());
        assert_eq!(again.remembered().len(), 2);
        again.gone(&HashSet::from(["sha256:b".to_owned()]));
        let again = Pulled::open(dir.path());
        assert!(again.needs_login("sha256:a") && !again.contains("sha256:b"));
    }
}
