//! Unified differences of texts, line by line, as Python's `difflib` finds them (the original uses `go-difflib`): the longest common
//! block first, the earliest of equal ones, then what lies before and behind it in the same way. In a text of 200 lines or more those that
//! make up more than a hundredth of it begin no block.
//!
//! How long a search takes depends on what somebody wrote: it ends after [`STEPS_MAX`], and what was not found by then is told as changed.

use std::{collections::HashMap, fmt::Write as _, ops::Range};

/// Lines shown around a change.
const CONTEXT: usize = 3;
/// From how many lines on frequent ones begin no block.
const LONG: usize = 200;
/// Lines that are held against each other.
const STEPS_MAX: usize = 500_000;

/// Lines that both have: where in the old, where in the new, how many.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    old: usize,
    new: usize,
    size: usize,
}

/// A stretch of both: the same in both or not.
struct Stretch {
    same: bool,
    old: Range<usize>,
    new: Range<usize>,
}

/// The difference of two texts; nothing if they are the same.
pub(super) fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.split('\n').collect(), new.split('\n').collect());
    let mut out = String::new();
    for hunk in hunks(stretches(&old, &new)) {
        let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else { continue };
        let (was, is) = (lines(&(first.old.start..last.old.end)), lines(&(first.new.start..last.new.end)));
        let _ = writeln!(out, "@@ -{was} +{is} @@");
        for stretch in &hunk {
            let (gone, come) = if stretch.same { (' ', None) } else { ('-', Some('+')) };
            for line in &old[stretch.old.clone()] {
                let _ = writeln!(out, "{gone}{line}");
            }
            if let Some(sign) = come {
                for line in &new[stretch.new.clone()] {
                    let _ = writeln!(out, "{sign}{line}");
                }
            }
        }
    }
    out
}

/// Lines as the head of a hunk tells them: from one on, and how many unless it is one.
fn lines(range: &Range<usize>) -> String {
    match range.len() {
        0 => format!("{},0", range.start),
        1 => format!("{}", range.start + 1),
        count => format!("{},{count}", range.start + 1),
    }
}

/// Changes with what is around them; those near each other are in one hunk.
fn hunks(mut stretches: Vec<Stretch>) -> Vec<Vec<Stretch>> {
    if let Some(first) = stretches.first_mut().filter(|first| first.same) {
        let cut = first.old.len().saturating_sub(CONTEXT);
        (first.old.start, first.new.start) = (first.old.start + cut, first.new.start + cut);
    }
    if let Some(last) = stretches.last_mut().filter(|last| last.same) {
        let cut = last.old.len().saturating_sub(CONTEXT);
        (last.old.end, last.new.end) = (last.old.end - cut, last.new.end - cut);
    }
    let (mut hunks, mut hunk) = (Vec::new(), Vec::new());
    for Stretch { same, mut old, mut new } in stretches {
        if same && old.len() > 2 * CONTEXT {
            hunk.push(Stretch { same, old: old.start..old.start + CONTEXT, new: new.start..new.start + CONTEXT });
            hunks.push(std::mem::take(&mut hunk));
            (old.start, new.start) = (old.end - CONTEXT, new.end - CONTEXT);
        }
        hunk.push(Stretch { same, old, new });
    }
    hunks.push(hunk);
    hunks.retain(|hunk| hunk.iter().any(|stretch| !stretch.same));
    hunks
}

fn stretches(old: &[&str], new: &[&str]) -> Vec<Stretch> {
    let (mut out, mut at) = (Vec::new(), (0, 0));
    let end = Block { old: old.len(), new: new.len(), size: 0 };
    for block in common(old, new).into_iter().chain([end]) {
        if at != (block.old, block.new) {
            out.push(Stretch { same: false, old: at.0..block.old, new: at.1..block.new });
        }
        at = (block.old + block.size, block.new + block.size);
        if block.size > 0 {
            out.push(Stretch { same: true, old: block.old..at.0, new: block.new..at.1 });
        }
    }
    out
}

