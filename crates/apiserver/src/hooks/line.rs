//! One connection of HTTP/2 to a server of hooks, and the calls on it.
//!
//! One task does all of it. What is asked at once leaves in one piece, what has come is read in one turn, and who calls is woken once,
//! when the whole answer is there: head and body often come apart. It ends with the last who could call.

use super::{
    ANSWER_BYTES_MAX,
    answer::{Answer, TOO_LARGE},
    life::Life,
    words,
};
use crate::{
    BoxError,
    gather::{Gather, Rest, gather},
    turns::{Bell, turns},
};
use bytes::{Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use h2::{
    Reason, RecvStream, StreamId,
    client::{Builder, Connection, ResponseFuture, SendRequest},
};
use http::{Request, header};
use parking_lot::Mutex;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
};

/// What the other side may send before it is taken from here: on one call, and on all of them.
const CALL_WINDOW_BYTES: u32 = 2 << 20;
const WINDOW_BYTES: u32 = 5 << 20;
/// Calls that are made before the server says how many it takes: what RFC 9113 has each take at least.
const FIRST_CALLS_MAX: usize = 100;
/// Bytes of headers of an answer.
const HEAD_BYTES_MAX: u32 = 16 << 10;

/// Why a call has no answer, in Go's words.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Not a byte of it was sent.
    Unsent(String),
    /// The server says that it has done nothing with it (RFC 9113, 8.7): it takes no more at a time, or ends. Go asks again then.
    Refused(String),
    Failed(String),
}

type Reply = oneshot::Sender<Result<Answer, Unanswered>>;

struct Call {
    head: Request<()>,
    body: Bytes,
    /// Told as soon as the head of the answer is there.
    answered: Arc<AtomicBool>,
    reply: Reply,
}

/// What calls are made by.
#[derive(Clone)]
pub(super) struct Line(Arc<Caller>);

/// All who hold a line.
struct Caller(Arc<Shared>);

impl Drop for Caller {
    fn drop(&mut self) {
        self.0.queue.lock().hung_up = true;
        self.0.bell.ring();
    }
}

/// What callers and the connection's task share.
struct Shared {
    queue: Mutex<Queue>,
    bell: Arc<Bell>,
    /// How many calls the server takes at a time.
    calls_max: AtomicUsize,
    /// Something has come.
    heard: AtomicBool,
    /// It was silent for too long.
    lost: AtomicBool,
}

#[derive(Default)]
struct Queue {
    calls: Vec<Call>,
    /// Nobody can call any more.
    hung_up: bool,
    /// No call is taken any more.
    closed: bool,
}

impl Line {
    /// A line on a stream whose other side speaks HTTP/2; its task runs until nobody holds it.
    ///
    /// # Errors
    /// The stream takes nothing.
    pub(super) async fn open<S>(stream: S) -> Result<Line, String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (line, driven) = Line::driven(stream).await?;
        tokio::spawn(async move {
            if let Err(error) = driven.await {
                tracing::debug!(%error, "a connection to a webhook ended");
            }
        });
        Ok(line)
    }

    async fn driven<S>(stream: S) -> Result<(Line, impl Future<Output = Result<(), BoxError>> + Send), String>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (stream, rest) = gather(stream, true);
        let mut builder = Builder::new();
        builder.enable_push(false).initial_max_send_streams(FIRST_CALLS_MAX);
        builder.initial_window_size(CALL_WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES);
        let handshake = builder.max_header_list_size(HEAD_BYTES_MAX).handshake(stream).await;
        let (opener, mut connection) = handshake.map_err(|error| words::of_two(&error, None))?;
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            bell: Arc::default(),
            calls_max: AtomicUsize::new(usize::MAX),
            heard: AtomicBool::new(false),
            lost: AtomicBool::new(false),
        });
        let life = Life::new(connection.ping_pong());
        let opener = Some(opener);
        let (waiting, under_way) = (VecDeque::new(), FuturesUnordered::new());
        let end = End(Arc::clone(&shared));
        let driver = Driver { connection, opener, life, shared: Arc::clone(&shared), waiting, under_way, _end: end };
        Ok((Line(Arc::new(Caller(shared))), driver.run(rest)))
    }

    /// The same line for another, if no more than so many others hold it, nor more than the server takes calls.
    pub(super) fn shared(&self, others_max: usize) -> Option<Line> {
        let others_max = others_max.min(self.0.0.calls_max.load(Ordering::Relaxed));
        (Arc::strong_count(&self.0) <= others_max).then(|| self.clone())
    }

    pub(super) fn is_closed(&self) -> bool {
        self.0.0.queue.lock().closed
    }

    /// Makes a call. It is given up if the future is dropped; `answered` is set when the head of its answer is there.
    ///
    /// # Errors
    /// There is no answer.
    pub(super) async fn call(&self, mut head: Request<()>, body: Bytes, answered: &Arc<AtomicBool>) -> Result<Answer, Unanswered> {
        head.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
        let (reply, told) = oneshot::channel();
        let call = Call { head, body, answered: Arc::clone(answered), reply };
        {
            let mut queue = self.0.0.queue.lock();
            if queue.closed {
                return Err(unsent());
            }
            queue.calls.push(call);
        }
        self.0.0.bell.ring();
        // It is told in any case, but by a task that is torn from its work.
        told.await.unwrap_or_else(|_| Err(Unanswered::Failed(words::EOF.into())))
    }
}

