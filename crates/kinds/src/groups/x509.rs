//! As much of PEM and of DER as tells whether something is a certificate, or a request for one.

use base64::{Engine as _, engine::general_purpose::STANDARD};

const BOOLEAN: u8 = 0x01;
pub(super) const INTEGER: u8 = 0x02;
pub(super) const BIT_STRING: u8 = 0x03;
pub(super) const OCTET_STRING: u8 = 0x04;
pub(super) const OBJECT_ID: u8 = 0x06;
pub(super) const SEQUENCE: u8 = 0x30;
/// The version of a certificate, and the attributes of a request.
const ZEROTH: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
/// 2.5.29.19, the extension that says whose certificate it is.
const BASIC_CONSTRAINTS: [u8; 3] = [0x55, 0x1d, 0x13];

/// A block of PEM.
pub(super) struct Block<'t> {
    pub(super) kind: &'t str,
    pub(super) has_headers: bool,
    pub(super) bytes: Vec<u8>,
}

/// The blocks of a text; what is between them does not matter, nor one that is not whole.
pub(super) fn blocks(text: &str) -> Vec<Block<'_>> {
    let (mut found, mut lines) = (Vec::new(), text.lines());
    while let Some(line) = lines.next() {
        let Some(kind) = line.trim_end().strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----")) else { continue };
        let (mut rest, mut written, mut has_headers, mut is_whole) = (lines.clone(), String::new(), false, false);
        for line in rest.by_ref().map(str::trim) {
            if let Some(end) = line.strip_prefix("-----END ") {
                is_whole = end.strip_suffix("-----") == Some(kind);
                break;
            }
            // No block holds another: each beginning is read to the next one.
            if line.starts_with("-----BEGIN ") {
                break;
            }
            if written.is_empty() && line.contains(':') {
                has_headers = true;
            } else {
                written.push_str(line);
            }
        }
        if let (true, Ok(bytes)) = (is_whole, STANDARD.decode(&written)) {
            found.push(Block { kind, has_headers, bytes });
            lines = rest;
        }
    }
    found
}

/// Whether a certificate is an authority's; none: it is no certificate.
pub(super) fn is_authority(bytes: &[u8]) -> Option<bool> {
    let mut fields = signed(bytes)?;
    if fields.first().is_some_and(|(tag, _)| *tag == ZEROTH) {
        fields.remove(0);
    }
    let tags: Vec<u8> = fields.iter().map(|(tag, _)| *tag).collect();
    if !tags.starts_with(&[INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE]) {
        return None;
    }
    let Some((_, extensions)) = fields.iter().find(|(tag, _)| *tag == EXTENSIONS) else { return Some(false) };
    for (_, extension) in values(whole(SEQUENCE, extensions)?)? {
        let parts = values(extension)?;
        if parts.first() == Some(&(OBJECT_ID, &BASIC_CONSTRAINTS[..]))
            && let Some((OCTET_STRING, said)) = parts.last()
        {
            let said = values(whole(SEQUENCE, said)?)?;
            return Some(said.first().is_some_and(|(tag, value)| *tag == BOOLEAN && *value != [0]));
        }
    }
    Some(false)
}

/// The algorithm of a certificate's public key, and the key; none: it is no certificate.
pub(super) fn public_key(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    is_authority(bytes)?;
    let fields = signed(bytes)?;
    // After the signature's algorithm, who signed it, from when to when, and whose it is.
    let (_, key) = fields.iter().filter(|(tag, _)| *tag == SEQUENCE).nth(4)?;
    let parts = values(key)?;
    let [(SEQUENCE, named), (BIT_STRING, bits)] = parts.as_slice() else { return None };
    let named = values(named)?;
    let (OBJECT_ID, id) = named.first()? else { return None };
    Some((*id, bits.get(1..)?))
}

/// Whether it is a request for a certificate (PKCS#10).
pub(super) fn is_request(bytes: &[u8]) -> bool {
    let tags = signed(bytes).map(|fields| fields.iter().map(|(tag, _)| *tag).collect::<Vec<u8>>());
    tags.is_some_and(|tags| tags == [INTEGER, SEQUENCE, SEQUENCE, ZEROTH] || tags == [INTEGER, SEQUENCE, SEQUENCE])
}

