//! Programs that are run: to their end, or line by line.

use std::{
    fmt,
    io::{BufRead as _, BufReader, Read, Write as _},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a program said.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it was called.
    pub command: String,
    /// Its exit code; none if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Whether it succeeded.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Itself, if it succeeded.
    #[track_caller]
    pub fn assert_ok(self) -> Self {
        assert!(self.ok(), "{self}");
        self
    }

    /// What it said on standard error, if it failed with a code.
    #[track_caller]
    pub fn assert_fails(self) -> String {
        assert!(self.code.is_some_and(|c| c != 0), "it should fail: {self}");
        self.stderr
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ended with {:?}\n{}\n{}", self.command, self.code, self.stdout, self.stderr)
    }
}

/// Runs a program with this input to its end.
pub fn run(command: &mut Command, input: &[u8], limit: Duration) -> Output {
    let name = format!("{command:?}");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
    let (mut stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let (told, told_all) = channel();
    let reader = |from: Option<Box<dyn Read + Send>>| {
        let told = told.clone();
        thread::spawn(move || {
            let mut text = Vec::new();
            let _ = from.expect("a pipe").read_to_end(&mut text);
            let _ = told.send(());
            String::from_utf8_lossy(&text).into_owned()
        })
    };
    let out = reader(stdout.map(|s| Box::new(s) as _));
    let err = reader(stderr.map(|s| Box::new(s) as _));
    let input = input.to_vec();
    thread::spawn(move || {
        // A program that does not read all of it will say why itself.
        let _ = stdin.as_mut().expect("a pipe").write_all(&input);
    });
    let end = Instant::now() + limit;
    let late = (0..2).any(|_| told_all.recv_timeout(end.saturating_duration_since(Instant::now())).is_err());
    if late {
        let _ = child.kill();
    }
    let code = child.wait().expect("it is our child").code();
    assert!(!late, "{name} did not end within {limit:?}");
    let text = |reader: thread::JoinHandle<String>| reader.join().expect("the reader of a pipe");
    Output { command: name, code, stdout: text(out), stderr: text(err) }
}

/// A program that runs on.
pub struct Running {
    name: String,
    child: Child,
    lines: Receiver<String>,
    stdin: Option<ChildStdin>,
    seen: Vec<String>,
}

impl Running {
    /// Starts it; its input is a pipe if the command says so.
    pub fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        let (send, lines) = channel();
        let out = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { name, stdin: child.stdin.take(), child, lines, seen: Vec::new() }
    }

    /// Waits for a line that is wanted, and returns it.
    #[track_caller]
    pub fn line(&mut self, limit: Duration, wanted: impl FnMut(&str) -> bool) -> String {
        let line = self.line_or_end(limit, wanted);
        line.unwrap_or_else(|| panic!("{}: ended before such a line, after {:#?}", self.name, self.seen))
    }

    /// The same of a program that may end before; then there is none.
    #[track_caller]
    pub fn line_or_end(&mut self, limit: Duration, mut wanted: impl FnMut(&str) -> bool) -> Option<String> {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if wanted(&line) {
                        return Some(line);
                    }
                }
                Err(RecvTimeoutError::Timeout) => panic!("{}: no such line within {limit:?}, only {:#?}", self.name, self.seen),
                Err(RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    /// What it has said so far, as far as it was waited for.
    #[must_use]
    pub fn seen(&self) -> &[String] {
        &self.seen
    }

    /// Writes a line to its input.
    pub fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("the input is a pipe");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }

    /// Ends its input.
    pub fn close_input(&mut self) {
        self.stdin = None;
    }

    /// Everything that it still says until it ends, and how it ends.
    #[track_caller]
    pub fn end(mut self, limit: Duration) -> (Vec<String>, ExitStatus) {
        let end = Instant::now() + limit;
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Timeout) => panic!("{} did not end within {limit:?}: {:#?}", self.name, self.seen),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        let status = self.child.wait().expect("it is our child");
        (std::mem::take(&mut self.seen), status)
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("a process ID"));
        kill(pid, signal).unwrap_or_else(|e| panic!("{}: {e}", self.name));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
