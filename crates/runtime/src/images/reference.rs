//! Names of images, as Docker reads them: `nginx` is `docker.io/library/nginx:latest`.

use crate::error::{Error, Result};

/// A full name: registry, repository, and a tag or digest or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// `docker.io`, `localhost:5000`
    pub(crate) registry: String,
    /// `library/nginx`
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    /// `sha256:…`
    pub(crate) digest: Option<String>,
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Reference> {
        let fail = || Error::Invalid(format!("couldn't parse image name {text:?}: invalid reference format"));
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) if is_digest(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(fail()),
            None => (text, None),
        };
        let (name, tag) = match rest.rsplit_once(':') {
            Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
            _ => (rest, None),
        };
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(fail());
        }
        let (registry, path) = match name.split_once('/') {
            Some((first, path)) if is_registry(first) => (first, path),
            _ => ("docker.io", name),
        };
        let registry = if registry == "index.docker.io" { "docker.io" } else { registry };
        let repository = if registry == "docker.io" && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
        if repository.len() > 255 || !repository.split('/').all(is_component) {
            return Err(fail());
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, Some(_)) => None,
            (None, None) => Some("latest".to_owned()),
        };
        Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
    }

    /// `docker.io/library/nginx`
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// The name with its tag, when it has one and no digest (which would be what counts).
    pub(crate) fn tagged(&self) -> Option<String> {
        self.tag.as_ref().filter(|_| self.digest.is_none()).map(|tag| format!("{}:{tag}", self.name()))
    }

    /// The name with this digest.
    pub(crate) fn digested(&self, digest: &str) -> String {
        format!("{}@{digest}", self.name())
    }

    /// What a registry is asked for: the digest, else the tag.
    pub(crate) fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

/// `sha256:` and 64 hexadecimal digits.
pub(crate) fn is_digest(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(is_hex)
}

/// 64 hexadecimal digits in lower case.
pub(crate) fn is_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

fn is_registry(first: &str) -> bool {
    let hostlike = first.contains('.') || first.contains(':') || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase());
    hostlike && first.bytes().all(|b| b.is_ascii_alphanumeric() || b".-:[]".contains(&b))
}

fn is_tag(tag: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    tag.len() <= 128 && tag.bytes().next().is_some_and(word) && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

/// Lower-case letters and digits, with single `.`, one or two `_`, or any number of `-` between them.
fn is_component(part: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let ends = bytes.first().is_some_and(|b| plain(*b)) && bytes.last().is_some_and(|b| plain(*b));
    let separators = part.split(|c: char| plain(c as u8) && c.is_ascii()).filter(|s| !s.is_empty());
    ends && separators.into_iter().all(|s| matches!(s, "." | "_" | "__") || s.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_full_names() {
        let d = format!("sha256:{}", "a".repeat(64));
        let full = |text: &str| Reference::parse(text).map(|r| r.tagged().unwrap_or_else(|| r.digested(r.version()))).unwrap();
        for (text, name) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.27", "docker.io/library/nginx:1.27"),
            ("grafana/loki", "docker.io/grafana/loki:latest"),
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:c", "localhost:5000/a/b:c"),
            ("registry.k8s.io/pause:3.10.2", "registry.k8s.io/pause:3.10.2"),
            ("10.0.0.1:5000/x__y/a-b", "10.0.0.1:5000/x__y/a-b:latest"),
        ] {
            assert_eq!(full(text), name);
        }
        assert_eq!(full(&format!("nginx@{d}")), format!("docker.io/library/nginx@{d}"));
        assert_eq!(full(&format!("nginx:1@{d}")), format!("docker.io/library/nginx@{d}"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "Nginx", "a b", "nginx:", "nginx@sha256:12", "a//b", "-a", "a/../b", "a:b:c", "x/.."] {
            assert!(Reference::parse(text).is_err(), "{text:?}");
        }
    }
}
