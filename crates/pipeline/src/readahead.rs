//! An iterator that is run ahead by a thread of its own.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{self, Scope};

use crate::queue::{DEEP, Pace, Receiver, queue};

/// What came out of the thread.
pub struct Readahead<T>(Receiver<thread::Result<T>>);

impl<T> Readahead<T> {
    pub(crate) fn start<'env, 'scope, I>(mut iter: I, scope: &'scope Scope<'scope, 'env>) -> Self
    where
        I: Iterator<Item = T> + Send + 'scope,
        T: Send + 'scope,
    {
        let (sender, receiver) = queue();
        scope.spawn(move || {
            let mut pace = Pace::new();
            loop {
                let item = match catch_unwind(AssertUnwindSafe(|| iter.next())) {
                    Ok(Some(item)) => Ok(item),
                    Ok(None) => return,
                    Err(panic) => Err(panic),
                };
                let is_last = item.is_err();
                let depth = if pace.is_quick() { DEEP } else { 0 };
                if !sender.send(item) || is_last {
                    return;
                }
                sender.settle(depth);
                pace.begin();
            }
        });
        Self(receiver)
    }
}

impl<T> Iterator for Readahead<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.0.receive()?.map_or_else(|panic| resume_unwind(panic), Some)
    }
}
