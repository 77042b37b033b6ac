//! Links of proxied pages: those to the backend's root are made to lead through the proxy again, as upstream does, so that
//! a page that knows nothing of the proxy works behind it.

/// Where a page comes from.
pub(super) struct Source<'a> {
    /// The path of the API below which the backend's root lies, without a closing slash.
    pub(super) prefix: &'a str,
    /// `IP:PORT` of the backend.
    pub(super) backend: &'a str,
    /// The host that the client has asked.
    pub(super) host: &'a str,
}

/// Elements and their attributes that hold a link (upstream's `atomsToAttrs`).
const LINKS: [(&str, &[&str]); 17] = [
    ("a", &["href"]),
    ("applet", &["codebase"]),
    ("area", &["href"]),
    ("audio", &["src"]),
    ("base", &["href"]),
    ("blockquote", &["cite"]),
    ("body", &["background"]),
    ("button", &["formaction"]),
    ("del", &["cite"]),
    ("embed", &["src"]),
    ("form", &["action"]),
    ("frame", &["src", "longdesc"]),
    ("iframe", &["src", "longdesc"]),
    ("img", &["src", "longdesc", "usemap"]),
    ("input", &["src", "formaction", "usemap"]),
    ("link", &["href"]),
    ("script", &["src"]),
];
/// More of them; two lists keep each readable.
const MORE_LINKS: [(&str, &[&str]); 6] = [
    ("html", &["manifest"]),
    ("ins", &["cite"]),
    ("object", &["classid", "codebase", "data", "usemap"]),
    ("q", &["cite"]),
    ("source", &["src"]),
    ("video", &["poster", "src"]),
];

impl Source<'_> {
    /// A link as it must be behind the proxy. Those to other hosts, and relative ones, stay.
    pub(super) fn link(&self, link: &str) -> String {
        let (scheme_and_host, path) = split(link);
        let host = scheme_and_host.rsplit_once("//").map_or("", |(_, host)| host);
        let elsewhere = !host.is_empty() && host != self.backend && host != self.host;
        let opaque = host.is_empty() && !scheme_and_host.is_empty();
        if elsewhere || opaque || !path.starts_with('/') {
            return link.to_owned();
        }
        let kept = if host == self.host { scheme_and_host } else { "" };
        if path.starts_with(self.prefix) {
            return format!("{kept}{path}");
        }
        format!("{kept}{}{path}", self.prefix)
    }
}

/// `scheme://host` (or `//host`, `scheme:`, nothing), and the rest.
fn split(link: &str) -> (&str, &str) {
    let scheme_end = link.find("://").filter(|end| link[..*end].chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c)));
    let host_start = match scheme_end {
        Some(end) => end + 3,
        None if link.starts_with("//") => 2,
        None => match link.find(':').filter(|end| *end > 0 && link[..*end].chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))) {
            Some(end) => return link.split_at(end + 1),
            None => return ("", link),
        },
    };
    let path = link[host_start..].find(['/', '?', '#']).map_or(link.len(), |at| host_start + at);
    link.split_at(path)
}

/// The page with its links rewritten; everything else stays byte for byte.
pub(super) fn rewrite(page: &[u8], source: &Source<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(page.len() + page.len() / 16);
    let mut at = 0;
    while let Some(start) = find(page, at, b'<') {
        out.extend_from_slice(&page[at..start]);
        let end = if page[start..].starts_with(b"<!--") { comment_end(page, start) } else { tag_end(page, start) };
        tag(&page[start..end], source, &mut out);
        at = end;
    }
    out.extend_from_slice(&page[at..]);
    out
}

fn find(page: &[u8], from: usize, byte: u8) -> Option<usize> {
    page.get(from..)?.iter().position(|b| *b == byte).map(|at| from + at)
}

fn comment_end(page: &[u8], start: usize) -> usize {
    page[start..].windows(3).position(|w| w == b"-->").map_or(page.len(), |at| start + at + 3)
}

/// The end of a tag: the `>` outside of quotes.
fn tag_end(page: &[u8], start: usize) -> usize {
    let mut quote = None;
    for (at, byte) in page.iter().enumerate().skip(start) {
        match (quote, byte) {
            (Some(q), b) if q == *b => quote = None,
            (None, b'"' | b'\'') => quote = Some(*byte),
            (None, b'>') => return at + 1,
            _ => {}
        }
    }
    page.len()
}

/// Writes a tag with its links rewritten.
fn tag(tag: &[u8], source: &Source<'_>, out: &mut Vec<u8>) {
    let name_len = tag[1..].iter().take_while(|b| b.is_ascii_alphanumeric()).count();
    let name = String::from_utf8_lossy(&tag[1..=name_len]).to_ascii_lowercase();
    let Some((_, attributes)) = LINKS.iter().chain(&MORE_LINKS).find(|(n, _)| *n == name) else {
        return out.extend_from_slice(tag);
    };
    let mut written = 0;
    let mut at = name_len + 1;
    while let Some(attribute) = next_attribute(tag, at) {
        at = attribute.end;
        let wanted = attributes.iter().any(|a| a.as_bytes().eq_ignore_ascii_case(&tag[attribute.name.clone()]));
        let Ok(link) = std::str::from_utf8(&tag[attribute.value.clone()]) else { continue };
        if wanted {
            out.extend_from_slice(&tag[written..attribute.value.start]);
            out.extend_from_slice(source.link(link).as_bytes());
            written = attribute.value.end;
        }
    }
    out.extend_from_slice(&tag[written..]);
}

struct Attribute {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
    end: usize,
}

/// The next attribute with a value.
fn next_attribute(tag: &[u8], from: usize) -> Option<Attribute> {
    let equals = find(tag, from, b'=')?;
    let mut name_end = equals;
    while name_end > from && tag[name_end - 1].is_ascii_whitespace() {
        name_end -= 1;
    }
    let name_start = tag[from..name_end].iter().rposition(|b| b.is_ascii_whitespace() || matches!(b, b'/' | b'"' | b'\'')).map_or(from, |p| from + p + 1);
    let mut start = equals + 1;
    while tag.get(start).is_some_and(u8::is_ascii_whitespace) {
        start += 1;
    }
    let (value, end) = match tag.get(start)? {
        quote @ (b'"' | b'\'') => {
            let end = find(tag, start + 1, *quote)?;
            (start + 1..end, end + 1)
        }
        _ => {
            let len = tag[start..].iter().take_while(|b| !b.is_ascii_whitespace() && **b != b'>').count();
            (start..start + len, (start + len).max(equals + 1))
        }
    };
    Some(Attribute { name: name_start..name_end, value, end })
}
