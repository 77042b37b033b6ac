//! The words of operations' names, which are made of groups, versions and kinds.

/// A text that begins with a capital.
pub(super) fn upper(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(chars).collect()
}

/// A text that does not.
pub(super) fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// A built-in group as one word: `core`, `rbacAuthorization`.
pub(super) fn of_group(group: &str) -> String {
    match group.strip_suffix(".k8s.io").unwrap_or(group) {
        "" => "core".into(),
        group => lower(&group.split('.').map(upper).collect::<String>()),
    }
}

/// A tag within a name: `RbacAuthorizationV1`.
pub(super) fn joined(tag: &str) -> String {
    tag.split('_').map(upper).collect()
}
