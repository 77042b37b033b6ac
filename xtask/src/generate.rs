//! `cargo xtask generate --from DIR`: turns the published facts about the Kubernetes API into the compact files that
//! `machinery` carries.
//!
//! DIR holds `types.json`, `field_order.json`, `wire_messages.json`, `resources.json`, `columns.json`, `bootstrap.json`, `roots.txt` and
//! `version.json`; how Go holds each field comes from `xtask/data/go_types.txt` (made by `xtask/gotypes`). The output is
//! text, one fact a line, in a stable order, so that an update of the API is a readable diff:
//! - `schema.txt`: see [`types`] for its grammar, `machinery::schema::load` for its reader;
//! - `resources.json`, `bootstrap.json`, `roots.txt`, `version.json`: the rows and documents as they are, compacted;
//! - `bootstrap.txt` in `apiserver`: see [`bootstrap`].
//!
//! Descriptions need the `schemars` feature of `k8s-openapi`, which the product must not compile; they have a tool of
//! their own in `xtask/descriptions`.

#[path = "generate_bootstrap.rs"]
mod bootstrap;
#[path = "generate_resources.rs"]
mod resources;
#[path = "generate_types.rs"]
mod types;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where the generated files go, from the repository's root.
const DATA: &str = "crates/machinery/data";

pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let [flag, from] = arguments else { bail!("usage: cargo xtask generate --from DIR") };
    if flag != "--from" {
        bail!("unknown flag {flag}");
    }
    let from = PathBuf::from(from);
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in the workspace")?;
    let data = root.join(DATA);
    fs::create_dir_all(&data)?;
    let go = fs::read_to_string(root.join("xtask/data/go_types.txt")).context("xtask/data/go_types.txt")?;
    let types = read(&from, "types.json")?;
    fs::write(root.join("xtask/descriptions/src/roots.rs"), types::roots(&types)?)?;
    let schema = types::schema(&types, &read(&from, "wire_messages.json")?, &read(&from, "field_order.json")?, &go)?;
    write(&data, "schema.txt", &schema)?;
    let rows = resources::rows(&read(&from, "resources.json")?, &read(&from, "columns.json")?)?;
    write(&data, "resources.json", &rows)?;
    write(&data, "bootstrap.json", &resources::bootstrap(&read(&from, "bootstrap.json")?)?)?;
    write(&root.join("crates/apiserver/data"), "bootstrap.txt", &bootstrap::sections(&read(&from, "bootstrap.json")?)?)?;
    write(&data, "version.json", &serde_json::to_string(&read(&from, "version.json")?)?)?;
    write(&data, "roots.txt", &fs::read_to_string(from.join("roots.txt"))?)
}

fn read(from: &Path, name: &str) -> Result<Value> {
    let path = from.join(name);
    let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&bytes).with_context(|| path.display().to_string())
}

fn write(data: &Path, name: &str, text: &str) -> Result<()> {
    fs::write(data.join(name), text).with_context(|| name.to_owned())?;
    println!("{name}: {} bytes", text.len());
    Ok(())
}
