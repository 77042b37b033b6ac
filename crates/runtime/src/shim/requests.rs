//! What a shim does when it is asked.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use super::child::{self, Command, Pids, Stdio};
use super::container::Container;
use super::{Connecting, Held, Launch, Shim, Step};
use crate::proto::{self, Record, Reply, Request, Spec};
use crate::types::ContainerState;
use crate::{cgroup, files, prepare, process, sys};

impl Shim {
    pub(super) fn request(&mut self, client: u64, request: Request, fds: Vec<OwnedFd>) {
        let done = match request {
            Request::Subscribe => {
                self.subscribe(client);
                return;
            }
            Request::Start { container, hold, streams, hooks } => match self.start(client, &container, [hold, hooks], streams.then_some(fds)) {
                Ok(()) => return,
                Err(message) => Err(self.refuse_start(&container, message)),
            },
            Request::Release { container } => match self.release(client, &container) {
                Ok(()) => return,
                Err(reply) => Err(reply),
            },
            Request::Refuse { container, message } => match self.refuse(client, &container, message) {
                Ok(()) => return,
                Err(reply) => Err(reply),
            },
            Request::Exec { container, cmd, tty, stdin, stdout, stderr } => match self.exec(client, &container, &cmd, tty, [stdin, stdout, stderr], fds) {
                Ok(()) => return,
                Err(reply) => Err(reply),
            },
            Request::Attach { container, stdin, stdout, stderr } => self.attach(client, &container, [stdin, stdout, stderr], fds),
            Request::Kill { container, signal, all } => self.signal(&container, signal, all),
            Request::PortForward { port } => match process::connect_loopback(port) {
                Ok((fd, true)) => {
                    self.reply(client, &Reply::Connected, &[fd]);
                    return;
                }
                Ok((fd, false)) => {
                    self.connecting.push(Connecting { fd, port, client });
                    return;
                }
                Err(e) => Err(unconnected(port, &e)),
            },
            Request::ReopenLog { container } => match self.container(&container) {
                Some(found) => found.reopen_log().map(|()| Some(Reply::Done)).map_err(|e| failed(format!("log: {e}"))),
                None => Err(missing(&container)),
            },
            Request::Forget { container } => {
                self.containers.retain(|c| c.record.id != container || c.record.state == ContainerState::Running);
                self.save();
                Ok(Some(Reply::Done))
            }
            Request::Shutdown => {
                self.shut_down();
                return;
            }
        };
        match done {
            Ok(Some(reply)) | Err(reply) => self.reply(client, &reply, &[]),
            Ok(None) => {}
        }
    }

    fn subscribe(&mut self, client: u64) {
        if let Some(found) = self.clients.iter_mut().find(|c| c.id == client) {
            found.subscribed = true;
        }
        let records: Vec<Record> = self.containers.iter().map(|c| c.record.clone()).collect();
        let (first, rest) = records.split_at(first_records(&records));
        self.reply(client, &Reply::States { pid: std::process::id(), containers: first.to_vec() }, &[]);
        for record in rest {
            self.reply(client, &Reply::Changed { container: record.clone() }, &[]);
        }
    }

    /// A connection that took its time is made, or is not.
    pub(super) fn connection_ready(&mut self, client: u64) {
        let Some(at) = self.connecting.iter().position(|c| c.client == client) else { return };
        let Connecting { fd, port, client } = self.connecting.swap_remove(at);
        match process::connected(&fd) {
            Ok(()) => self.reply(client, &Reply::Connected, &[fd]),
            Err(e) => self.reply(client, &unconnected(port, &e), &[]),
        }
    }

    /// Clones the container's first process; the answer comes when it has become its program.
    fn start(&mut self, client: u64, id: &str, [hold, hooks]: [bool; 2], given: Option<Vec<OwnedFd>>) -> Step<()> {
        if self.stopping {
            return Err("the sandbox is ending".to_owned());
        }
        if self.containers.iter().any(|c| c.record.id == id) {
            return Err(format!("container {id:?} was started before"));
        }
        prepare::check_id(id).map_err(|e| e.to_string())?;
        let spec: Spec =
            files::read_json(&self.host.dir.join(format!("c-{id}.json"))).ok_or_else(|| format!("the specification of container {id:?} cannot be read"))?;
        let log = spec.log_path.clone();
        let mut container = Container::new(spec).map_err(|e| format!("failed to open log {log:?}: {e}"))?;
        let stdio = match given {
            Some(fds) => {
                let mut fds = fds.into_iter();
                Stdio([fds.next(), fds.next(), fds.next()])
            }
            None => streams(&mut container).map_err(|e| format!("streams: {e}"))?,
        };
        let (channel, theirs) = process::packet_pair().map_err(|e| format!("socket: {e}"))?;
        let pids = match self.process_namespace(&container.spec)? {
            Some(pids) => Pids::Join(pids),
            None if self.host.users.is_some() => Pids::New,
            None => Pids::Here,
        };
        let known = matches!(pids, Pids::Here);
        let fresh = known && !self.host.sandbox.host_pid;
        let Cloned { pid, joined } = clone_child(&container.spec, if fresh { libc::CLONE_NEWPID } else { 0 })?;
        if pid == 0 {
            child::run(&theirs, || child::container(&self.host, &container.spec, child::Start { joined, pids, hold, hooks }, stdio, &theirs));
        }
        self.containers.push(container);
        let container = id.to_owned();
        self.launches.push(Launch { pid, known, channel, terminal: None, failure: None, client, container, exec: false, held: Held::No });
        Ok(())
    }

