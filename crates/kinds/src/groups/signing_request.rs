//! Whether bytes are a request for a certificate (PKCS#10), in the words of Go's `encoding/asn1`: what stands where, and how far it is
//! there. What names and keys say is not read here, and nothing is verified.

use super::x509::{BIT_STRING, INTEGER, OBJECT_ID, SEQUENCE};

/// What Go shows of the parameters of a field that has none.
const NO_PARAMETERS: &str = "{optional:false explicit:false application:false private:false defaultValue:<nil> tag:<nil> stringType:0 timeType:0 \
                             set:false omitEmpty:false}";
const COMPOUND: u8 = 0x20;
/// The lower bits of a tag that is told by the bytes behind it.
const LONG_TAG: u8 = 0x1f;
/// A length that is not told in one byte.
const LONG_LENGTH: u8 = 0x80;
/// The longest length to which Go adds another byte.
const LENGTH_GROWS_BELOW: usize = 1 << 23;
/// Bytes of a number in base 128 at most.
const BASE_128_BYTES_MAX: usize = 5;
/// Bytes of Go's `int64`.
const INT_BYTES_MAX: usize = 8;

fn syntax(why: &str) -> String {
    format!("asn1: syntax error: {why}")
}

fn structure(why: &str) -> String {
    format!("asn1: structure error: {why}")
}

/// What stands before a value.
struct Head {
    class: u8,
    tag: u64,
    length: usize,
    is_compound: bool,
}

/// Fields that follow one another.
struct Fields<'b> {
    bytes: &'b [u8],
    at: usize,
}

impl<'b> Fields<'b> {
    fn of(bytes: &'b [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn is_over(&self) -> bool {
        self.at == self.bytes.len()
    }

    fn byte(&mut self, missing: &str) -> Result<u8, String> {
        let byte = *self.bytes.get(self.at).ok_or_else(|| syntax(missing))?;
        self.at += 1;
        Ok(byte)
    }

    fn base_128(&mut self) -> Result<u64, String> {
        let mut number = 0;
        for place in 0..BASE_128_BYTES_MAX {
            let byte = self.byte("truncated base 128 integer")?;
            if place == 0 && byte == 0x80 {
                return Err(syntax("integer is not minimally encoded"));
            }
            number = number << 7 | u64::from(byte & 0x7f);
            if byte & 0x80 == 0 {
                return if i32::try_from(number).is_ok() { Ok(number) } else { Err(structure("base 128 integer too large")) };
            }
        }
        Err(if self.is_over() { syntax("truncated base 128 integer") } else { structure("base 128 integer too large") })
    }

    fn head(&mut self) -> Result<Head, String> {
        const SHORT: &str = "truncated tag or length";
        let first = self.byte("sequence truncated")?;
        let mut tag = u64::from(first & LONG_TAG);
        if first & LONG_TAG == LONG_TAG {
            tag = self.base_128()?;
            if tag < u64::from(LONG_TAG) {
                return Err(syntax("non-minimal tag"));
            }
        }
        let told = self.byte(SHORT)?;
        let mut length = usize::from(told);
        if told & LONG_LENGTH != 0 {
            let bytes = told & !LONG_LENGTH;
            if bytes == 0 {
                return Err(syntax("indefinite length found (not DER)"));
            }
            length = 0;
            for _ in 0..bytes {
                let byte = self.byte(SHORT)?;
                if length >= LENGTH_GROWS_BELOW {
                    return Err(structure("length too large"));
                }
                length = length << 8 | usize::from(byte);
                if length == 0 {
                    return Err(structure("superfluous leading zeros in length"));
                }
            }
            if length < usize::from(LONG_LENGTH) {
                return Err(structure("non-minimal length"));
            }
        }
        Ok(Head { class: first >> 6, tag, length, is_compound: first & COMPOUND != 0 })
    }

