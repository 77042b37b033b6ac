//! Where work runs that may take more than a moment, and how work goes on that nobody waits for any more.
//!
//! The process has two workers for everything, and the requests of an HTTP/2 connection are polled by that connection's
//! task. What takes more than about a millisecond (a body or an object of [`INLINE_BYTES_MAX`] and more, a list of
//! [`INLINE_OBJECTS_MAX`] objects and more, documents that are made when asked for) therefore runs on threads of its own:
//! about as many as there are cores, behind the workers in the kernel's queue ([`NICE`]), [`RUNNING_MAX`] pieces of work
//! at a time. What waits for its turn waits in its own request, so the queue is as long as requests are let in.
//!
//! [`run`] takes whole futures (a request), [`call`] one piece of plain work (a stretch of a list). Work that is already
//! on such a thread stays where it is, so the two may be nested. Heavy threads have no network: what connects does so [`at_home`],
//! and what waits for others gives its place to whoever has work meanwhile ([`resting`]).
//!
//! A request's future can be dropped at every await: the client hangs up, or its time is over. What a write does must
//! not be cut there: its commit may be on its way already, and charges, addresses and answers belong to it. [`Finish`]
//! polls a write like any future, and if it is dropped half-way, its rest becomes a task. So nothing in the path of a
//! write needs to know of dropping.

use parking_lot::Mutex;
use std::{
    cell::Cell,
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll},
    thread,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    sync::{Semaphore, SemaphorePermit},
};
use tokio_util::task::AbortOnDropHandle;

/// Bytes of a body or an object up to which it is dealt with where its request is polled: decoding, validating and encoding
/// that much takes about a millisecond.
pub(crate) const INLINE_BYTES_MAX: usize = 32 * 1024;
/// Objects up to which a list is made where its request is polled.
pub(crate) const INLINE_OBJECTS_MAX: usize = 128;
/// Bytes of objects up to which a list is made where its request is polled: as it lies it is only copied.
pub(crate) const INLINE_LIST_BYTES_MAX: usize = 128 * 1024;
/// Heavy threads at most; more would only share the cores that the workers need.
const THREADS_MAX: usize = 4;
/// Pieces of heavy work under way at once, those that wait for the disk among them: each may hold some ten times its body.
const RUNNING_MAX: usize = 16;
/// How far behind the workers the heavy threads stand: about a third of a worker's share where both want a core.
const NICE: i32 = 5;
thread_local! {
    static HEAVY: Cell<bool> = const { Cell::new(false) };
}

tokio::task_local! {
    static AWAY: Away;
}

/// What a piece of heavy work has: the runtime that it came from, and its place.
struct Away {
    home: Handle,
    place: Mutex<Option<SemaphorePermit<'static>>>,
}

struct Heavy {
    runtime: Runtime,
    running: Semaphore,
}

/// The heavy threads of this process. They begin with the first heavy work and end with the process.
fn heavy() -> Option<&'static Heavy> {
    static HEAVY_THREADS: OnceLock<Option<Heavy>> = OnceLock::new();
    let made = HEAVY_THREADS.get_or_init(|| {
        let threads = thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
        let begin = || {
            HEAVY.set(true);
            // Of a thread's own niceness; that of the process stays. A kernel that refuses costs latency alone.
            if let Err(error) = rustix::process::setpriority_process(None, NICE) {
                tracing::debug!(%error, "heavy threads run as the others do");
            }
        };
        let builder = || {
            Builder::new_multi_thread()
                .worker_threads(threads)
                .thread_name("heavy")
                .thread_stack_size(machinery::json::STACK_BYTES)
                .on_thread_start(begin)
                .enable_time()
                .build()
        };
        match builder() {
            Ok(runtime) => Some(Heavy { runtime, running: Semaphore::new(RUNNING_MAX) }),
            Err(error) => {
                tracing::warn!(%error, "there are no threads for heavy work; it runs among the rest");
                None
            }
        }
    });
    made.as_ref()
}

/// Runs a future on the heavy threads. If the caller is dropped, the future is too, at its next await.
///
/// # Panics
/// As the future does.
pub(crate) async fn run<F>(future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    if HEAVY.get() {
        return future.await;
    }
    let Some(heavy) = heavy() else { return future.await };
    // The semaphore is never closed.
    let Ok(permit) = heavy.running.acquire().await else { return future.await };
    let away = Away { home: Handle::current(), place: Mutex::new(Some(permit)) };
    let task = heavy.runtime.spawn(AWAY.scope(away, future));
    match AbortOnDropHandle::new(task).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Nobody but the handle, which is here, aborts it, and its threads do not end.
            Err(error) => panic!("heavy work was given up: {error}"),
        },
    }
}

/// Runs a future where the network is: on the runtime that heavy work came from, or here.
///
/// # Panics
/// As the future does.
pub(crate) async fn at_home<F>(future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    if AWAY.try_with(|_| ()).is_err() {
        return future.await;
    }
    apart(future).await
}

/// Runs a future there as a task of its own: for several who wait for it, some of them maybe heavy, of whom each could be the one that polls
/// it. If the caller is dropped, the future is too.
///
/// # Panics
/// As the future does.
pub(crate) async fn apart<F>(future: F) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let home = AWAY.try_with(|away| away.home.clone()).unwrap_or_else(|_| Handle::current());
    match AbortOnDropHandle::new(home.spawn(future)).await {
        Ok(output) => output,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => panic!("work at home was given up: {error}"),
        },
    }
}

