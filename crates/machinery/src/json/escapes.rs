//! Escapes of half a character (`\\ud800` alone), and bytes that are no UTF-8: Go reads each as U+FFFD, where the parser
//! refuses the body.

/// The body with such escapes replaced, if the parser stumbled over one.
pub(super) fn mended(bytes: &[u8], error: &serde_json::Error) -> Option<Vec<u8>> {
    let message = error.to_string();
    if message.contains("unicode") && std::str::from_utf8(bytes).is_err() {
        return Some(String::from_utf8_lossy(bytes).into_owned().into_bytes());
    }
    if !message.contains("surrogate") && !message.contains("hex escape") {
        return None;
    }
    let mut out = bytes.to_vec();
    let (mut at, mut changed) = (0, false);
    while at < out.len() {
        if out[at] != b'\\' {
            at += 1;
            continue;
        }
        let Some(unit) = escape(&out, at) else {
            at += 2;
            continue;
        };
        let is_pair = (0xd800..0xdc00).contains(&unit) && escape(&out, at + LENGTH).is_some_and(|low| (0xdc00..0xe000).contains(&low));
        if is_pair {
            at += 2 * LENGTH;
            continue;
        }
        if (0xd800..0xe000).contains(&unit) {
            out[at + 2..at + LENGTH].copy_from_slice(b"fffd");
            changed = true;
        }
        at += LENGTH;
    }
    changed.then_some(out)
}

/// Bytes of `\\uXXXX`.
const LENGTH: usize = 6;

/// The code unit of an escape of four digits at a place.
fn escape(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + LENGTH)?.strip_prefix(b"\\u")?;
    u32::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
