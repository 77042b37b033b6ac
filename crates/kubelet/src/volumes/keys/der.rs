//! As much of DER as it takes to write a key and a request.

pub(super) const INTEGER: u8 = 0x02;
pub(super) const BITS: u8 = 0x03;
pub(super) const OCTETS: u8 = 0x04;
pub(super) const SEQUENCE: u8 = 0x30;
/// Of the attributes of a request.
pub(super) const ATTRIBUTES: u8 = 0xa0;
/// Of the public key in a private one.
pub(super) const PUBLIC: u8 = 0xa1;

/// One value of these parts.
pub(super) fn of(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let length: usize = parts.iter().map(|p| p.len()).sum();
    let mut out = vec![tag];
    match length {
        0..=0x7f => out.push(length as u8),
        0x80..=0xff => out.extend([0x81, length as u8]),
        // Keys and requests are shorter than 64 KiB.
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend(parts.concat());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_as_many_bytes_as_they_need() {
        let head = |len: usize| of(OCTETS, &[&vec![7; len]])[..4].to_vec();
        assert_eq!(of(SEQUENCE, &[]), [0x30, 0]);
        assert_eq!(of(INTEGER, &[&[0], &[0x80]]), [2, 2, 0, 0x80]);
        assert_eq!((head(127), head(128), head(256)), (vec![4, 127, 7, 7], vec![4, 0x81, 128, 7], vec![4, 0x82, 1, 0]));
    }
}