fn unsent() -> Unanswered {
    Unanswered::Unsent(words::EOF.into())
}

type Exchange = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The connection's side.
struct Driver<S> {
    connection: Connection<Gather<S>, Bytes>,
    /// Gone when no call can be made any more.
    opener: Option<SendRequest<Bytes>>,
    life: Life,
    shared: Arc<Shared>,
    /// What the server does not take yet.
    waiting: VecDeque<Call>,
    under_way: FuturesUnordered<Exchange>,
    _end: End,
}

/// However the task ends: no call waits for it any more.
struct End(Arc<Shared>);

impl Drop for End {
    fn drop(&mut self) {
        for call in self.0.close() {
            let _ = call.reply.send(Err(unsent()));
        }
    }
}

impl Shared {
    /// Takes no call any more, and gives those that were not taken yet.
    fn close(&self) -> Vec<Call> {
        let mut queue = self.queue.lock();
        queue.closed = true;
        std::mem::take(&mut queue.calls)
    }
}

impl<S> Driver<S>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    /// Does all of the connection until it ends. What a turn has made leaves at its end, together.
    async fn run(mut self, rest: Rest<S>) -> Result<(), BoxError> {
        let bell = Arc::clone(&self.shared.bell);
        let settle = |cx: &mut Context<'_>| match rest.poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
            _ => Poll::Pending,
        };
        let ended = turns(&bell, |cx| self.round(cx), settle).await;
        self.close();
        let Driver { connection, mut under_way, _end, .. } = self;
        // Whoever still waits is told that nothing comes.
        drop(connection);
        let cx = &mut Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(())) = under_way.poll_next_unpin(cx) {}
        ended
    }

    /// Looks at everything once.
    fn round(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.take();
        self.make(cx);
        let connection = Pin::new(&mut self.connection).poll(cx);
        while let Poll::Ready(Some(())) = self.under_way.poll_next_unpin(cx) {}
        if let Poll::Ready(ended) = connection {
            return Poll::Ready(ended.map_err(Into::into));
        }
        if self.shared.heard.swap(false, Ordering::Relaxed) {
            self.life.heard();
        }
        // The farewell is waited for as an answer is.
        let awaited = !self.under_way.is_empty() || !self.waiting.is_empty() || self.opener.is_none();
        if self.life.poll_end(awaited, cx).is_ready() {
            self.shared.lost.store(true, Ordering::Relaxed);
            return Poll::Ready(Err(words::LOST.into()));
        }
        Poll::Pending
    }

    /// Takes what callers have asked for, and hears that there are none any more.
    fn take(&mut self) {
        let mut queue = self.shared.queue.lock();
        self.waiting.extend(queue.calls.drain(..));
        // Who waits no more has no place, and his body none in memory.
        self.waiting.retain(|call| !call.reply.is_closed());
        if queue.hung_up && self.waiting.is_empty() {
            queue.closed = true;
            self.opener = None;
        }
    }

    /// Makes the calls that the server takes.
    fn make(&mut self, cx: &mut Context<'_>) {
        let Some(opener) = &mut self.opener else { return };
        loop {
            match opener.poll_ready(cx) {
                Poll::Ready(Ok(())) => {}
                // It takes no call any more; those under way may come to their end.
                Poll::Ready(Err(_)) => return self.close(),
                Poll::Pending => break,
            }
            let Some(Call { head, body, answered, reply }) = self.waiting.pop_front() else { break };
            let sent = opener.send_request(head, body.is_empty()).and_then(|(response, mut stream)| match body.is_empty() {
                true => Ok(response),
                // However much it is: it is in memory once, and leaves as the other side takes it.
                false => stream.send_data(body, true).map(|()| response),
            });
            match sent {
                Ok(response) => self.under_way.push(Box::pin(exchange(response, reply, answered, Arc::clone(&self.shared)))),
                Err(error) => drop(reply.send(Err(Unanswered::Failed(words::of_two(&error, None))))),
            }
        }
        self.shared.calls_max.store(opener.current_max_send_streams(), Ordering::Relaxed);
    }

    /// Makes no call any more.
    fn close(&mut self) {
        self.opener = None;
        self.waiting.extend(self.shared.close());
        for call in self.waiting.drain(..) {
            let _ = call.reply.send(Err(unsent()));
        }
    }
}

