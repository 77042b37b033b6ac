//! Sets of completion indexes, as a Job's status writes them: `0-2,5`.

use std::collections::BTreeSet;

pub(super) type Indexes = BTreeSet<u32>;

/// Reads the text form; what is not below the number of completions is left out.
pub(super) fn parse(text: &str, completions: u32) -> Indexes {
    let mut out = Indexes::new();
    for part in text.split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            out.extend(first..=last.min(completions.saturating_sub(1)));
        }
    }
    out
}

/// The text form.
pub(super) fn text(indexes: &Indexes) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for index in indexes {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => parts.push((*index, *index)),
        }
    }
    // Two in a row are written apart.
    let part = |(first, last): &(u32, u32)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    parts.iter().map(part).collect::<Vec<_>>().join(",")
}
