//! Sets of completion indexes, as a Job's status writes them: `0-2,5`.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

pub(super) type Indexes = BTreeSet<u32>;

/// The ranges of the text form; what is not below the number of completions is left out. A user may name two thousand million indexes
/// in ten characters, so what users write is not read into a set.
pub(super) fn ranges(text: &str, completions: u32) -> impl Iterator<Item = RangeInclusive<u32>> {
    let most = completions.checked_sub(1);
    text.split(',').filter(|p| !p.is_empty()).filter_map(move |part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let range = first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?.min(most?);
        (!range.is_empty()).then_some(range)
    })
}

/// How many indexes a range has.
pub(super) fn size(range: &RangeInclusive<u32>) -> usize {
    usize::try_from(range.end() - range.start()).unwrap_or(usize::MAX).saturating_add(1)
}

/// Reads what a status tells, which is no more than there were pods.
pub(super) fn parse(text: &str, completions: u32) -> Indexes {
    ranges(text, completions).flatten().collect()
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