    /// Lets a held container go on; the answer comes when it has become its program.
    fn release(&mut self, client: u64, id: &str) -> Result<(), Reply> {
        if !self.containers.iter().any(|c| c.record.id == id) {
            return Err(missing(id));
        }
        let found = self.launches.iter_mut().find(|l| l.container == id && l.held.waits());
        let launch = found.ok_or_else(|| failed(format!("container {id:?} is not waiting to be started")))?;
        sys::send_packet(&launch.channel, &[child::GO], &[]).map_err(|e| failed(format!("start: {e}")))?;
        (launch.client, launch.held) = (client, Held::Released);
        Ok(())
    }

    /// Ends a container that waits for hooks; the answer comes when it has ended, and is the reason.
    fn refuse(&mut self, client: u64, id: &str, message: String) -> Result<(), Reply> {
        let at = self.launches.iter().position(|l| l.container == id && l.held == Held::Made);
        let at = at.ok_or_else(|| failed(format!("container {id:?} is not waiting for hooks")))?;
        let launch = &mut self.launches[at];
        (launch.client, launch.failure) = (client, Some(message));
        self.end_start(&self.launches[at], libc::SIGKILL);
        Ok(())
    }

    /// The namespace to join; none for an own or the host's.
    fn process_namespace(&self, spec: &Spec) -> Step<Option<OwnedFd>> {
        if let Some(target) = &spec.config.pid_target {
            let found = self.containers.iter().find(|c| c.record.id == *target && c.record.state == ContainerState::Running);
            let pid = found.ok_or_else(|| format!("target container {target:?} is not running"))?.record.pid;
            return pids_of(pid).map(Some);
        }
        let shared = self.host.shared_pids.as_ref().map(|shared| shared.namespace.try_clone());
        shared.transpose().map_err(|e| format!("process namespace: {e}"))
    }

    /// A start that was refused before anything was cloned counts as one that failed.
    fn refuse_start(&mut self, id: &str, message: String) -> Reply {
        let known = self.containers.iter().any(|c| c.record.id == id);
        if !known && let Some(spec) = files::read_json::<Spec>(&self.host.dir.join(format!("c-{id}.json"))) {
            // Without its log, which may be the reason.
            let spec = Spec { log_path: Default::default(), ..spec };
            if let Ok(mut container) = Container::new(spec) {
                container.not_started(message.clone());
                self.containers.push(container);
                self.publish(id);
            }
        }
        Reply::Failed { not_found: false, start: true, message }
    }

    fn exec(&mut self, client: u64, id: &str, cmd: &[String], tty: bool, wanted: [bool; 3], fds: Vec<OwnedFd>) -> Result<(), Reply> {
        let Some(at) = self.containers.iter().position(|c| c.record.id == id) else { return Err(missing(id)) };
        let (container, host) = (&self.containers[at], &self.host);
        if container.record.state != ContainerState::Running {
            return Err(failed(format!("container {id:?} is not in running state")));
        }
        let mut fds = fds.into_iter();
        let stdio = Stdio(wanted.map(|w| if w && !tty { fds.next() } else { None }));
        let pid = container.record.pid;
        let begin = || -> Step<(i32, OwnedFd)> {
            let (channel, theirs) = process::packet_pair().map_err(|e| format!("socket: {e}"))?;
            let Cloned { pid: child, joined } = clone_child(&container.spec, 0)?;
            if child == 0 {
                child::run(&theirs, || child::exec(host, &container.spec, pid, joined, &Command { argv: cmd, tty, hold: false, first: false }, stdio, &theirs));
            }
            Ok((child, channel))
        };
        let (pid, channel) = begin().map_err(failed)?;
        let container = id.to_owned();
        self.launches.push(Launch { pid, known: false, channel, terminal: None, failure: None, client, container, exec: true, held: Held::No });
        Ok(())
    }

