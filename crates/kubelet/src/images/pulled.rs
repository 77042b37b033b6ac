//! Whose an image is: how it came to this node, and whose logins opened it.
//!
//! It stands in the image's own file ([`Origin`]), which the runtime writes as one with the image: no crash comes between the two, nor
//! does a pull that goes on when nobody waits for it (the original writes an intent before each pull for that), and what removes the
//! image or imports it anew removes or changes it too. An image of which nothing is known is for nobody without a login.
//!
//! Former versions kept it in a file of the kubelet, a line for each pull, after the image: what is in there is given to the images
//! once ([`adopt`]). One of which it says nothing was taken for imported, and stays so: it may be.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::cri::{Credentials, CriError, Image, Origin, SharedRuntime};
use crate::util;

/// Where a login came from, and so whose the images are that come with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Secret (`namespace/name/uid`): for who has it, or the same login.
    Secret(String),
    /// A program that was told of this service account (`namespace/name/uid`): for its pods.
    Account(String),
    /// A program of the node: for all its pods.
    Node,
}

/// A login, and where it came from.
#[derive(Clone, Debug)]
pub struct Login {
    /// The login.
    pub credentials: Credentials,
    /// Where it came from.
    pub source: Source,
}

impl Login {
    fn hash(&self) -> String {
        let c = &self.credentials;
        util::stable_hash(&(&c.username, &c.password, &c.identity_token))
    }

    /// What an image is known by that came with it.
    fn keys(&self) -> Vec<String> {
        match &self.source {
            Source::Secret(secret) => vec![self.hash(), secret.clone()],
            Source::Account(account) => vec![format!("serviceaccount:{account}")],
            Source::Node => Vec::new(),
        }
    }

    /// The credentials, and what an image is to remember them by.
    #[must_use]
    pub fn told(&self) -> Credentials {
        Credentials { keys: self.keys(), ..self.credentials.clone() }
    }
}

/// Whether an image came by pulls alone: it may be had again.
#[must_use]
pub fn was_pulled(image: &Image) -> bool {
    image.origin.as_ref().is_some_and(|o| !o.imported)
}

/// Whether every pod may have an image.
#[must_use]
pub fn for_everybody(image: &Image) -> bool {
    image.origin.as_ref().is_some_and(|o| o.imported || o.open)
}

/// Whether one of these logins opened the image before, or is of a Secret or an account that did.
#[must_use]
pub fn opened_by(image: &Image, logins: &[Login]) -> bool {
    let Some(origin) = &image.origin else { return false };
    logins.iter().any(|l| l.keys().iter().any(|key| origin.keys.contains(key)))
}

/// Gives the images of former versions what was written down of them in this directory. Blocks on the disk.
pub fn adopt(root: &Path, runtime: &SharedRuntime) -> Result<(), CriError> {
    let file = root.join("pulled-images");
    let text = match fs::read(&file) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        // What could not be read is not taken for nothing: whom images are for would be forgotten.
        Err(error) => return Err(CriError::Other(error.to_string())),
    };
    let former = former(&text);
    runtime.settle_origins(&|id| former.get(id).cloned().unwrap_or_else(Origin::imported))?;
    // Everything it says is with the images now.
    let _ = fs::remove_file(&file);
    Ok(())
}

/// A line for each pull: the image's ID alone when it came without a login, else with what the login is known by.
fn former(lines: &str) -> BTreeMap<String, Origin> {
    let mut images: BTreeMap<String, Origin> = BTreeMap::new();
    for line in lines.lines() {
        let mut words = line.split('\t');
        let Some(id) = words.next().filter(|id| !id.is_empty()) else { continue };
        let origin = images.entry(id.to_owned()).or_default();
        let before = origin.keys.len();
        origin.keys.extend(words.map(str::to_owned));
        origin.open |= origin.keys.len() == before;
    }
    images
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(user: &str, secret: &str) -> Login {
        Login { credentials: Credentials { username: user.into(), ..Credentials::default() }, source: Source::Secret(secret.into()) }
    }

    fn image(origin: Option<Origin>) -> Image {
        Image { origin, ..Image::default() }
    }

    #[test]
    fn an_image_is_for_those_whose_login_opened_it() {
        let with = Origin::pulled(Some(&login("alice", "n/s/1").told()));
        let private = image(Some(with.clone()));
        assert!(was_pulled(&private) && !for_everybody(&private));
        assert!(opened_by(&private, &[login("alice", "m/t/2")]), "the same login from elsewhere");
        assert!(opened_by(&private, &[login("new", "n/s/1")]), "the same Secret with another login");
        assert!(!opened_by(&private, &[login("bob", "n/s/9")]) && !opened_by(&private, &[]));
        let of = |source: Source| Login { source, ..login("alice", "") };
        let account = image(Some(Origin::pulled(Some(&of(Source::Account("n/s/1".into())).told()))));
        assert!(!for_everybody(&account) && opened_by(&account, &[of(Source::Account("n/s/1".into()))]));
        assert!(!opened_by(&account, &[login("alice", "n/s/1"), of(Source::Account("n/t/2".into())), of(Source::Node)]), "for the account's pods alone");
        assert!(for_everybody(&image(Some(Origin::pulled(Some(&of(Source::Node).told()))))), "the node's logins are all its pods'");
        let open = image(Some(with.and(&Origin::pulled(None))));
        assert!(was_pulled(&open) && for_everybody(&open));
        let imported = image(Some(with.and(&Origin::imported())));
        assert!(!was_pulled(&imported) && for_everybody(&imported), "one that was pulled and then imported is for everybody");
        let unknown = image(None);
        assert!(!was_pulled(&unknown) && !for_everybody(&unknown) && !opened_by(&unknown, &[login("alice", "n/s/1")]));
    }

    #[test]
    fn what_former_versions_wrote_is_read() {
        let alice = login("alice", "n/s/1");
        let former = former(&format!("sha256:a\t{}\tn/s/1\nsha256:b\nsha256:c\nsha256:c\tx\ty\n\n", alice.hash()));
        assert_eq!(former.len(), 3);
        assert_eq!(former["sha256:a"], Origin::pulled(Some(&alice.told())));
        assert_eq!(former["sha256:b"], Origin::pulled(None));
        assert!(former["sha256:c"].open && former["sha256:c"].keys.len() == 2);
    }
}
