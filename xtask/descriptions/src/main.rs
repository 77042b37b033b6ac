//! Writes what the API's types and fields mean, for OpenAPI and `kubectl explain`:
//!
//!     cargo run --manifest-path xtask/descriptions/Cargo.toml -- crates/machinery/data/descriptions.txt.gz
//!
//! The texts are those of the `schemars` feature of k8s-openapi. A line is a type, a field (empty for the type itself)
//! and the text as a JSON string, tab-separated. `roots.rs` lists the kinds; `cargo xtask generate` writes it.

use flate2::{Compression, write::GzEncoder};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::Value;
use std::io::Write;

mod roots;

/// Lets the generator walk a kind and everything that it refers to.
fn root<T: JsonSchema>(generator: &mut SchemaGenerator) {
    let _ = generator.subschema_for::<T>();
}

fn main() -> std::io::Result<()> {
    let path = std::env::args().nth(1).expect("usage: descriptions FILE");
    let mut generator = SchemaGenerator::default();
    roots::all(&mut generator);
    let mut out = GzEncoder::new(std::fs::File::create(path)?, Compression::best());
    let mut lines = 0;
    for (name, schema) in generator.definitions() {
        if let Some(text) = schema["description"].as_str() {
            writeln!(out, "{name}\t\t{}", Value::from(text))?;
            lines += 1;
        }
        for (field, schema) in schema["properties"].as_object().into_iter().flatten() {
            if let Some(text) = schema["description"].as_str() {
                writeln!(out, "{name}\t{field}\t{}", Value::from(text))?;
                lines += 1;
            }
        }
    }
    out.finish()?;
    println!("{lines} descriptions");
    Ok(())
}
