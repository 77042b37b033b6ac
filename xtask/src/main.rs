//! Tasks of the repository: `cargo xtask TASK`. Each task is a module; this file only names them.

mod generate;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let outcome = match task.as_str() {
        "generate" => generate::run(&arguments),
        _ => Err(anyhow::anyhow!("usage: cargo xtask generate --from DIR")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
