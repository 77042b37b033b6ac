//! Edits of a kubeconfig's text: an entry of a list, a plain value. Only the form that kubectl and people write is known
//! (lists of blocks below a key at the beginning of a line); for any other the answer is none, and nothing here is believed
//! without reading the result again.

use serde_yaml_ng::Value;
use std::ops::Range;

use super::emit;

/// A list of blocks in the text: the lines of its key, of each entry, and the entries' indentation.
struct Block {
    key: usize,
    entries: Vec<Range<usize>>,
    indent: usize,
}

fn lines(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// Whether a line says nothing.
fn silent(line: &str) -> bool {
    let line = line.trim();
    line.is_empty() || line.starts_with('#')
}

fn is_entry(line: &str, indent: usize) -> bool {
    let rest = line.trim_start_matches(' ').trim_end();
    indent_of(line) == indent && (rest == "-" || rest.starts_with("- "))
}

/// The line of a key, if nothing but `value` follows it.
fn key_line(lines: &[&str], key: &str, value: impl Fn(&str) -> bool) -> Option<usize> {
    lines.iter().position(|line| {
        line.strip_prefix(key).and_then(|rest| rest.strip_prefix(':')).is_some_and(|rest| value(rest.split(" #").next().unwrap_or_default().trim()))
    })
}

fn block(lines: &[&str], list: &str) -> Option<Block> {
    let key = key_line(lines, list, str::is_empty)?;
    let first = (key + 1..lines.len()).find(|at| !silent(lines[*at]))?;
    let indent = indent_of(lines[first]);
    let mut entries: Vec<Range<usize>> = Vec::new();
    for (at, line) in lines.iter().enumerate().skip(first) {
        if is_entry(line, indent) {
            entries.push(at..at + 1);
        } else if !silent(line) && indent_of(line) <= indent {
            break;
        } else if !silent(line) || indent_of(line) > indent {
            // What says nothing between two entries belongs to neither.
            entries.last_mut()?.end = at + 1;
        }
    }
    (!entries.is_empty()).then_some(Block { key, entries, indent })
}

/// Lines with others in the place of some.
fn spliced(lines: &[&str], range: Range<usize>, new: &str) -> String {
    let mut out: String = lines[..range.start].concat();
    if !out.is_empty() && !out.ends_with('\n') {
        out.push('\n');
    }
    out.push_str(new);
    out.push_str(&lines[range.end..].concat());
    out
}

/// Puts an entry at a place of a list that has `count`.
pub(super) fn put(text: &str, list: &str, count: usize, at: usize, entry: &Value) -> Option<String> {
    let lines = lines(text);
    if count == 0 {
        let new = format!("{list}:\n{}", emit::item(entry, 0));
        let line = key_line(&lines, list, |rest| matches!(rest, "" | "[]" | "null" | "~"));
        return Some(spliced(&lines, line.map_or(lines.len()..lines.len(), |at| at..at + 1), &new));
    }
    let block = block(&lines, list).filter(|b| b.entries.len() == count)?;
    let new = emit::item(entry, block.indent);
    let range = block.entries.get(at).cloned().or_else(|| block.entries.last().map(|last| last.end..last.end))?;
    Some(spliced(&lines, range, &new))
}

/// Removes an entry of a list that has `count`.
pub(super) fn take(text: &str, list: &str, count: usize, at: usize) -> Option<String> {
    let lines = lines(text);
    let block = block(&lines, list).filter(|b| b.entries.len() == count)?;
    let entry = block.entries.get(at)?.clone();
    if count > 1 {
        return Some(spliced(&lines, entry, ""));
    }
    let without = spliced(&lines, entry, "");
    let lines = self::lines(&without);
    Some(spliced(&lines, block.key..block.key + 1, &format!("{list}: []\n")))
}

/// Sets a plain value of the document.
pub(super) fn set(text: &str, key: &str, value: &str) -> Option<String> {
    let lines = lines(text);
    let line = key_line(&lines, key, |rest| !rest.starts_with(['|', '>', '&', '*']));
    let new = format!("{key}: {}\n", emit::quoted(value));
    Some(spliced(&lines, line.map_or(lines.len()..lines.len(), |at| at..at + 1), &new))
}
