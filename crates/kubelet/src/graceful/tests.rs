//! The connection to a bus, beside a bus of the test's that speaks with real handles.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::bus::Bus;
use super::wire::tests::written;
use super::wire::{self, Arg, Call, Message};
use crate::testing::TempDir;

const CALL: Call<'_> = Call { to: "a.b", path: "/a", interface: "a.b.C", member: "M", args: &[Arg::Text("x")] };

fn read(stream: &mut UnixStream) -> Message {
    let mut bytes = Vec::new();
    loop {
        match wire::length(&bytes).expect("a message") {
            Some(len) if bytes.len() == len => return Message::decode(&bytes).expect("a message"),
            _ => {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("more");
                bytes.push(byte[0]);
            }
        }
    }
}

/// A bus that lets one in, answers its greeting, and then does this.
fn bus(name: &str, then: impl FnOnce(UnixStream) + Send + 'static) -> (TempDir, PathBuf, std::thread::JoinHandle<()>) {
    let dir = TempDir::new(name);
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).expect("a socket");
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a guest");
        let mut lines = BufReader::with_capacity(1, stream.try_clone().expect("a stream"));
        let mut line = |wanted: &str, answer: &str| {
            let mut line = String::new();
            lines.read_line(&mut line).expect("a line");
            assert!(line.trim_start_matches('\0').starts_with(wanted), "{line}");
            stream.write_all(answer.as_bytes()).expect("an answer");
        };
        line("AUTH EXTERNAL 3", "OK 1234\r\n");
        line("NEGOTIATE_UNIX_FD", "AGREE_UNIX_FD\r\n");
        line("BEGIN", "");
        read(&mut stream);
        stream.write_all(&written(2, &[(8, "g", "s")], &[(5, 1)], b"\x04\0\0\0:1.9\0")).expect("an answer");
        then(stream);
    });
    (dir, path, thread)
}

fn signal(near: u32) -> Vec<u8> {
    let (path, interface) = ("/org/freedesktop/login1", "org.freedesktop.login1.Manager");
    written(4, &[(1, "o", path), (2, "s", interface), (3, "s", "PrepareForShutdown"), (8, "g", "b")], &[], &near.to_le_bytes())
}

#[tokio::test]
async fn a_handle_comes_with_its_answer_and_a_signal_before_it_waits() {
    let (_dir, path, thread) = bus("bus-handle", |mut stream| {
        read(&mut stream);
        let (mine, theirs) = UnixStream::pair().expect("a pair");
        let answer = written(2, &[(8, "g", "h")], &[(5, 2), (9, 1)], &0_u32.to_le_bytes());
        stream.write_all(&signal(1)).expect("a signal");
        // The answer comes in two pieces, the handle with the first.
        let rights = [theirs.as_raw_fd()];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&answer[..20])], &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), None).expect("sent");
        drop(theirs);
        stream.write_all(&answer[20..]).expect("the rest");
        // It is closed when the guest lets go of it.
        assert_eq!((&mine).read(&mut [0]).expect("the end"), 0);
    });
    let mut bus = Bus::connect(&path).await.expect("let in");
    let (answer, handles) = bus.call(&CALL).await.expect("an answer");
    assert_eq!((answer.handle(), handles.len()), (Some(0), 1));
    drop(handles);
    assert_eq!(bus.signal().await.expect("a signal").truth(), Some(true));
    tokio::task::spawn_blocking(|| thread.join().expect("as it was told")).await.expect("done");
}

#[tokio::test]
async fn a_refusal_is_told_in_its_words_and_the_end_is_one() {
    let (_dir, path, thread) = bus("bus-refusal", |mut stream| {
        read(&mut stream);
        let error = written(3, &[(4, "s", "org.freedesktop.DBus.Error.AccessDenied"), (8, "g", "s")], &[(5, 2)], b"\x02\0\0\0no\0");
        stream.write_all(&error).expect("an answer");
    });
    let mut bus = Bus::connect(&path).await.expect("let in");
    assert_eq!(bus.call(&CALL).await.expect_err("refused").to_string(), "org.freedesktop.DBus.Error.AccessDenied: no");
    assert!(bus.signal().await.is_err());
    tokio::task::spawn_blocking(|| thread.join().expect("as it was told")).await.expect("done");
    assert!(Bus::connect(&PathBuf::from("/nonexistent/socket")).await.is_err());
}

#[tokio::test]
async fn a_message_of_any_length_is_passed_over_with_its_handles() {
    let (_dir, path, thread) = bus("bus-long", |mut stream| {
        let (mine, theirs) = UnixStream::pair().expect("a pair");
        let long = written(4, &[(8, "g", "s")], &[(9, 1)], &vec![b'x'; 3 * wire::MESSAGE_MAX]);
        let rights = [theirs.as_raw_fd()];
        sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&long[..20])], &[ControlMessage::ScmRights(&rights)], MsgFlags::empty(), None).expect("sent");
        drop(theirs);
        // The next message follows in one piece with the end of the long one.
        stream.write_all(&[&long[20..], &signal(1)].concat()).expect("the rest");
        assert_eq!((&mine).read(&mut [0]).expect("the end"), 0);
    });
    let mut bus = Bus::connect(&path).await.expect("let in");
    assert_eq!(bus.signal().await.expect("a signal").truth(), Some(true));
    tokio::task::spawn_blocking(|| thread.join().expect("as it was told")).await.expect("done");
}