/// One call that has been sent: until its answer is there, or nobody waits for it.
async fn exchange(response: ResponseFuture, mut reply: Reply, answered: Arc<AtomicBool>, shared: Arc<Shared>) {
    let id = response.stream_id();
    let whole = async {
        let (head, body) = response.await.map_err(|error| failed(&error, id, &shared))?.into_parts();
        answered.store(true, Ordering::Relaxed);
        shared.heard.store(true, Ordering::Relaxed);
        Ok((head, read(body, id, &shared).await))
    };
    let told = tokio::select! {
        biased;
        told = whole => told,
        () = reply.closed() => return,
    };
    let _ = reply.send(told);
}

/// A whole body.
async fn read(mut body: RecvStream, id: StreamId, shared: &Shared) -> Result<Bytes, String> {
    let mut pieces = Pieces::default();
    while let Some(data) = body.data().await {
        let data = data.map_err(|error| why(&error, id, shared))?;
        shared.heard.store(true, Ordering::Relaxed);
        // It fails for a stream that has ended, which needs no more room.
        let _ = body.flow_control().release_capacity(data.len());
        pieces.add(data)?;
    }
    Ok(pieces.whole())
}

/// The pieces of a body; most have one, which is not copied.
#[derive(Default)]
struct Pieces {
    first: Bytes,
    all: BytesMut,
}

impl Pieces {
    fn add(&mut self, piece: Bytes) -> Result<(), String> {
        if self.first.len().max(self.all.len()) + piece.len() > ANSWER_BYTES_MAX {
            return Err(TOO_LARGE.into());
        }
        if self.first.is_empty() {
            self.first = piece;
            return Ok(());
        }
        if self.all.is_empty() {
            self.all.extend_from_slice(&self.first);
        }
        self.all.extend_from_slice(&piece);
        Ok(())
    }

    fn whole(self) -> Bytes {
        if self.all.is_empty() { self.first } else { self.all.freeze() }
    }
}

fn why(error: &h2::Error, id: StreamId, shared: &Shared) -> String {
    if shared.lost.load(Ordering::Relaxed) { words::LOST.into() } else { words::of_two(error, Some(id)) }
}

