//! What strangers made is read in a process of its own: `knarr unpack`, this same program executed again.
//!
//! The process with the API server and the store in it must outlive any image: the helper has a limit on its memory, which a
//! decompressor or an endless archive meets instead of the machine's, is the first one that the kernel kills when memory is
//! short, and its death (by that limit, a signal, a panic) is an error of that image. Before it reads a byte it gives up what
//! could do harm: it has mount, network and IPC namespaces of its own, the directory to write into for its root, no
//! descriptors but its three, and only the capabilities that it needs to make files of any owner and kind. So neither
//! `security.*` attributes other than capabilities nor `trusted.*` ones can be set by an image.
//!
//! Descriptors: 0 is the archive, 1 takes the answer, 2 takes an archive's content when it is to be expanded. The job is an
//! argument. The helper ends with the thread that started it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};

use super::{index, unpack};
use crate::error::{Context, Error, Result};
use crate::proto::Sets;
use crate::{process, sys};

/// Bytes of address space: a decompressor's window (128 MiB), the names of some million files, and the program.
const MEMORY_BYTES_MAX: u64 = 1 << 30;
/// The list of an archive's members is the longest answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;
/// Files are opened one at a time, and a walk holds some.
const DESCRIPTORS_MAX: u64 = 256;
/// CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETFCAP.
const CAPABILITIES: u64 = 1 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 27 | 1 << 31;

#[derive(Serialize, Deserialize)]
pub(super) enum Job {
    /// A layer's tar becomes a directory.
    Layer(unpack::Job),
    /// What is in an image archive, and where; its tar is expanded if need be.
    Index {
        /// An empty directory, to be shut up in.
        empty: PathBuf,
    },
}

#[derive(Serialize, Deserialize)]
enum Answer {
    /// Bytes of the layer's files.
    Layer(u64),
    Index(index::Index),
    Failed(String),
}

/// Starts helpers.
#[derive(Debug, Clone)]
pub(super) struct Helper {
    pub(super) program: PathBuf,
}

impl Helper {
    pub(super) fn layer(&self, job: unpack::Job, input: &File, what: &str) -> Result<u64> {
        match self.run(&Job::Layer(job), input, None, what)? {
            Answer::Layer(size) => Ok(size),
            _ => Err(Error::Image(format!("{what}: the helper answered something else"))),
        }
    }

    pub(super) fn index(&self, empty: &Path, input: &File, expanded: &File, what: &str) -> Result<index::Index> {
        match self.run(&Job::Index { empty: empty.to_owned() }, input, Some(expanded), what)? {
            Answer::Index(index) => Ok(index),
            _ => Err(Error::Image(format!("{what}: the helper answered something else"))),
        }
    }

    /// Waits on the caller's thread, with whose end the helper would end.
    fn run(&self, job: &Job, input: &File, expanded: Option<&File>, what: &str) -> Result<Answer> {
        let job = serde_json::to_string(job).map_err(|e| Error::Invalid(e.to_string()))?;
        let copy = |file: &File| file.try_clone().context("cannot hand a file over").map(Stdio::from);
        let mut command = Command::new(&self.program);
        command.arg0("knarr").arg("unpack").arg(job).env_clear().stdin(copy(input)?).stdout(Stdio::piped());
        command.stderr(expanded.map_or_else(|| Ok(Stdio::null()), copy)?);
        let mut child = command.spawn().context("cannot start the unpacking of an image")?;
        let mut bytes = Vec::new();
        let read = child.stdout.take().map_or(Ok(0), |out| out.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut bytes));
        let status = child.wait().context("cannot wait for the unpacking of an image")?;
        read.context("cannot hear the unpacking of an image")?;
        match serde_json::from_slice(&bytes) {
            Ok(Answer::Failed(message)) => Err(Error::Image(message)),
            Ok(answer) if status.success() => Ok(answer),
            _ => Err(Error::Image(match status.signal() {
                Some(signal) => format!("{what}: its unpacking was ended by signal {signal}; it may use {} MiB of memory", MEMORY_BYTES_MAX >> 20),
                None => format!("{what}: its unpacking failed (exit code {})", status.code().unwrap_or_default()),
            })),
        }
    }
}

/// Runs a helper. `args` are those after `unpack`. To be called before anything else of the program starts: no thread, no
/// runtime.
pub fn unpack_main(args: Vec<OsString>) -> ! {
    let job = args.first().and_then(|a| a.to_str()).and_then(|text| serde_json::from_str(text).ok());
    let Some(job) = job else {
        eprintln!("usage: unpack JOB (started by knarr itself)");
        process::exit_now(2);
    };
    let answer = match work(job) {
        Ok(answer) => answer,
        Err(e) => Answer::Failed(match e {
            Error::Image(text) => text,
            e => e.to_string(),
        }),
    };
    let told = serde_json::to_vec(&answer).map_err(io::Error::from).and_then(|text| io::stdout().write_all(&text).and_then(|()| io::stdout().flush()));
    process::exit_now(i32::from(told.is_err()))
}

fn work(job: Job) -> Result<Answer> {
    let file = |fd: std::os::fd::BorrowedFd<'_>| fd.try_clone_to_owned().map(File::from).context("no archive is given");
    process::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64).context("cannot bind the helper to its parent")?;
    process::set_umask(0);
    // The control plane is worth more than one image.
    let _ = std::fs::write("/proc/self/oom_score_adj", "1000");
    process::close_from(3);
    process::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC).context("cannot make namespaces")?;
    sys::mount(c"", c"/", c"", libc::MS_REC | libc::MS_PRIVATE, c"").context("cannot make a mount namespace")?;
    match job {
        Job::Layer(job) => {
            let root = unpack::mounted(&job).context("cannot prepare the unpacking of a layer")?;
            confine(&root).context("cannot shut the unpacking up")?;
            unpack::layer(&job, file(io::stdin().as_fd())?).map(Answer::Layer)
        }
        Job::Index { empty } => {
            confine(&empty).context("cannot shut the unpacking up")?;
            index::read(file(io::stdin().as_fd())?, file(io::stderr().as_fd())?).map(Answer::Index)
        }
    }
}

/// From here on nothing but the three descriptors and what is below `root` can be reached.
fn confine(root: &Path) -> io::Result<()> {
    nix::unistd::chdir(root)?;
    nix::unistd::chroot(".")?;
    nix::unistd::chdir("/")?;
    for (resource, limit) in [(libc::RLIMIT_AS, MEMORY_BYTES_MAX), (libc::RLIMIT_NOFILE, DESCRIPTORS_MAX), (libc::RLIMIT_CORE, 0)] {
        process::set_limit(resource, limit, limit)?;
    }
    process::bound_capabilities(CAPABILITIES)?;
    process::set_capabilities(Sets::own(CAPABILITIES))?;
    process::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}
