//! Hostile input by mutation. A target takes any bytes and must end: without a panic, in bounded time and memory.
//!
//! Each target has a corpus in `crates/runtime/fuzz/corpus/TARGET`, which is run as it is, and then a bounded number of
//! mutations of it, the same ones each time. `KNARR_FUZZ_SECONDS=600 cargo test -p runtime fuzz` goes on for so long with
//! others; what fails is written to a file whose place is told, to be put into the corpus.

#[path = "../../machinery/fuzz/numbers.rs"]
mod numbers;

use numbers::Numbers;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Mutations in an ordinary run: a second or two for a target.
const ROUNDS: u32 = 6000;
/// Inputs do not grow past this.
const BYTES_MAX: usize = 64 << 10;
/// What often stands at a limit.
const INTERESTING: [&[u8]; 14] =
    [b"\0", b"\xff", b"\x80", b"\n", b"=", b"0", b"9", b"-1", b"/", b"..", b"18446744073709551615", b"9223372036854775808", b"\xff\xff\xff\xff", b" "];

fn mutate(numbers: &mut Numbers, bytes: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len());
        let length = numbers.below(64).min(bytes.len() - at);
        match numbers.below(7) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << numbers.below(8),
            1 if !bytes.is_empty() => bytes[at] = numbers.next() as u8,
            2 => drop(bytes.drain(at..at + length)),
            3 => {
                let copy = bytes[at..at + length].to_vec();
                bytes.splice(at..at, copy);
            }
            4 => {
                let word = INTERESTING[numbers.below(INTERESTING.len())];
                let end = (at + word.len() * numbers.below(2)).min(bytes.len());
                bytes.splice(at..end, word.iter().copied());
            }
            5 => {
                let from = numbers.below(other.len());
                bytes.splice(at..at, other[from..(from + length).min(other.len())].iter().copied());
            }
            _ => bytes.truncate(at),
        }
    }
    bytes.truncate(BYTES_MAX);
}

/// Runs a target. `repair` makes mutations pass what would stop nearly all of them (a checksum), for most of them.
pub(crate) fn run(target: &str, repair: impl Fn(&mut Vec<u8>), run: impl Fn(&[u8])) {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().flatten().map(|e| e.path()).collect();
    files.sort();
    let corpus: Vec<Vec<u8>> = files.iter().map(|f| std::fs::read(f).unwrap()).collect();
    assert!(!corpus.is_empty(), "{}", dir.display());
    let attempt = |bytes: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| run(bytes))).is_err() {
            let place = std::env::temp_dir().join(format!("fuzz-{target}-{}", std::process::id()));
            std::fs::write(&place, bytes).unwrap();
            panic!("the target {target} fails on {}", place.display());
        }
    };
    corpus.iter().for_each(|bytes| attempt(bytes));
    let seconds = std::env::var("KNARR_FUZZ_SECONDS").ok().and_then(|s| s.parse().ok());
    let end = seconds.map(|s| Instant::now() + Duration::from_secs(s));
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut round = 0;
    while end.map_or(round < ROUNDS, |end| Instant::now() < end) {
        let mut bytes = corpus[numbers.below(corpus.len())].clone();
        mutate(&mut numbers, &mut bytes, &corpus[round as usize % corpus.len()]);
        if numbers.below(8) > 0 {
            repair(&mut bytes);
        }
        attempt(&bytes);
        round += 1;
    }
    if seconds.is_some() {
        eprintln!("{target}: {round} mutations");
    }
}