/// The fields of what is signed, with how and the signature.
fn signed(bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    match values(whole(SEQUENCE, bytes)?)?.as_slice() {
        [(SEQUENCE, fields), (SEQUENCE, _), (BIT_STRING, _)] => values(fields),
        _ => None,
    }
}

/// The content of the one value that these bytes are.
pub(super) fn whole(tag: u8, bytes: &[u8]) -> Option<&[u8]> {
    let (found, content, rest) = next(bytes)?;
    (found == tag && rest.is_empty()).then_some(content)
}

/// The values that follow one another.
pub(super) fn values(mut bytes: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    while !bytes.is_empty() {
        let (tag, content, rest) = next(bytes)?;
        found.push((tag, content));
        bytes = rest;
    }
    Some(found)
}

/// The first value, and what is behind it.
fn next(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = bytes.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = if first < 0x80 {
        (usize::from(first), rest)
    } else {
        let (size, rest) = rest.split_at_checked(usize::from(first & 0x7f)).filter(|(size, _)| (1..=4).contains(&size.len()))?;
        (size.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((tag, content, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).unwrap_or_default();
        let mut bytes = if length < 0x80 { vec![tag, length] } else { vec![tag, 0x81, length] };
        bytes.extend(content);
        bytes
    }

    fn sign(fields: &[Vec<u8>]) -> Vec<u8> {
        der(SEQUENCE, &[der(SEQUENCE, &fields.concat()), der(SEQUENCE, &[]), der(BIT_STRING, &[0])].concat())
    }

    fn certificate(extensions: Option<&[u8]>) -> Vec<u8> {
        let mut fields = vec![der(ZEROTH, &der(INTEGER, &[2])), der(INTEGER, &[1])];
        fields.extend((0..5).map(|_| der(SEQUENCE, &[])));
        fields.extend(extensions.map(|list| der(EXTENSIONS, &der(SEQUENCE, list))));
        sign(&fields)
    }

    #[test]
    fn certificates_are_read() {
        assert_eq!(is_authority(b"a"), None);
        assert_eq!(is_authority(&certificate(None)), Some(false));
        for (is, said) in [(true, der(SEQUENCE, &der(BOOLEAN, &[255]))), (false, der(SEQUENCE, &[]))] {
            let extension = der(SEQUENCE, &[der(OBJECT_ID, &BASIC_CONSTRAINTS), der(BOOLEAN, &[255]), der(OCTET_STRING, &said)].concat());
            assert_eq!(is_authority(&certificate(Some(&extension))), Some(is));
        }
        let mut long = certificate(None);
        long.push(0);
        assert_eq!(is_authority(&long), None);
    }

    #[test]
    fn requests_are_read() {
        let fields = [der(INTEGER, &[0]), der(SEQUENCE, &[7; 200]), der(SEQUENCE, &[]), der(ZEROTH, &[])];
        assert!(is_request(&sign(&fields)) && !is_request(&certificate(None)) && !is_request(&[]) && !is_request(&[0x30, 0x84, 255, 255, 255, 255]));
    }

    #[test]
    fn blocks_are_found() {
        let text = "x\n-----BEGIN A-----\nYQ==\n-----END A-----\n-----BEGIN B-----\nk: v\n\nYQ==\n-----END B-----\n-----BEGIN C-----\n?\n-----END C-----\n";
        let found: Vec<_> = blocks(text).into_iter().map(|block| (block.kind, block.has_headers, block.bytes)).collect();
        assert_eq!(found, [("A", false, b"a".to_vec()), ("B", true, b"a".to_vec())]);
    }

    /// What each beginning is followed by is not read again for each of them: that would not end.
    #[test]
    fn beginnings_without_an_end_are_passed_over() {
        let text = "-----BEGIN A-----\n".repeat(300_000) + "YQ==\n-----END A-----\n";
        let found: Vec<_> = blocks(&text).into_iter().map(|block| (block.kind, block.bytes)).collect();
        assert_eq!(found, [("A", b"a".to_vec())]);
    }
}