    fn attach(&mut self, client: u64, id: &str, [stdin, stdout, stderr]: [bool; 3], fds: Vec<OwnedFd>) -> Result<Option<Reply>, Reply> {
        let Some(container) = self.container(id) else { return Err(missing(id)) };
        if container.record.state != ContainerState::Running {
            return Err(failed(format!("container {id:?} is not in running state")));
        }
        let names = [(stdout, "stdout"), (stderr, "stderr")];
        for (fd, name) in fds.into_iter().zip(names.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name)) {
            container.attach(fd, name).map_err(|e| failed(format!("attach: {e}")))?;
        }
        let terminal = container.terminal.is_some();
        let input = match &container.terminal {
            Some(fd) => fd.try_clone().ok(),
            None if !stdin => None,
            // The only writing end goes to the runtime, which has it for all who attach, and ends it with the first of them.
            None if container.spec.config.stdin_once => container.stdin.take(),
            None => container.stdin.as_ref().and_then(|fd| fd.try_clone().ok()),
        };
        let reply = Reply::Attached { terminal, stdin: input.is_some() };
        self.reply(client, &reply, &input.into_iter().collect::<Vec<_>>());
        Ok(None)
    }

    fn signal(&mut self, id: &str, signal: i32, all: bool) -> Result<Option<Reply>, Reply> {
        if !self.containers.iter().any(|c| c.record.id == id) {
            return Err(missing(id));
        }
        if all {
            // A start that hangs (a source on a file system that does not answer) ends as one that failed.
            self.launches.iter().filter(|l| l.container == id && !l.exec).for_each(|l| self.end_start(l, signal));
        }
        for container in self.containers.iter().filter(|c| c.record.id == id && c.record.pid > 0) {
            sys::kill(container.record.pid as i32, signal);
            if all {
                cgroup::kill_all(&container.spec.cgroup);
            }
        }
        Ok(Some(Reply::Done))
    }

    /// Ends a start, and what that of a container has begun (a hook), which would run on beside the next attempt's.
    pub(super) fn end_start(&self, launch: &Launch, signal: i32) {
        sys::kill(launch.pid, signal);
        for container in self.containers.iter().filter(|c| !launch.exec && c.record.id == launch.container) {
            cgroup::kill_all(&container.spec.cgroup);
        }
    }

    /// Kills all; the loop ends when all have ended.
    fn shut_down(&mut self) {
        self.stopping = true;
        self.launches.iter().for_each(|l| self.end_start(l, libc::SIGKILL));
        for container in self.containers.iter().filter(|c| c.record.pid > 0) {
            sys::kill(container.record.pid as i32, libc::SIGKILL);
            cgroup::kill_all(&container.spec.cgroup);
        }
    }
}

fn failed(message: String) -> Reply {
    Reply::Failed { not_found: false, start: false, message }
}

fn unconnected(port: u16, e: &io::Error) -> Reply {
    failed(format!("failed to connect to localhost:{port} inside the pod: {e}"))
}

/// How many records a first answer has room for.
fn first_records(records: &[Record]) -> usize {
    let mut left = proto::STATES_BYTES_MAX;
    let fits = |record: &&Record| {
        // Every byte of a text may take six when it is written, and the other fields are a few numbers.
        let bytes = 512 + 6 * (record.id.len() + record.message.len());
        let fits = bytes <= left;
        left = left.saturating_sub(bytes);
        fits
    };
    records.iter().take_while(fits).count()
}

fn missing(id: &str) -> Reply {
    Reply::Failed { not_found: true, start: false, message: id.to_owned() }
}

fn pids_of(pid: u32) -> Step<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/pid")).map(OwnedFd::from).map_err(|e| format!("process namespace of {pid}: {e}"))
}

/// A forked process.
struct Cloned {
    /// 0 in the child.
    pid: i32,
    /// It is in its cgroup already.
    joined: bool,
}

/// Forks into the container's cgroup where the kernel can, and into new namespaces by `flags`.
fn clone_child(spec: &Spec, flags: i32) -> Step<Cloned> {
    let into = cgroup::clone_target(&spec.cgroup).and_then(|cgroup| process::clone_into(flags, &cgroup).ok());
    match into {
        Some(pid) => Ok(Cloned { pid, joined: true }),
        None => process::clone(flags).map(|pid| Cloned { pid, joined: false }).map_err(|e| format!("cannot make a process: {e}")),
    }
}

/// Pipes for the container's streams: its ends are returned, ours are kept.
fn streams(container: &mut Container) -> io::Result<Stdio> {
    let mut stdio = Stdio::default();
    if container.spec.config.tty {
        return Ok(stdio);
    }
    if container.spec.config.stdin {
        let (read, write) = sys::pipe()?;
        stdio.0[0] = Some(read);
        container.stdin = Some(write);
    }
    for (at, name) in [(1, "stdout"), (2, "stderr")] {
        let (read, write) = sys::pipe()?;
        stdio.0[at] = Some(write);
        container.add_output(read, name)?;
    }
    Ok(stdio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_answer_fits_into_a_packet() {
        let long = Record { id: "i".repeat(64), message: "\u{1}".repeat(8 << 10), ..Record::default() };
        let many: Vec<Record> = std::iter::repeat_n(long, 20).chain(std::iter::repeat_n(Record::default(), 20)).collect();
        let first = first_records(&many);
        assert_eq!(first, 1);
        for records in [many[..first].to_vec(), vec![Record::default(); first_records(&vec![Record::default(); 1000])]] {
            let packet = proto::Packet { version: proto::VERSION, body: Reply::States { pid: u32::MAX, containers: records } };
            assert!(serde_json::to_vec(&packet).unwrap().len() <= proto::PACKET_BYTES_MAX);
        }
        assert_eq!(first_records(&[]), 0);
    }
}
