//! A container as its shim holds it: its record, its streams, and who listens to them.

use std::io;
use std::os::fd::OwnedFd;

use super::log::Log;
use crate::proto::{Record, Spec};
use crate::sys;
use crate::types::ContainerState;

/// A listener that is behind by this much holds the container's output back, as a full pipe would.
const PENDING_BYTES_MAX: usize = 256 * 1024;
/// Streams that one container's listeners hold, two for each: many more than people who look on, and few beside the descriptors
/// that a shim may have, of which each costs one.
const ATTACHED_MAX: usize = 128;
/// What a pipe can hold (the kernel's own limit for users): all that an ended container can have left in one.
const DRAIN_BYTES_MAX: usize = 1 << 20;

/// A stream that the container's processes write to.
pub(super) struct Output {
    pub(super) fd: OwnedFd,
    name: &'static str,
    /// The unfinished line.
    rest: Vec<u8>,
    ended: bool,
}

/// Somebody who was attached and gets a copy.
pub(super) struct Attached {
    pub(super) fd: OwnedFd,
    name: &'static str,
    pub(super) pending: Vec<u8>,
    gone: bool,
}

pub(super) struct Container {
    pub(super) spec: Spec,
    pub(super) record: Record,
    log: Log,
    pub(super) outputs: Vec<Output>,
    pub(super) attached: Vec<Attached>,
    /// The writing end of its standard input.
    pub(super) stdin: Option<OwnedFd>,
    /// The controlling side of its terminal.
    pub(super) terminal: Option<OwnedFd>,
}

impl Container {
    pub(super) fn new(spec: Spec) -> io::Result<Container> {
        let record = Record { id: spec.config.id.clone(), ..Record::default() };
        let log = Log::open(&spec.log_path)?;
        Ok(Container { spec, record, log, outputs: Vec::new(), attached: Vec::new(), stdin: None, terminal: None })
    }

    pub(super) fn add_output(&mut self, fd: OwnedFd, name: &'static str) -> io::Result<()> {
        sys::set_nonblocking(&fd)?;
        self.outputs.push(Output { fd, name, rest: Vec::new(), ended: false });
        Ok(())
    }

    pub(super) fn attach(&mut self, fd: OwnedFd, name: &'static str) -> io::Result<()> {
        if self.attached.len() >= ATTACHED_MAX {
            return Err(io::Error::other("too many listen to this container already"));
        }
        sys::set_nonblocking(&fd)?;
        self.attached.push(Attached { fd, name, pending: Vec::new(), gone: false });
        Ok(())
    }

    pub(super) fn reopen_log(&mut self) -> io::Result<()> {
        self.log.reopen()
    }

    /// Its program runs.
    pub(super) fn running(&mut self, pid: i32, terminal: Option<OwnedFd>) {
        self.record.state = ContainerState::Running;
        self.record.pid = pid as u32;
        self.record.started_ns = sys::now_ns();
        if let Some(master) = terminal {
            if let Ok(copy) = master.try_clone() {
                let _ = self.add_output(copy, "stdout");
            }
            self.terminal = Some(master);
        }
    }

    /// Its program could not be executed.
    pub(super) fn not_started(&mut self, message: String) {
        /// What containerd's CRI plugin reports for a start that failed.
        const START_FAILED: i32 = 128;
        let now = sys::now_ns();
        self.record.state = ContainerState::Exited;
        self.record.pid = 0;
        self.record.start_failed = true;
        self.record.finished_ns = now;
        self.record.exit_code = START_FAILED;
        self.record.message = message;
        self.outputs.clear();
        self.stdin = None;
    }

    /// Whether a slow listener must catch up first.
    pub(super) fn held_back(&self) -> bool {
        self.attached.iter().any(|a| a.pending.len() > PENDING_BYTES_MAX)
    }

    /// Reads once from an output: how much there was, 0 when there is no more for now.
    pub(super) fn read(&mut self, n: usize, buffer: &mut [u8]) -> usize {
        let Some(output) = self.outputs.get_mut(n).filter(|o| !o.ended) else { return 0 };
        match sys::read(&output.fd, buffer) {
            Ok(0) => output.ended = true,
            Ok(count) => {
                self.log.take(output.name, &buffer[..count], &mut output.rest);
                let name = output.name;
                self.attached.iter_mut().filter(|a| a.name == name).for_each(|a| a.send(&buffer[..count]));
                return count;
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => return 0,
            // EIO: nobody has the terminal open any more.
            Err(_) => output.ended = true,
        }
        self.log.end(output.name, &mut output.rest);
        0
    }

    /// The container has ended: all that its processes wrote is read, and the streams are closed. No more than was there can
    /// be meant: somebody else (of a shared process namespace, or who was handed the writing end) may go on writing for ever.
    pub(super) fn drain(&mut self, buffer: &mut [u8]) {
        for n in 0..self.outputs.len() {
            let mut left = DRAIN_BYTES_MAX;
            while left > 0 {
                let count = left.min(buffer.len());
                match self.read(n, &mut buffer[..count]) {
                    0 => break,
                    read => left = left.saturating_sub(read),
                }
            }
        }
        for output in &mut self.outputs {
            self.log.end(output.name, &mut output.rest);
            output.ended = true;
        }
        self.stdin = None;
        self.terminal = None;
    }

    /// A listener can take more, or has left.
    pub(super) fn listener_ready(&mut self, n: usize, left: bool) {
        let Some(attached) = self.attached.get_mut(n) else { return };
        if left {
            attached.gone = true;
        } else {
            attached.send(&[]);
        }
    }

    /// Forgets streams that have ended, and listeners that left or have heard all.
    pub(super) fn tidy(&mut self) {
        self.outputs.retain(|o| !o.ended);
        let ended = self.record.state == ContainerState::Exited;
        self.attached.retain(|a| !a.gone && (!ended || !a.pending.is_empty()));
    }
}

impl Attached {
    fn send(&mut self, bytes: &[u8]) {
        if self.pending.is_empty() {
            let sent = self.write(bytes);
            self.pending.extend_from_slice(&bytes[sent..]);
        } else {
            self.pending.extend_from_slice(bytes);
            let pending = std::mem::take(&mut self.pending);
            let sent = self.write(&pending);
            self.pending = pending[sent..].to_vec();
        }
    }

    /// How much could be written now.
    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut sent = 0;
        while sent < bytes.len() {
            match sys::write(&self.fd, &bytes[sent..]) {
                Ok(n) => sent += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return sent,
                Err(_) => {
                    self.gone = true;
                    return bytes.len();
                }
            }
        }
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device that always has more stands for a pipe that somebody fills without an end.
    #[test]
    fn an_end_is_not_held_up_by_who_goes_on_writing() {
        let path = std::env::temp_dir().join(format!("knarr-drain-{}", std::process::id()));
        let mut container = Container::new(Spec { log_path: path.clone(), ..Spec::default() }).unwrap();
        container.add_output(std::fs::File::open("/dev/zero").unwrap().into(), "stdout").unwrap();
        container.drain(&mut vec![0; 32 << 10]);
        let written = std::fs::metadata(&path).unwrap().len();
        std::fs::remove_file(&path).unwrap();
        assert!(written > DRAIN_BYTES_MAX as u64 && written < 2 * DRAIN_BYTES_MAX as u64, "{written}");
        container.tidy();
        assert!(container.outputs.is_empty());
    }
}
