//! What names may look like, with upstream's messages (`apimachinery/pkg/util/validation`). Every function answers what is
//! wrong with a text; nothing if it is fine.

/// Longest label value and label name, in bytes.
pub const LABEL_MAX_BYTES: usize = 63;
/// Longest subdomain, in bytes (RFC 1123).
pub const SUBDOMAIN_MAX_BYTES: usize = 253;

const LABEL_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const SUBDOMAIN_FMT: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const QUALIFIED_FMT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const QUALIFIED: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";

/// Upstream's sentence for a text that does not match a pattern.
pub fn regex_error(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}'")).collect();
    match examples.is_empty() {
        true => format!("{message} (regex used for validation is '{pattern}')"),
        false => format!("{message} (e.g. {}, regex used for validation is '{pattern}')", examples.join(",  or ")),
    }
}

/// What is said of a name that is too long.
pub fn too_long(max: usize) -> String {
    format!("must be no more than {max} characters")
}

/// The same of labels' keys and values, where the original counts in other words.
fn label_too_long(max: usize) -> String {
    format!("must be no more than {max} bytes")
}

fn is_lower(b: u8) -> bool {
    b.is_ascii_lowercase() || b.is_ascii_digit()
}

/// Begins and ends with `edge`, and has `inner` or `edge` between.
fn shaped(text: &str, edge: impl Fn(u8) -> bool, inner: impl Fn(u8) -> bool) -> bool {
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => edge(*first) && edge(*last) && bytes.iter().all(|b| edge(*b) || inner(*b)),
        _ => false,
    }
}

fn is_label(text: &str) -> bool {
    shaped(text, is_lower, |b| b == b'-')
}

/// A label as in RFC 1123: names of namespaces, containers, ….
pub fn dns1123_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        out.push(too_long(LABEL_MAX_BYTES));
    }
    if !is_label(text) {
        if is_subdomain(text) {
            // It is a subdomain, so the dots are all that is wrong.
            out.push("must not contain dots".to_owned());
        } else {
            let message =
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
            out.push(regex_error(message, LABEL_FMT, &["my-name", "123-abc"]));
        }
    }
    out
}

/// Whether a text is a subdomain but for its length.
pub fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

/// A text in lower case as Go has it: each character becomes one other, wherever it stands.
pub fn lower(text: &str) -> String {
    text.chars().filter_map(|c| c.to_lowercase().next()).collect()
}

/// A subdomain as in RFC 1123: names of most objects.
pub fn dns1123_subdomain(text: &str) -> Vec<String> {
    subdomain(text, too_long)
}

fn subdomain(text: &str, too_long: fn(usize) -> String) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        out.push(too_long(SUBDOMAIN_MAX_BYTES));
    }
    if !is_subdomain(text) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        out.push(regex_error(message, SUBDOMAIN_FMT, &["example.com"]));
    }
    out
}

/// A subdomain after `*.`: hosts of Ingresses.
pub fn wildcard_dns1123_subdomain(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        out.push(too_long(SUBDOMAIN_MAX_BYTES));
    }
    if !text.strip_prefix("*.").is_some_and(is_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character";
        out.push(regex_error(message, &format!("\\*\\.{SUBDOMAIN_FMT}"), &["*.example.com"]));
    }
    out
}