/// The blocks that both have, in their order; those that touch in both are one.
fn common(old: &[&str], new: &[&str]) -> Vec<Block> {
    let mut search = Search::new(old, new);
    let (mut found, mut left) = (Vec::<Block>::new(), vec![(0..old.len(), 0..new.len())]);
    while let Some((was, is)) = left.pop() {
        if let Some(block) = search.longest(&was, &is) {
            left.push((was.start..block.old, is.start..block.new));
            left.push((block.old + block.size..was.end, block.new + block.size..is.end));
            found.push(block);
        }
    }
    found.sort_unstable();
    let mut joined = Vec::<Block>::new();
    for block in found {
        match joined.last_mut() {
            Some(last) if (last.old + last.size, last.new + last.size) == (block.old, block.new) => last.size += block.size,
            _ => joined.push(block),
        }
    }
    joined
}

struct Search<'t> {
    old: &'t [&'t str],
    new: &'t [&'t str],
    /// Where in the new text a line is from which a block may begin.
    places: HashMap<&'t str, Vec<usize>>,
    steps_left: usize,
}

impl<'t> Search<'t> {
    fn new(old: &'t [&'t str], new: &'t [&'t str]) -> Self {
        let mut places = HashMap::<_, Vec<usize>>::new();
        for (at, line) in new.iter().enumerate() {
            places.entry(*line).or_default().push(at);
        }
        if new.len() >= LONG {
            places.retain(|_, at| at.len() <= new.len() / 100 + 1);
        }
        Self { old, new, places, steps_left: STEPS_MAX }
    }

    fn longest(&mut self, was: &Range<usize>, is: &Range<usize>) -> Option<Block> {
        let mut best = Block { old: was.start, new: is.start, size: 0 };
        // How long a block is that ends with the line before and one of the new text.
        let mut before = HashMap::<usize, usize>::new();
        for at in was.clone() {
            self.steps_left = self.steps_left.checked_sub(1)?;
            let mut here = HashMap::new();
            let places = self.places.get(self.old[at]).map_or(&[][..], Vec::as_slice);
            let from = places.partition_point(|place| *place < is.start);
            for place in places[from..].iter().copied().take_while(|place| *place < is.end) {
                self.steps_left = self.steps_left.checked_sub(1)?;
                let size = 1 + place.checked_sub(1).and_then(|place| before.get(&place)).unwrap_or(&0);
                here.insert(place, size);
                if size > best.size {
                    best = Block { old: at + 1 - size, new: place + 1 - size, size };
                }
            }
            before = here;
        }
        // Frequent lines at its sides belong to it.
        while best.old > was.start && best.new > is.start && self.old[best.old - 1] == self.new[best.new - 1] {
            best = Block { old: best.old - 1, new: best.new - 1, size: best.size + 1 };
        }
        while best.old + best.size < was.end && best.new + best.size < is.end && self.old[best.old + best.size] == self.new[best.new + best.size] {
            best.size += 1;
        }
        (best.size > 0).then_some(best)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(lines: impl IntoIterator<Item = impl ToString>) -> String {
        lines.into_iter().map(|line| line.to_string()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn changes_far_apart_are_told_each() {
        let old = text(1..=20);
        let new = old.replace("\n3\n", "\nthree\n").replace("\n18\n", "\n17a\n18\n");
        assert_eq!(unified(&old, &new), "@@ -1,6 +1,6 @@\n 1\n 2\n-3\n+three\n 4\n 5\n 6\n@@ -15,6 +15,7 @@\n 15\n 16\n 17\n+17a\n 18\n 19\n 20\n");
        assert_eq!(unified(&old, &old), "");
        assert_eq!(unified("a", "b"), "@@ -1 +1 @@\n-a\n+b\n");
    }

    #[test]
    fn frequent_lines_of_a_long_text_begin_nothing() {
        // As Python's difflib tells them: all lines of the second are the same, and it has 200.
        let old = text(["x"; 2]);
        assert!(unified(&old, &text(["x"; 199])).starts_with("@@ -1,2 +1,199 @@\n x\n x\n+x\n"));
        assert!(unified(&text(["y", "x", "x"]), &text(["x"; 200])).starts_with("@@ -1,3 +1,200 @@\n-y\n-x\n-x\n+x\n"));
    }

    #[test]
    fn what_takes_too_long_is_told_as_changed() {
        let (old, new) = (text((0..40_000).map(|n| n % 200)), text((0..40_000).map(|n| n % 400 % 201)));
        assert!(unified(&old, &new).starts_with("@@ -1,40000 +1,40000 @@\n-0\n-1\n"));
    }
}
