//! The program as a file: its bytes, and that it needs no other.

use crate::{Options, conditions::said};
use std::process::Command;

/// Runs the program.
pub fn run(_: &Options) -> anyhow::Result<()> {
    let program = cluster_tests::knarr();
    let bytes = std::fs::metadata(&program)?.len();
    let whole = std::fs::read(&program)?;
    let segments = program_headers(&whole);
    println!("{:<40} {:.1} MB ({bytes} bytes)", "size", bytes as f64 / 1e6);
    println!("{:<40} {}", "static (no PT_INTERP, no PT_DYNAMIC)", !segments.contains(&3) && !segments.contains(&2));
    let sections = said(Command::new("readelf").args(["-SW"]).arg(&program));
    let stripped = if sections.is_empty() { "readelf is not installed".to_owned() } else { (!sections.contains(".symtab")).to_string() };
    println!("{:<40} {stripped}", "stripped (no .symtab)");
    Ok(())
}

/// The types of an ELF file's segments (64 bits, little endian).
fn program_headers(file: &[u8]) -> Vec<u32> {
    let number = |at: usize, bytes: usize| file.get(at..at + bytes).map_or(0, |b| b.iter().rev().fold(0_usize, |n, b| n << 8 | usize::from(*b)));
    let (offset, size, count) = (number(32, 8), number(54, 2), number(56, 2));
    (0..count).map(|i| u32::try_from(number(offset + i * size, 4)).unwrap_or(0)).collect()
}
