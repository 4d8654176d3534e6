//! A queue with one reader, within a thread: small, since every question that
//! is asked elsewhere has one.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// See the module.
#[derive(Debug)]
pub(super) struct Mailbox<T> {
    queue: RefCell<Vec<T>>,
    reader: RefCell<Option<Waker>>,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self { queue: RefCell::default(), reader: RefCell::default() }
    }
}

impl<T> Mailbox<T> {
    /// Puts something in.
    pub(super) fn put(&self, value: T) {
        self.queue.borrow_mut().push(value);
        let reader = self.reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Waits for something and takes it, in the order in which it was put in.
    /// Cancel-safe.
    pub(super) async fn take(&self) -> T {
        poll_fn(|context| {
            let mut queue = self.queue.borrow_mut();
            if queue.is_empty() {
                self.reader.replace(Some(context.waker().clone()));
                return Poll::Pending;
            }
            Poll::Ready(queue.remove(0))
        })
        .await
    }
}
