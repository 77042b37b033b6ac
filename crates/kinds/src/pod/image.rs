//! What the name of an image says (`distribution/reference`).

/// Most bytes of an image's name without its host, and the characters of what is an image's identity and no name.
const NAME_BYTES_MAX: usize = 255;
const IDENTITY_CHARS: usize = 64;
/// What is before a name of one part where no host is said, or this one by its names.
const OFFICIAL: &str = "library/";
const OFFICIAL_HOSTS: [&str; 2] = ["docker.io", "index.docker.io"];

/// Whether an image reference means the newest image: no digest, and no tag or `latest`. What is no reference means none.
pub(super) fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    let is_identity = || image.len() == IDENTITY_CHARS && image.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    match last.split_once(':') {
        None => !is_identity() && is_name(image),
        Some((_, tag)) => tag == "latest" && image.strip_suffix(":latest").is_some_and(is_name),
    }
}

/// Whether a reference without a tag can be read.
fn is_name(name: &str) -> bool {
    let (host, path) = match name.split_once('/') {
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" || first.contains(|c: char| c.is_ascii_uppercase()) => (Some(first), rest),
        _ => (None, name),
    };
    let is_official = !path.contains('/') && host.is_none_or(|host| OFFICIAL_HOSTS.contains(&host));
    let bytes = path.len() + if is_official { OFFICIAL.len() } else { 0 };
    bytes <= NAME_BYTES_MAX && host.is_none_or(is_host) && path.split('/').all(is_part)
}

fn is_host(host: &str) -> bool {
    let (name, port) = match host.rfind(':').filter(|_| !host.ends_with(']')) {
        Some(colon) => (&host[..colon], Some(&host[colon + 1..])),
        None => (host, None),
    };
    let is_label = |label: &str| {
        let plain = label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        plain && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    let address = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    let named = match address {
        Some(address) => !address.is_empty() && address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':'),
        None => name.split('.').all(is_label),
    };
    named && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Small letters and digits, with one period, one or two underscores, or any number of hyphens between them.
fn is_part(part: &str) -> bool {
    let alone = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let whole = bytes.first().copied().is_some_and(alone) && bytes.last().copied().is_some_and(alone);
    whole
        && part
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|between| matches!(between, "" | "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_reference_has_no_newest_image() {
        for newest in ["i", "a/b", "localhost/a", "host.example:5000/a/b", "[::1]:5000/a", "a--b/c__d", "x:latest", "UPPER.example/a"] {
            assert!(is_latest(newest), "{newest}");
        }
        let identity = "a".repeat(64);
        for other in ["é", "100%", "Upper", "a//b", "a/", "a...b", "-a", "i:1", "i@sha256:x", " a:latest", "A:latest", identity.as_str()] {
            assert!(!is_latest(other), "{other}");
        }
        for (host, bytes) in [("", 247), ("docker.io/", 247), ("index.docker.io/", 247), ("a/", 253), ("a.b/", 255), ("a.b:1/c/", 253)] {
            let of = |bytes: usize| is_latest(&format!("{host}{}", "a".repeat(bytes)));
            assert_eq!((of(bytes), of(bytes + 1)), (true, false), "{host}");
        }
    }
}