fn failed(error: &h2::Error, id: StreamId, shared: &Shared) -> Unanswered {
    let why = why(error, id, shared);
    let refused = error.reason() == Some(Reason::REFUSED_STREAM) || error.is_go_away() && error.reason() == Some(Reason::NO_ERROR);
    if error.is_remote() && refused { Unanswered::Refused(why) } else { Unanswered::Failed(why) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::life::{PING_AFTER, PING_MAX};
    use futures_util::future::join_all;
    use http::Response;
    use http_body_util::{BodyExt as _, Full};
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use std::future::poll_fn;
    use tokio::{io::DuplexStream, time::Instant};

    fn ask(body: Vec<u8>) -> (Request<()>, Bytes) {
        (Request::post("https://a/").body(()).expect("a request"), body.into())
    }

    /// A line to a server that answers with what it is asked.
    async fn echoing(far: DuplexStream) {
        let echo = service_fn(async |request: Request<Incoming>| {
            let body = request.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>(Response::new(Full::new(body)))
        });
        let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(far), echo).await;
        served.expect("it ends well");
    }

    /// Bodies far beyond what is held and what a stream takes go both ways, and the connection ends with the last who could ask.
    #[tokio::test]
    async fn one_task_does_all_of_a_connection_and_ends_with_those_who_ask() {
        let (near, far) = tokio::io::duplex(10_000);
        let served = tokio::spawn(echoing(far));
        let (line, driven) = Line::driven(near).await.expect("HTTP/2");
        let driven = tokio::spawn(driven);
        let one = async |n: u8| {
            let (head, body) = ask(vec![n; 100_000]);
            let answered = Arc::default();
            let (_, body) = line.clone().call(head, body, &answered).await.expect("an answer");
            let body = body.expect("a body");
            assert!(answered.load(Ordering::Relaxed) && body.len() == 100_000 && body.iter().all(|byte| *byte == n));
        };
        join_all((0..50).map(one)).await;
        assert!(!driven.is_finished() && !line.is_closed());
        drop(line);
        driven.await.expect("no panic").expect("it ends well");
        served.await.expect("no panic, and a good end on the other side");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_wait_any_more_has_his_call_reset() {
        let (near, far) = tokio::io::duplex(10_000);
        let line = Line::open(near).await.expect("HTTP/2");
        let (told, reset) = oneshot::channel();
        tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.expect("HTTP/2");
            let (_request, mut respond) = server.accept().await.expect("a call").expect("a call");
            tokio::spawn(async move { while server.accept().await.is_some() {} });
            let _ = told.send(poll_fn(|cx| respond.poll_reset(cx)).await.expect("a reset"));
        });
        let (head, body) = ask(vec![1; 10]);
        let answered = Arc::default();
        let mut reset = reset;
        tokio::select! {
            biased;
            _ = tokio::time::timeout(std::time::Duration::from_millis(50), line.call(head, body, &answered)) => {}
            _ = &mut reset => panic!("it was not given up yet"),
        }
        assert_eq!(reset.await, Ok(Reason::CANCEL));
        assert!(!line.is_closed(), "the others go on");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_silent_for_too_long_is_given_up() {
        let (near, _far) = tokio::io::duplex(10_000);
        let line = Line::open(near).await.expect("HTTP/2");
        let (head, body) = ask(vec![1; 10]);
        let (began, answered) = (Instant::now(), Arc::default());
        match line.call(head, body, &answered).await {
            Err(Unanswered::Failed(why)) => assert_eq!(why, words::LOST),
            other => panic!("{other:?}"),
        }
        let took = began.elapsed();
        assert!((PING_AFTER + PING_MAX..PING_AFTER + PING_MAX * 2).contains(&took), "{took:?}");
        let (head, body) = ask(Vec::new());
        assert!(line.is_closed() && matches!(line.call(head, body, &answered).await, Err(Unanswered::Unsent(_))));
    }

    /// Each call ends before a sign of life is asked for: all of them together wait long enough.
    #[tokio::test(start_paused = true)]
    async fn who_is_silent_to_call_after_call_is_given_up() {
        let (near, _far) = tokio::io::duplex(10_000);
        let line = Line::open(near).await.expect("HTTP/2");
        let (began, answered) = (Instant::now(), Arc::default());
        while !line.is_closed() && began.elapsed() < PING_AFTER * 4 {
            let (head, body) = ask(vec![1; 10]);
            let _ = tokio::time::timeout(PING_AFTER / 3, line.call(head, body, &answered)).await;
        }
        assert!(line.is_closed() && began.elapsed() < PING_AFTER + PING_MAX * 2, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_slow_and_gives_signs_of_life_is_waited_for() {
        let (near, far) = tokio::io::duplex(10_000);
        let line = Line::open(near).await.expect("HTTP/2");
        tokio::spawn(async move {
            let mut server = h2::server::handshake(far).await.expect("HTTP/2");
            let (_request, mut respond) = server.accept().await.expect("a call").expect("a call");
            tokio::spawn(async move { while server.accept().await.is_some() {} });
            tokio::time::sleep(PING_AFTER * 4).await;
            respond.send_response(Response::new(()), true).expect("an answer");
        });
        let ((head, body), began) = (ask(vec![1; 10]), Instant::now());
        let (answer, body) = line.call(head, body, &Arc::default()).await.expect("an answer");
        assert!(answer.status.is_success() && body == Ok(Bytes::new()) && began.elapsed() >= PING_AFTER * 4);
    }

    #[test]
    fn bodies_are_put_together_within_their_bound() {
        let whole = |pieces: &[&'static [u8]]| {
            let mut all = Pieces::default();
            pieces.iter().try_for_each(|piece| all.add(Bytes::from_static(piece))).map(|()| all.whole())
        };
        assert_eq!(whole(&[]), Ok(Bytes::new()));
        assert_eq!(whole(&[b"ab"]), Ok("ab".into()));
        assert_eq!(whole(&[b"", b"ab", b"", b"c", b"d"]), Ok("abcd".into()));
        let large = vec![b' '; ANSWER_BYTES_MAX].leak();
        assert!(whole(&[large]).is_ok());
        assert_eq!(whole(&[large, b" "]), Err(TOO_LARGE.into()));
    }
}
