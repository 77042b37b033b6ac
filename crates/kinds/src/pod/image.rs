//! What the name of an image says.

/// Whether an image reference means the newest image: no digest, and no tag or `latest`.
pub(super) fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    let last = image.rsplit('/').next().unwrap_or(image);
    match last.split_once(':') {
        None => true,
        Some((_, tag)) => tag == "latest",
    }
}
