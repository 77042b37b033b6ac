//! What the program tells beside its steps: `KNARR_LOG` chooses, to standard error.

use std::io::{IsTerminal as _, stderr};

/// Begins to log.
pub fn log() {
    use tracing_subscriber::{EnvFilter, fmt};
    let filter = EnvFilter::try_from_env("KNARR_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    // Colours are for terminals: in the journal, a file or a pipe they are bytes between the words.
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|asked| asked.is_empty());
    // The log's own errors go nowhere: on a full disk, telling them would fail too, and by a panic.
    let log = fmt().with_env_filter(filter).with_writer(stderr).with_ansi(colours).with_target(true).log_internal_errors(false);
    // Fails only if it was set before.
    let _ = log.try_init();
}
