//! The formats of texts (`kube-openapi/pkg/validation/strfmt`), and which of them a schema may name.

mod address;
mod instant;
mod numbers;

/// Whether a text has a format.
pub(super) type Format = fn(&str) -> bool;

/// What is known, without the hyphens that names may have.
const KNOWN: [(&str, Format); 26] = [
    ("bsonobjectid", |text| text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit())),
    ("uri", address::is_request_uri),
    ("email", address::is_email),
    ("hostname", address::is_hostname),
    ("ipv4", |text| text.contains('.') && address::is_ip(text)),
    ("ipv6", |text| text.contains(':') && address::is_strict_ip(text)),
    ("cidr", address::is_cidr),
    ("mac", address::is_mac),
    ("uuid", |text| is_uuid(text, |_, _| true)),
    ("uuid3", |text| is_uuid(text, |version, _| version == b'3')),
    ("uuid4", |text| is_uuid(text, |version, variant| version == b'4' && matches!(variant, b'8' | b'9' | b'a' | b'b'))),
    ("uuid5", |text| is_uuid(text, |version, variant| version == b'5' && matches!(variant, b'8' | b'9' | b'a' | b'b'))),
    ("isbn", |text| numbers::is_isbn10(text) || numbers::is_isbn13(text)),
    ("isbn10", numbers::is_isbn10),
    ("isbn13", numbers::is_isbn13),
    ("creditcard", numbers::is_credit_card),
    ("ssn", numbers::is_ssn),
    ("hexcolor", |text| {
        let digits = text.strip_prefix('#').unwrap_or(text);
        matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
    }),
    ("rgbcolor", numbers::is_rgb),
    ("byte", is_base64),
    ("password", |_| true),
    ("date", instant::is_date),
    ("duration", instant::is_duration),
    ("datetime", instant::is_date_time),
    ("k8sshortname", |text| text.len() <= 63 && is_label(text)),
    ("k8slongname", |text| text.len() <= 253 && text.split('.').all(is_label)),
];

/// What a format asks; `None` for one that is not known.
pub(super) fn find(name: &str) -> Option<Format> {
    let plain = name.replace('-', "");
    KNOWN.iter().find(|(known, _)| *known == plain).map(|(_, format)| *format)
}

/// Whether a format means something for values of a type.
pub fn is_recognized(format: &str, type_name: &str) -> bool {
    match type_name {
        "" | "string" => find(format).is_some(),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

fn is_label(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// Eight, four, four, four and twelve digits, in any case, with hyphens or without each.
fn is_uuid(text: &str, fits: fn(version: u8, variant: u8) -> bool) -> bool {
    let mut rest = text.as_bytes();
    let mut digits = Vec::with_capacity(32);
    for (at, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if at > 0 {
            rest = rest.strip_prefix(b"-").unwrap_or(rest);
        }
        let Some((group, more)) = rest.split_at_checked(length) else { return false };
        digits.extend(group.iter().map(u8::to_ascii_lowercase));
        rest = more;
    }
    rest.is_empty() && digits.iter().all(u8::is_ascii_hexdigit) && fits(digits[12], digits[16])
}

/// Groups of four, the last one filled up; not the empty text.
fn is_base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    let fill = text.len() - body.len();
    let digit = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
    !body.is_empty() && text.len().is_multiple_of(4) && fill <= 2 && body.bytes().all(digit)
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn texts_have_their_formats() {
        for (format, good, bad) in [
            ("date", &["2026-02-28", "2024-02-29"][..], &["2026-02-30", "2026-2-1", "x", ""][..]),
            ("date-time", &["2026-01-01T00:00:00Z", "2026-01-01t23:59:59.5+01:00"], &["2026-01-01T24:00:00Z", "2026-01-01 00:00:00Z", "2026-01-01"]),
            ("duration", &["1s", "1h30m", "22 ns", "3 days", "0", "-1.5h", "2 weeks"], &["x", "", "1", "5 y"]),
            ("email", &["a@b.c", "Name <a@b.c>", "\"a b\"@c.d"], &["a", "a@", "@b", "a b@c", "a@b@c"]),
            ("hostname", &["a.example.com", "localhost", "1a", "a-b", "a-b.example.com"], &["-a", "a..b", "a_b", "", "ab-c", "a-.com", "a.b"]),
            ("ipv4", &["1.2.3.4", "01.2.3.4", "::ffff:1.2.3.4"], &["1.2.3", "1.2.3.256", "::1"]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "::g", "fe80::1%eth0"]),
            ("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33"]),
            ("mac", &["01:23:45:67:89:ab", "01-23-45-67-89-ab", "0123.4567.89ab"], &["01:23:45", "01:23:45:67:89:zz"]),
            ("uuid", &["123e4567-e89b-12d3-a456-426614174000", "123E4567E89B12D3A456426614174000"], &["123e4567", "x"]),
            ("uuid4", &["123e4567-e89b-42d3-a456-426614174000"], &["123e4567-e89b-12d3-a456-426614174000"]),
            ("uri", &["http://a/b", "/a", "urn:x:y", "*"], &["a", "", "http://a b/", ":x", "http://[::1"]),
            ("byte", &["aGk=", "aGVsbG8h"], &["", "aGk", "a===", "a-b_"]),
            ("isbn10", &["0321751043", "0-321-75104-3"], &["0321751044", "1"]),
            ("isbn13", &["978-0321751041"], &["978-0321751042"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111111111111112", "1"]),
            ("ssn", &["111-22-3333", "111 22 3333"], &["111223333", "x"]),
            ("hexcolor", &["#fff", "FFFFFF"], &["#ffff", "#ggg"]),
            ("rgbcolor", &["rgb(1, 2,255)"], &["rgb(1,2)", "rgb(1,2,256)", "rgb(01,2,3)"]),
            ("k8s-short-name", &["a-b"], &["a.b", "A", "-a"]),
            ("k8s-long-name", &["a.b-c"], &["a..b", "A"]),
            ("bsonobjectid", &["507f1f77bcf86cd799439011"], &["507f"]),
        ] {
            let fits = find(format).unwrap();
            for text in good {
                assert!(fits(text), "{format}: {text:?}");
            }
            for text in bad {
                assert!(!fits(text), "{format}: {text:?}");
            }
        }
    }
}
