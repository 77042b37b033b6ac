//! What a container leaves behind: its termination message.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use crate::cri::{Container, label};
use crate::logs::parse::Line;

/// Most bytes of a message (API documentation of `terminationMessagePath`).
const MAX_MESSAGE: u64 = 4096;
/// Most bytes and lines taken from the log instead (`FallbackToLogsOnError`).
const MAX_LOG_BYTES: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

/// The message of an ended container, the end of it where it is long; empty if it left none.
#[must_use]
pub fn read(c: &Container) -> String {
    let message = c.labels.get(label::MESSAGE_HOST_PATH).filter(|p| !p.is_empty()).map(|p| end_of(Path::new(p))).unwrap_or_default();
    let fallback = c.labels.get(label::MESSAGE_POLICY).is_some_and(|p| p == "FallbackToLogsOnError");
    if message.is_empty() && fallback && c.exit_code != 0 {
        return log_tail(&c.log_path);
    }
    message
}

fn end_of(path: &Path) -> String {
    let read = || -> std::io::Result<Vec<u8>> {
        let (mut file, mut bytes) = (File::open(path)?, Vec::new());
        let from = file.metadata()?.len().saturating_sub(MAX_MESSAGE);
        file.seek(SeekFrom::Start(from))?;
        file.take(MAX_MESSAGE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
}

fn log_tail(path: &Path) -> String {
    let mut bytes = Vec::new();
    let read = || -> std::io::Result<Vec<u8>> {
        let mut f = File::open(path)?;
        let len = f.metadata()?.len();
        // Twice as much as may be shown: every line of the file carries its own head.
        let from = len.saturating_sub(2 * MAX_LOG_BYTES + 64 * MAX_LOG_LINES as u64);
        f.seek(SeekFrom::Start(from))?;
        f.read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let Ok(bytes) = read() else { return String::new() };
    let lines: Vec<&[u8]> = bytes.split_inclusive(|b| *b == b'\n').collect();
    let mut text: Vec<u8> = Vec::new();
    for l in &lines[lines.len().saturating_sub(MAX_LOG_LINES)..] {
        if let Some(line) = Line::parse(l) {
            text.extend_from_slice(line.content);
            if !line.partial {
                text.push(b'\n');
            }
        }
    }
    let max = usize::try_from(MAX_LOG_BYTES).unwrap_or(2048);
    let start = text.len().saturating_sub(max);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_message_the_end_is_told() {
        let dir = crate::testing::TempDir::new("message");
        let file = dir.path().join("m");
        assert_eq!(end_of(&file), "");
        std::fs::write(&file, "short").unwrap();
        assert_eq!(end_of(&file), "short");
        std::fs::write(&file, format!("{}the reason", "x".repeat(5000))).unwrap();
        let told = end_of(&file);
        assert!(told.len() == 4096 && told.ends_with("xthe reason"), "{}", told.len());
    }
}
