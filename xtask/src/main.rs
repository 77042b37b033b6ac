//! Tasks of the repository: `cargo xtask TASK`. Each task is a module; this file only names them.

mod bench;
mod generate;
mod licences;
mod software;
mod task;
mod test;

use std::process::ExitCode;

const USAGE: &str = "usage:
  cargo xtask test [WHAT] [FILTER]           form, licences, lints and unit tests, tests of a real cluster (root); WHAT: unit, cluster, or release (a cluster of the release program)
  cargo xtask test swap [SCENARIO…]          knarr's parts and the originals in each other's places (root, the originals' programs)
  cargo xtask test workloads                 PostgreSQL, Redis, etcd and nginx with volumes, killed and scaled (root, apt-get, go, python3)
  cargo xtask software [NAME…]               helm, operators, charts and clients against a cluster (root, go, python3): software/README.md
  cargo xtask bench NAME [OPTION…]               one of the figures in docs/performance.md; no NAME: which there are
  cargo xtask generate --from DIR            the API's facts from Kubernetes' published ones into crates/machinery";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let task = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let outcome = match task.as_str() {
        "bench" => bench::run(&arguments),
        "generate" => generate::run(&arguments),
        "software" => software::run(&arguments),
        "test" => test::run(&arguments),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
