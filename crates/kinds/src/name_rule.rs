//! How objects may be named.

use machinery::names;

/// How objects of a kind may be named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain: most kinds.
    Subdomain,
    /// RFC 1123 label: namespaces, services.
    Label,
    /// RFC 1035 label.
    Label1035,
    /// Whatever can stand in a URL path: RBAC, API services.
    PathSegment,
    /// The kind checks its names itself.
    Own,
}

impl NameRule {
    /// What is wrong with a name; a generated one's prefix (`prefix`) may end in a dash.
    pub fn check(self, name: &str, prefix: bool) -> Vec<String> {
        // Upstream's `maskTrailingDash`, which takes the letter before the dash as well.
        let masked = match name.strip_suffix('-').map(|stem| stem.char_indices().next_back().map_or(stem, |(at, _)| stem.get(..at).unwrap_or_default())) {
            Some(stem) if prefix && name.len() > 1 => format!("{stem}a"),
            _ => name.to_owned(),
        };
        match self {
            Self::Subdomain => names::dns1123_subdomain(&masked),
            Self::Label => names::dns1123_label(&masked),
            Self::Label1035 => names::dns1035_label(&masked),
            Self::PathSegment if prefix => names::path_segment_prefix(name),
            Self::PathSegment => names::path_segment(name),
            Self::Own => Vec::new(),
        }
    }
}