    fn content(&mut self, length: usize, missing: &str) -> Result<&'b [u8], String> {
        let content = self.bytes[self.at..].get(..length).ok_or_else(|| syntax(missing))?;
        self.at += length;
        Ok(content)
    }

    /// The next field, which is of this kind; `name` is Go's of its type.
    fn next(&mut self, kind: u8, name: &str) -> Result<&'b [u8], String> {
        let head = self.head()?;
        let wanted = u64::from(kind & LONG_TAG);
        if head.class != 0 || head.tag != wanted || head.is_compound != (kind & COMPOUND != 0) {
            let Head { class, tag, length, is_compound } = head;
            let found = format!("{{class:{class} tag:{tag} length:{length} isCompound:{is_compound}}}");
            return Err(structure(&format!("tags don't match ({wanted} vs {found}) {NO_PARAMETERS} {name} @{}", self.at)));
        }
        self.content(head.length, "data truncated")
    }

    /// The next field, whatever it is.
    fn any(&mut self) -> Result<&'b [u8], String> {
        let head = self.head()?;
        self.content(head.length, "data truncated")
    }

    fn algorithm(&mut self) -> Result<(), String> {
        let mut fields = Fields::of(self.next(SEQUENCE, "AlgorithmIdentifier")?);
        let mut id = Fields::of(fields.next(OBJECT_ID, "ObjectIdentifier")?);
        if id.is_over() {
            return Err(syntax("zero length OBJECT IDENTIFIER"));
        }
        while !id.is_over() {
            id.base_128()?;
        }
        if fields.is_over() { Ok(()) } else { fields.any().map(|_| ()) }
    }

    fn bits(&mut self) -> Result<(), String> {
        match self.next(BIT_STRING, "BitString")? {
            [] => Err(syntax("zero length BIT STRING")),
            [padding, bits @ ..] => {
                let cut = bits.last().map_or(0, |last| if *padding < 8 { last & ((1 << padding) - 1) } else { 1 });
                if *padding > 7 || bits.is_empty() && *padding > 0 || cut != 0 { Err(syntax("invalid padding bits in BIT STRING")) } else { Ok(()) }
            }
        }
    }

    fn number(&mut self) -> Result<(), String> {
        match self.next(INTEGER, "int")? {
            [] => Err(structure("empty integer")),
            [0, next, ..] if next & 0x80 == 0 => Err(structure("integer not minimally-encoded")),
            [0xff, next, ..] if next & 0x80 != 0 => Err(structure("integer not minimally-encoded")),
            long if long.len() > INT_BYTES_MAX => Err(structure("integer too large")),
            _ => Ok(()),
        }
    }
}

/// Why bytes are no request for a certificate; none where they have the form of one.
pub(super) fn problem(bytes: &[u8]) -> Option<String> {
    read(bytes).err()
}

fn read(bytes: &[u8]) -> Result<(), String> {
    let mut whole = Fields::of(bytes);
    let mut request = Fields::of(whole.next(SEQUENCE, "certificateRequest")?);
    let mut signed = Fields::of(request.next(SEQUENCE, "tbsCertificateRequest")?);
    signed.number()?;
    signed.any()?;
    let mut key = Fields::of(signed.next(SEQUENCE, "publicKeyInfo")?);
    key.algorithm()?;
    key.bits()?;
    let mut attributes = Fields::of(signed.any()?);
    while !attributes.is_over() {
        let head = attributes.head()?;
        attributes.content(head.length, "truncated sequence")?;
    }
    request.algorithm()?;
    request.bits()?;
    if whole.is_over() { Ok(()) } else { Err(syntax("trailing data")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    /// Of a key of P-256, made by Go 1.26.
    const REQUEST: &str = "MIG6MGICAQAwADBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABElcm/aFLlel5fKGaOdnQ6Mk9GhreUpDadETYtndFrfzoQGcbLIs0rRwz6GoYsZHBPO/qRd6hc3ZFO+ZVrXlPgagADAKBggqhkjOPQQDAgNIADBFAiA30EX1iUd170JjAE1GCoWSGt8BDQIyWF1TcAlVXUpdPwIhAMcDPmaQIxdMm8KWk7fpcFvSsdyfaeyYqy3F0v6zY8da";

    /// Each told by Go 1.26's `x509.ParseCertificateRequest`.
    #[test]
    fn what_is_no_request_is_told_in_gos_words() {
        let whole = STANDARD.decode(REQUEST).unwrap_or_default();
        assert_eq!(problem(&whole), None);
        let mut long = whole.clone();
        long.push(1);
        let told = |bytes: &[u8]| problem(bytes).unwrap_or_default();
        assert_eq!(told(&long), "asn1: syntax error: trailing data");
        assert_eq!(told(&whole[..whole.len() - 1]), "asn1: syntax error: data truncated");
        assert_eq!(told(b""), "asn1: syntax error: sequence truncated");
        assert_eq!(told(&[0x30, 0]), "asn1: syntax error: sequence truncated");
        assert_eq!(told(&[0xff, 0xff]), "asn1: syntax error: truncated base 128 integer");
        let hello =
            format!("asn1: structure error: tags don't match (16 vs {{class:1 tag:8 length:101 isCompound:true}}) {NO_PARAMETERS} certificateRequest @2");
        assert_eq!(told(b"hello"), hello);
        let number =
            format!("asn1: structure error: tags don't match (16 vs {{class:0 tag:2 length:1 isCompound:false}}) {NO_PARAMETERS} tbsCertificateRequest @2");
        assert_eq!(told(&[0x30, 3, 2, 1, 5]), number);
        for (at, with, why) in [(1, 0x88, "asn1: structure error: length too large"), (2, 0xbb, "asn1: syntax error: data truncated")] {
            let mut other = whole.clone();
            other[at] = with;
            assert_eq!(told(&other), why, "{at}");
        }
    }
}