/// A label as in RFC 1035: names of Services.
pub fn dns1035_label(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        out.push(too_long(LABEL_MAX_BYTES));
    }
    if !(is_label(text) && text.starts_with(|c: char| c.is_ascii_lowercase())) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        out.push(regex_error(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    out
}

fn is_name(text: &str) -> bool {
    shaped(text, |b| b.is_ascii_alphanumeric(), |b| matches!(b, b'-' | b'_' | b'.'))
}

/// `[prefix/]name`: keys of labels and annotations, names of resources and finalizers.
pub fn qualified_name(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    let examples = ["MyName", "my.name", "123-abc"];
    let mut parts = text.split('/');
    let name = match (parts.next(), parts.next(), parts.next()) {
        (Some(name), None, _) => name,
        (Some(prefix), Some(name), None) => {
            if prefix.is_empty() {
                out.push("prefix part must be non-empty".to_owned());
            } else {
                out.extend(subdomain(prefix, label_too_long).into_iter().map(|m| format!("prefix part {m}")));
            }
            name
        }
        _ => {
            let message = regex_error(QUALIFIED, QUALIFIED_FMT, &examples);
            return vec![format!("a valid label key {message} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')")];
        }
    };
    if name.is_empty() {
        out.push("name part must be non-empty".to_owned());
    } else if name.len() > LABEL_MAX_BYTES {
        out.push(format!("name part {}", label_too_long(LABEL_MAX_BYTES)));
    }
    if !is_name(name) {
        out.push(format!("name part {}", regex_error(QUALIFIED, QUALIFIED_FMT, &examples)));
    }
    out
}

/// The value of a label.
pub fn label_value(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > LABEL_MAX_BYTES {
        out.push(label_too_long(LABEL_MAX_BYTES));
    }
    if !text.is_empty() && !is_name(text) {
        let message = format!("a valid label must be an empty string or consist of {}", QUALIFIED.trim_start_matches("must consist of "));
        out.push(regex_error(&message, "(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?", &["MyValue", "my_value", "12345"]));
    }
    out
}

/// What can stand in a path: names of roles and the like.
pub fn path_segment(text: &str) -> Vec<String> {
    if matches!(text, "." | "..") {
        return vec![format!("may not be '{text}'")];
    }
    path_segment_prefix(text)
}

/// The beginning of what can stand in a path.
pub fn path_segment_prefix(text: &str) -> Vec<String> {
    ["/", "%"].into_iter().filter(|c| text.contains(c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > SUBDOMAIN_MAX_BYTES {
        out.push(too_long(SUBDOMAIN_MAX_BYTES));
    }
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
        out.push(regex_error(message, "[-._a-zA-Z0-9]+", &["key.name", "KEY_NAME", "key-name"]));
    }
    match text {
        "." => out.push("must not be '.'".to_owned()),
        ".." => out.push("must not be '..'".to_owned()),
        _ if text.starts_with("..") => out.push("must not start with '..'".to_owned()),
        _ => {}
    }
    out
}

/// An environment variable's name: printable ASCII without `=` (`RelaxedEnvironmentVariableValidation`).
pub fn env_var_name(text: &str) -> Vec<String> {
    if text.is_empty() {
        return vec!["environment variable name must be non-empty".to_owned()];
    }
    if text.bytes().all(|b| matches!(b, b' '..=b'~') && b != b'=') {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

/// The name of a container's port (RFC 6335).
pub fn port_name(text: &str) -> Vec<String> {
    let mut out = Vec::new();
    if text.len() > 15 {
        out.push(too_long(15));
    }
    if !text.bytes().all(|b| is_lower(b) || b == b'-') || text.is_empty() {
        out.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !text.bytes().any(|b| b.is_ascii_lowercase()) {
        out.push("must contain at least one letter (a-z)".to_owned());
    }
    if text.contains("--") {
        out.push("must not contain consecutive hyphens".to_owned());
    }
    if text.starts_with('-') || text.ends_with('-') {
        out.push("must not begin or end with a hyphen".to_owned());
    }
    out
}

/// A port's number.
pub fn port_number(port: i64) -> Vec<String> {
    if (1..=65535).contains(&port) { Vec::new() } else { vec!["must be between 1 and 65535, inclusive".to_owned()] }
}

/// The name of an HTTP header.
pub fn http_header_name(text: &str) -> Vec<String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Vec::new();
    }
    vec![regex_error("a valid HTTP header must consist of alphanumeric characters or '-'", "[-A-Za-z0-9]+", &["X-Header-Name"])]
}

/// A UUID of version 4 (RFC 9562) of random bytes.
pub fn uuid(random: [u8; 16]) -> String {
    let bits = u128::from_be_bytes(random) & !(0xf << 76) & !(0b11 << 62) | 0x4 << 76 | 0b10 << 62;
    let part = |from: u32, digits: u32| (bits >> from) & ((1 << (4 * digits)) - 1);
    format!("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", part(96, 8), part(80, 4), part(64, 4), part(48, 4), part(0, 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_objects() {
        assert_eq!(lower("\u{130}A\u{3a3}"), "ia\u{3c3}");
        assert!(dns1123_label("a-1").is_empty() && dns1123_subdomain("a.b-c.1").is_empty() && dns1035_label("a1").is_empty());
        for bad in ["", "A", "-a", "a-", "a_b", &"a".repeat(64)] {
            assert!(!dns1123_label(bad).is_empty(), "{bad}");
        }
        assert_eq!(dns1123_label("a.b"), ["must not contain dots"]);
        assert_eq!(dns1123_subdomain(&"a".repeat(254)), ["must be no more than 253 characters"]);
        assert_eq!(qualified_name(&format!("{}/a", "a".repeat(254))), ["prefix part must be no more than 253 bytes"]);
        assert!(!dns1035_label("1a").is_empty());
        for bad in ["", "a..b", ".a", "a.", "a.-b"] {
            assert!(!dns1123_subdomain(bad).is_empty(), "{bad}");
        }
        assert_eq!(
            dns1123_label("A")[0],
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
        );
    }

    #[test]
    fn keys_and_values() {
        assert!(qualified_name("example.com/My_name").is_empty() && qualified_name("a").is_empty() && label_value("").is_empty());
        for bad in ["", "/a", "a/", "a/b/c", "-a", "A.b/c d"] {
            assert!(!qualified_name(bad).is_empty(), "{bad}");
        }
        assert!(!label_value("a b").is_empty() && !label_value(&"x".repeat(64)).is_empty());
        assert!(config_map_key("..data").contains(&"must not start with '..'".to_owned()));
        assert!(config_map_key("a.b_c-D").is_empty() && port_name("http-1").is_empty() && !port_name("80").is_empty());
        assert_eq!(path_segment(".."), ["may not be '..'"]);
        assert!(path_segment("system:node").is_empty());
    }

    #[test]
    fn uuids_say_that_they_are_random() {
        assert_eq!(uuid([0; 16]), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid([0xff; 16]), "ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(uuid(*b"0123456789abcdef"), "30313233-3435-4637-b839-616263646566");
    }
}
