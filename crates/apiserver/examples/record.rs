//! Asks the original kube-apiserver what the differential test compares with, and writes its answers down.
//!
//! ```text
//! cargo run -p apiserver --example record -- KUBECONFIG [AREA/NAME…]
//! ```
//!
//! Each description is asked twice: of an answer that differs by itself the status alone is kept.

#[path = "../tests/differential/description.rs"]
mod description;
#[path = "../tests/differential/drive.rs"]
mod drive;

use client::{Endpoint, HttpTransport};
use description::Description;
use serde_json::json;
use std::{
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let kubeconfig = PathBuf::from(args.next().ok_or("usage: record KUBECONFIG [AREA/NAME…]")?);
    let server = HttpTransport::new(Endpoint::from_kubeconfig(&kubeconfig)?)?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/differential");
    let wanted: Vec<String> = args.collect();
    let mut failed = Vec::new();
    for area in fs::read_dir(folder.join("requests"))? {
        let area = area?.path();
        for file in fs::read_dir(&area)? {
            let file = file?.path();
            let part = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            let name = format!("{}/{}", part(&area), part(&file));
            if !wanted.is_empty() && !wanted.contains(&name) {
                continue;
            }
            let description = match Description::read(&file) {
                Ok(description) => description,
                Err(e) => {
                    failed.push(e);
                    continue;
                }
            };
            let (answers, again) = match (drive::answers(&server, &description).await, drive::answers(&server, &description).await) {
                (Ok(answers), Ok(again)) => (answers, again),
                (Err(e), _) | (_, Err(e)) => {
                    failed.push(format!("{name}: {e}"));
                    continue;
                }
            };
            let mut text = String::new();
            for (answer, again) in answers.iter().zip(&again) {
                if answer == again {
                    writeln!(text, "{answer}")?;
                } else {
                    // What differs by itself is compared by its status alone.
                    println!("{name}: {}: differs by itself", answer["case"]);
                    writeln!(text, "{}", json!({"case": answer["case"], "status": answer["status"], "unsteady": true}))?;
                }
            }
            let path = folder.join(format!("answers/{name}.jsonl"));
            fs::create_dir_all(path.parent().unwrap_or(&folder))?;
            fs::write(path, text)?;
            println!("{name}: {} answers", answers.len());
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n").into()) }
}