/// Waits for others without holding a place among the heavy work.
pub(crate) async fn resting<F: Future>(future: F) -> F::Output {
    let place = AWAY.try_with(|away| away.place.lock().take()).ok().flatten();
    let had = place.is_some();
    drop(place);
    let output = future.await;
    if let (true, Some(heavy)) = (had, heavy())
        && let Ok(place) = heavy.running.acquire().await
    {
        let _ = AWAY.try_with(|away| *away.place.lock() = Some(place));
    }
    output
}

/// Runs one piece of work on the heavy threads.
///
/// # Panics
/// As the work does.
pub(crate) async fn call<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    run(async move { work() }).await
}

/// How many tasks there are where this is asked, and where that came from.
pub(crate) fn tasks() -> usize {
    let home = AWAY.try_with(|away| away.home.clone()).ok();
    Handle::try_current().into_iter().chain(home).map(|runtime| runtime.metrics().num_alive_tasks()).sum()
}

/// Does work where it holds nobody up, by the bytes that it looks at.
///
/// # Panics
/// As the work does.
pub(crate) async fn at_length<T: Send + 'static>(bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> T {
    if bytes >= INLINE_BYTES_MAX { call(work).await } else { work() }
}

/// A piece of work in one place.
pub(crate) type Work<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Tells a piece of work that nobody waits for its end any more, and counts those that are under way like this.
#[derive(Debug, Default, Clone)]
pub(crate) struct GivenUp(Arc<AtomicI64>);

impl GivenUp {
    /// How many there are.
    pub(crate) fn count(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A future that comes to its end once it has begun, whoever waits for it.
pub(crate) struct Finish<T: Send + 'static> {
    work: Option<Work<T>>,
    begun: bool,
    given_up: GivenUp,
    /// Told before the rest goes on by itself.
    notice: Option<Box<dyn FnOnce() + Send>>,
}

impl<T: Send + 'static> Finish<T> {
    /// `notice` is called if the future is dropped half-way.
    pub(crate) fn new(work: Work<T>, given_up: GivenUp, notice: impl FnOnce() + Send + 'static) -> Self {
        Finish { work: Some(work), begun: false, given_up, notice: Some(Box::new(notice)) }
    }
}

impl<T: Send + 'static> Future for Finish<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        self.begun = true;
        // Taken out meanwhile: work that panics is over.
        let Some(mut work) = self.work.take() else { return Poll::Pending };
        let polled = work.as_mut().poll(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Finish<T> {
    fn drop(&mut self) {
        let Some(work) = self.work.take().filter(|_| self.begun) else { return };
        // Without a runtime the process is at its end.
        let Ok(runtime) = Handle::try_current() else { return };
        if let Some(notice) = self.notice.take() {
            notice();
        }
        let counted = Counted::new(self.given_up.clone());
        runtime.spawn(async move {
            work.await;
            drop(counted);
        });
    }
}

struct Counted(GivenUp);

impl Counted {
    fn new(given_up: GivenUp) -> Self {
        given_up.0.fetch_add(1, Ordering::Relaxed);
        Counted(given_up)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, poll};
    use parking_lot::Mutex;
    use std::time::Duration;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn heavy_work_runs_elsewhere_and_may_be_nested() {
        let here = thread::current().id();
        let before = rustix::process::getpriority_process(None);
        let (outer, inner) = run(async { (thread::current().id(), call(|| thread::current().id()).await) }).await;
        assert_ne!(outer, here);
        assert_eq!(outer, inner, "what is there already stays");
        assert_eq!(call(|| rustix::process::getpriority_process(None)).await, Ok(NICE));
        assert_eq!(rustix::process::getpriority_process(None), before, "the workers stay before them");
    }

    #[tokio::test]
    async fn a_panic_is_the_caller_s() {
        let caught = std::panic::AssertUnwindSafe(call(|| panic!("no"))).catch_unwind().await;
        assert_eq!(caught.unwrap_err().downcast_ref::<&str>(), Some(&"no"));
    }

    #[tokio::test]
    async fn more_than_may_run_at_once_comes_to_its_turn() {
        let all = (0..RUNNING_MAX * 4).map(|n| {
            run(async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                n
            })
        });
        assert_eq!(futures_util::future::join_all(all).await.len(), RUNNING_MAX * 4);
    }

    #[tokio::test]
    async fn what_has_begun_is_finished_and_what_has_not_is_not() {
        let given_up = GivenUp::default();
        let told = Arc::new(Mutex::new(Vec::new()));
        let begin = |name: &'static str| {
            let (go, gone) = oneshot::channel::<()>();
            let (done, over) = oneshot::channel::<&str>();
            let told = Arc::clone(&told);
            let work = async move {
                let _ = gone.await;
                let _ = done.send(name);
            };
            (go, over, Finish::new(Box::pin(work), given_up.clone(), move || told.lock().push(name)))
        };
        let (_go, over, never) = begin("not begun");
        drop(never);
        assert!(over.await.is_err());
        let (go, over, mut dropped) = begin("begun");
        assert!(poll!(&mut dropped).is_pending());
        drop(dropped);
        assert_eq!(given_up.count(), 1);
        go.send(()).expect("it goes on");
        assert_eq!(over.await, Ok("begun"));
        let (go, over, awaited) = begin("awaited");
        go.send(()).expect("it is there");
        awaited.await;
        assert_eq!(over.await, Ok("awaited"));
        assert_eq!(*told.lock(), ["begun"]);
        while given_up.count() > 0 {
            tokio::task::yield_now().await;
        }
    }
}
