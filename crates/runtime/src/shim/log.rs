//! A container's log in the CRI's format: `TIME STREAM F|P LINE`, where P marks a line that goes on in the next entry.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::sys;

/// A longer line is cut into entries of this size, as containerd does.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// An open log file; without a path nothing is kept.
pub(super) struct Log {
    path: PathBuf,
    file: Option<File>,
    /// Entries of one reading, written at once.
    batch: Vec<u8>,
    /// The last entry of the file was cut by a full disk: the next one begins on a line of its own.
    torn: bool,
}

impl Log {
    pub(super) fn open(path: &Path) -> io::Result<Log> {
        let file = if path.as_os_str().is_empty() { None } else { Some(open(path)?) };
        Ok(Log { path: path.to_owned(), file, batch: Vec::new(), torn: false })
    }

    /// Goes on in a new file of the same name, after the old one was renamed.
    pub(super) fn reopen(&mut self) -> io::Result<()> {
        if self.file.is_some() {
            self.file = Some(open(&self.path)?);
            self.torn = false;
        }
        Ok(())
    }

    /// Takes what a stream brought. `rest` is the stream's unfinished line.
    pub(super) fn take(&mut self, stream: &str, bytes: &[u8], rest: &mut Vec<u8>) {
        if self.file.is_none() {
            return;
        }
        let time = stamp(sys::now_ns());
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let room = LINE_BYTES_MAX - rest.len();
            match bytes.iter().take(room + 1).position(|b| *b == b'\n') {
                Some(end) => {
                    self.entry(&time, stream, 'F', rest, &bytes[..end]);
                    rest.clear();
                    bytes = &bytes[end + 1..];
                }
                None if bytes.len() > room => {
                    self.entry(&time, stream, 'P', rest, &bytes[..room]);
                    rest.clear();
                    bytes = &bytes[room..];
                }
                None => {
                    rest.extend_from_slice(bytes);
                    break;
                }
            }
        }
        self.flush();
    }

    /// The stream has ended: what is left of it is a line.
    pub(super) fn end(&mut self, stream: &str, rest: &mut Vec<u8>) {
        if !rest.is_empty() && self.file.is_some() {
            let time = stamp(sys::now_ns());
            // Without its newline it is no whole line: containerd marks it so, and readers then add none.
            self.entry(&time, stream, 'P', rest, &[]);
            self.flush();
        }
        *rest = Vec::new();
    }

    fn entry(&mut self, time: &[u8; 30], stream: &str, tag: char, first: &[u8], second: &[u8]) {
        self.batch.extend_from_slice(time);
        let _ = write!(self.batch, " {stream} {tag} ");
        self.batch.extend_from_slice(first);
        self.batch.extend_from_slice(second);
        self.batch.push(b'\n');
    }

    /// A full disk loses entries, not the container, and no entry but the one that it tears.
    fn flush(&mut self) {
        if let Some(file) = &mut self.file {
            if self.torn && file.write(b"\n").is_ok_and(|n| n == 1) {
                self.torn = false;
            }
            if !self.torn {
                self.torn = torn(write_some(file, &self.batch), &self.batch);
            }
        }
        self.batch.clear();
        self.batch.shrink_to(2 * LINE_BYTES_MAX);
    }
}

/// How much of the bytes could be written.
fn write_some(to: &mut impl Write, bytes: &[u8]) -> usize {
    let mut done = 0;
    while done < bytes.len() {
        match to.write(&bytes[done..]) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    done
}

/// Whether what was written ends within a line.
fn torn(written: usize, bytes: &[u8]) -> bool {
    bytes[..written].last().is_some_and(|last| *last != b'\n')
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o640).open(path)
}

/// RFC 3339 with nanoseconds, UTC: `2026-01-02T03:04:05.000000006Z`.
fn stamp(ns: u64) -> [u8; 30] {
    let (seconds, nanos) = (ns / 1_000_000_000, ns % 1_000_000_000);
    let (days, of_day) = ((seconds / 86_400) as i64, seconds % 86_400);
    // The civil date of a day number, by eras of 400 years that begin in March.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    let mut text = [b'0'; 30];
    let mut out = &mut text[..];
    let _ = write!(out, "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanos:09}Z", of_day / 3600, of_day / 60 % 60, of_day % 60);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_format_wants() {
        assert_eq!(&stamp(0), b"1970-01-01T00:00:00.000000000Z");
        assert_eq!(&stamp(1_709_210_096_000_000_789), b"2024-02-29T12:34:56.000000789Z");
        assert_eq!(&stamp(4_102_444_799_999_999_999), b"2099-12-31T23:59:59.999999999Z");
    }

    /// A disk with room for so many bytes.
    struct Disk(usize);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.0 == 0 {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let n = bytes.len().min(self.0);
            self.0 -= n;
            Ok(n)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_tears_one_line_at_most() {
        for (room, cut) in [(0, false), (4, false), (8, false), (7, true), (6, true)] {
            let written = write_some(&mut Disk(room), b"one\ntwo\n");
            assert_eq!((written, torn(written, b"one\ntwo\n")), (room, cut), "{room}");
        }
    }

    #[test]
    fn lines_are_gathered_and_long_ones_cut() {
        let path = std::env::temp_dir().join(format!("knarr-log-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let mut log = Log::open(&path).unwrap();
        let mut rest = Vec::new();
        log.take("stdout", b"one\ntw", &mut rest);
        log.take("stdout", b"o\n\n", &mut rest);
        log.take("stdout", &[b'x'; LINE_BYTES_MAX + 1], &mut rest);
        log.take("stdout", b"\n", &mut rest);
        log.take("stderr", &[b'y'; LINE_BYTES_MAX], &mut rest);
        log.take("stderr", b"\nend", &mut rest);
        log.end("stderr", &mut rest);
        let text = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<(&str, usize)> = text.lines().map(|l| (&l[31..39], l.len() - 40)).collect();
        let (o, e) = ("stdout F", "stderr F");
        assert_eq!(lines, [(o, 3), (o, 3), (o, 0), ("stdout P", LINE_BYTES_MAX), (o, 1), (e, LINE_BYTES_MAX), ("stderr P", 3)]);
    }
}
