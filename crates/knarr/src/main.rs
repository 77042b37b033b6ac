//! The program `knarr`: command line, configuration, wiring. No logic of a component lives here.
//!
//! Three of its faces must start in no time and without threads, and are entered before anything else: the shim that holds
//! a pod (`knarr shim`) and the reader of images (`knarr unpack`), both started by the runtime, and the demo application that
//! runs inside the demo image (`knarr demo`).

mod accounts;
mod addons;
mod agent;
mod certificates;
mod cli;
mod cluster;
mod cluster_flags;
mod demo;
mod detach;
mod dns_probe;
mod down;
mod farewell;
mod front_proxy;
mod host;
mod image;
mod kubeconfig;
mod limits;
mod local;
mod log;
mod machine_flags;
mod machines;
mod manifest;
mod member;
mod memory;
mod node;
mod node_flags;
mod node_rights;
mod nodes;
mod part;
mod parts;
mod port;
mod preflight;
mod progress;
mod reach;
mod rollout;
mod rooms;
mod serve;
mod signals;
mod starting;
mod supervisor;
mod token;
mod up;
mod volumes;
mod worker;

use anyhow::Context as _;
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    match args.next().as_deref().and_then(|a| a.to_str()) {
        Some("shim") => {
            limits::lower();
            runtime::shim_main(args.collect())
        }
        Some("unpack") => runtime::unpack_main(args.collect()),
        Some("demo") => return demo::main(args.filter_map(|a| a.into_string().ok()).collect()),
        _ => {}
    }
    limits::raise();
    let cli = cli::Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("knarr: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether a command stays, and pods of this machine depend on it.
fn is_of_node(command: &cli::Command) -> bool {
    use cli::Command::{Agent, Kubelet, NodeProcess, Proxy, Up};
    matches!(command, Up(_) | Agent(_) | NodeProcess(_) | Kubelet(_) | Proxy(_))
}

fn run(command: cli::Command) -> anyhow::Result<()> {
    if let cli::Command::Up(up) = &command
        && up.detach
    {
        return detach::parent();
    }
    if is_of_node(&command) {
        limits::spare();
    }
    let host = if let cli::Command::NodeProcess(worker) = &command { Some(worker::enter(worker)?) } else { None };
    memory::return_in_background();
    let runtime = rooms::runtime("api")?;
    let outcome = runtime.block_on(async {
        match command {
            cli::Command::Up(up) => up::run(up).await,
            cli::Command::Down(down) => down::run(&down).await,
            cli::Command::Node(node) => nodes::run(node).await,
            cli::Command::Agent(command) => agent::run(*command).await,
            cli::Command::Token(command) => token::run(command).await,
            cli::Command::NodeProcess(worker) => worker::run(&worker, host.context("it is in the node's network namespace")?).await,
            cli::Command::Image(image) => image::run(image).await,
            cli::Command::Volume(volume) => volumes::run(volume).await,
            cli::Command::Scheduler(part) => part::scheduler(&part).await,
            cli::Command::Controllers(part) => part::controllers(&part).await,
            cli::Command::Kubelet(part) => part::kubelet(&part).await,
            cli::Command::Proxy(part) => part::proxy(&part).await,
            cli::Command::Dns(part) => part::dns(&part).await,
        }
    });
    // Tasks that hold sockets or watches end with the process; nobody waits for them.
    runtime.shutdown_background();
    outcome
}
