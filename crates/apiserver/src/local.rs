//! An executor whose tasks belong to one connection of HTTP/2 and are polled by that connection's own task.
//!
//! What a stream needs is some tens of microseconds of work, less than it costs to wake another thread for it. And what one task is
//! woken for several times before its turn is done in that turn: requests that came together are read, and answers that are there
//! together are written, at once.

use futures_util::stream::{FuturesUnordered, StreamExt};
use hyper::rt::Executor;
use parking_lot::Mutex;
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The executor, for the library that has something executed.
#[derive(Clone, Default)]
pub(crate) struct Local(Arc<Mutex<Queue>>);

#[derive(Default)]
struct Queue {
    tasks: Vec<Task>,
    waker: Option<Waker>,
}

/// The tasks that are under way.
#[derive(Default)]
pub(crate) struct Tasks(FuturesUnordered<Task>);

impl<F> Executor<F> for Local
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        let mut queue = self.0.lock();
        queue.tasks.push(Box::pin(async move {
            task.await;
        }));
        if let Some(waker) = queue.waker.take() {
            waker.wake();
        }
    }
}

impl Local {
    /// Polls those of the tasks that can go on, with those that have come since.
    pub(crate) fn poll(&self, tasks: &mut Tasks, cx: &mut Context<'_>) {
        {
            let mut queue = self.0.lock();
            tasks.0.extend(queue.tasks.drain(..));
            match &queue.waker {
                Some(waker) if waker.will_wake(cx.waker()) => {}
                _ => queue.waker = Some(cx.waker().clone()),
            }
        }
        while let Poll::Ready(Some(())) = tasks.0.poll_next_unpin(cx) {}
    }
}
