//! One value as text that is mostly white space, window by window: indented JSON, and YAML.
//!
//! The indentation of what is nested deep is a thousand times its text, so it is made as it is sent.

use machinery::{Value, json::Indent, yaml::Emitter};

/// A window of an answer: so much is made at a time.
pub(crate) const WINDOW_BYTES: usize = 64 * 1024;

/// What makes an answer in windows.
pub(crate) trait Windows: Send {
    /// The next window; `None` at the end.
    fn window(&mut self) -> Option<Vec<u8>>;
}

/// JSON on its way to be indented.
#[derive(Default)]
pub(crate) struct Indented {
    compact: Vec<u8>,
    at: usize,
    indent: Indent,
}

impl Indented {
    pub(crate) fn of(compact: Vec<u8>) -> Indented {
        Indented { compact, ..Indented::default() }
    }

    /// Adds what comes next; what came before was taken.
    pub(crate) fn push(&mut self, compact: Vec<u8>) {
        (self.compact, self.at) = (compact, 0);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.compact.len()
    }

    /// Writes until there is a window in `out`, or nothing left.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>) {
        self.at += self.indent.push_until(self.compact.get(self.at..).unwrap_or_default(), WINDOW_BYTES, out);
    }
}

impl Windows for Indented {
    fn window(&mut self) -> Option<Vec<u8>> {
        if self.is_empty() {
            return None;
        }
        let mut out = Vec::new();
        self.take(&mut out);
        Some(out)
    }
}

/// A document of YAML.
pub(crate) struct Yaml(Option<Emitter>);

impl Yaml {
    pub(crate) fn of(value: &Value) -> Yaml {
        Yaml(Some(Emitter::new(value)))
    }
}

impl Windows for Yaml {
    fn window(&mut self) -> Option<Vec<u8>> {
        let emitter = self.0.as_mut()?;
        let mut out = Vec::new();
        if emitter.window(WINDOW_BYTES, &mut out) {
            self.0 = None;
        }
        Some(out)
    }
}
