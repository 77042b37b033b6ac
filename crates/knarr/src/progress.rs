//! What the user sees while something happens: a line for each finished step with the time since the start, and on a
//! terminal one more line that tells what is going on now.

use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io::{IsTerminal as _, Write as _},
    time::Instant,
};

/// Characters of the passing line at most, so that it stays one line.
const STATUS_MAX: usize = 100;

/// The steps of one command.
pub struct Steps {
    started: Instant,
    terminal: bool,
    /// A passing line stands on the terminal.
    passing: Mutex<bool>,
}

impl Steps {
    /// Begins to count.
    pub fn new() -> Self {
        Steps { started: Instant::now(), terminal: std::io::stdout().is_terminal(), passing: Mutex::new(false) }
    }

    /// A step is finished.
    pub fn done(&self, what: &str) {
        let seconds = self.started.elapsed().as_secs_f64();
        self.line(&format!("{seconds:7.3}s  {what}"));
    }

    /// A line without a time.
    pub fn say(&self, text: &str) {
        self.line(text);
    }

    fn line(&self, text: &str) {
        let mut passing = self.passing.lock();
        let clear = if std::mem::take(&mut *passing) { "\r\x1b[K" } else { "" };
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "{clear}{text}");
        let _ = out.flush();
    }

    /// What is going on: shown on a terminal until the next line.
    pub fn now(&self, text: &str) {
        if !self.terminal {
            return;
        }
        let text: String = plain(text).chars().take(STATUS_MAX).collect();
        *self.passing.lock() = true;
        let mut out = std::io::stdout().lock();
        let _ = write!(out, "\r\x1b[K          {text}");
        let _ = out.flush();
    }
}

/// A text without what a terminal obeys: words of images and users are shown to root.
pub fn plain(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            out.extend(c.escape_debug());
        } else {
            out.push(c);
        }
        out
    })
}

/// The bar of one image's pull or import.
pub struct ImageBar<'a> {
    steps: &'a Steps,
    name: String,
    layers: Mutex<Layers>,
}

#[derive(Default)]
struct Layers {
    total: u64,
    fetched: BTreeMap<String, u64>,
    count: usize,
    unpacked: usize,
}

impl<'a> ImageBar<'a> {
    /// A bar for the image of this name.
    pub fn new(steps: &'a Steps, name: &str) -> Self {
        ImageBar { steps, name: name.to_owned(), layers: Mutex::default() }
    }
}

impl runtime::Progress for ImageBar<'_> {
    fn step(&self, step: runtime::Step) {
        let mut layers = self.layers.lock();
        match step {
            runtime::Step::Layers(all) => {
                layers.total = all.iter().map(|(_, bytes)| bytes).sum();
                layers.count = all.len();
            }
            runtime::Step::Fetched { layer, bytes } => {
                layers.fetched.insert(layer, bytes);
            }
            runtime::Step::Unpacked { .. } => layers.unpacked += 1,
        }
        let fetched: u64 = layers.fetched.values().sum();
        self.steps.now(&format!(
            "{}: {} of {}, {} of {} layers unpacked",
            self.name,
            megabytes(fetched),
            megabytes(layers.total),
            layers.unpacked,
            layers.count
        ));
    }
}

/// Bytes as megabytes with one digit.
pub fn megabytes(bytes: u64) -> String {
    format!("{}.{} MB", bytes / 1_000_000, bytes % 1_000_000 / 100_000)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_terminal_obeys_no_word_of_a_pod() {
        assert_eq!(super::plain("pod/a: \u{1b}[2Jpulled\r\nroot# \u{202e}x"), "pod/a: \\u{1b}[2Jpulled\\r\\nroot# \\u{202e}x");
        assert_eq!(super::plain("Größe: 3 µs"), "Größe: 3 µs");
    }
}
