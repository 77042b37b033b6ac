//! Lists of indexes as jobs write them: `1,3-5,7`.

use machinery::quote::Quoted;

/// The intervals of a list, in order.
///
/// # Errors
/// What is wrong with the first bad one, in upstream's words.
fn intervals(text: &str, completions: i64) -> Result<Vec<(i64, i64)>, String> {
    let mut out: Vec<(i64, i64)> = Vec::new();
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (first, last) = interval(part, completions)?;
        if let Some((_, before)) = out.last().filter(|(_, before)| *before >= first) {
            return Err(format!("non-increasing order, previous: {before}, current: {first}"));
        }
        out.push((first, last));
    }
    Ok(out)
}

fn interval(part: &str, completions: i64) -> Result<(i64, i64), String> {
    let limits: Vec<&str> = part.split('-').collect();
    if limits.len() > 2 {
        return Err(format!("the fragment {} violates the requirement that an index interval can have at most two parts separated by '-'", Quoted(part)));
    }
    let number = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {}", Quoted(text))),
        Ok(n) if n >= completions => Err(format!("too large index: {}", Quoted(text))),
        Ok(n) => Ok(n),
    };
    let first = number(limits[0])?;
    let Some(text) = limits.get(1) else { return Ok((first, first)) };
    let last = number(text)?;
    if first >= last {
        return Err(format!("non-increasing order, previous: {first}, current: {last}"));
    }
    Ok((first, last))
}

/// How many indexes a list names.
///
/// # Errors
/// What is wrong with it.
pub(super) fn count(text: &str, completions: i64) -> Result<i64, String> {
    Ok(intervals(text, completions)?.iter().map(|(first, last)| last - first + 1).sum())
}

/// The first index that two lists have in common, as far as they are well formed.
pub(super) fn overlap(one: &str, other: &str, completions: i64) -> Option<i64> {
    let (one, other) = (intervals(one, completions).ok()?, intervals(other, completions).ok()?);
    let (mut a, mut b) = (one.iter().peekable(), other.iter().peekable());
    while let (Some((a_first, a_last)), Some((b_first, b_last))) = (a.peek(), b.peek()) {
        if a_first <= b_last && b_first <= a_last {
            return Some(*a_first.max(b_first));
        }
        if a_first <= b_first {
            a.next()
        } else {
            b.next()
        };
    }
    None
}
