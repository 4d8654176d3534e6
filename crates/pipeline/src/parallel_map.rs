//! A function that is applied to items by several threads.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::thread::{self, Scope, available_parallelism};

use crate::queue::{DEEP, Pace, Receiver, Sender, queue};

/// The results, in the order of the items.
pub struct ParallelMap<I: Iterator, O> {
    iter: I,
    /// Where items go to the threads, with their numbers; none when there are
    /// no more.
    items: Option<Sender<(usize, I::Item)>>,
    results: Receiver<(usize, thread::Result<O>)>,
    /// What is under way: the results that came before their turn, the next
    /// one first.
    window: VecDeque<Option<thread::Result<O>>>,
    /// The number of the first of them.
    first: usize,
    threads: usize,
    pace: Pace,
}

impl<I: Iterator, O> ParallelMap<I, O> {
    pub(crate) fn start<'env, 'scope, F>(iter: I, scope: &'scope Scope<'scope, 'env>, f: &F) -> Self
    where
        F: FnMut(I::Item) -> O + Send + Clone + 'env,
        I::Item: Send + 'env,
        O: Send + 'env,
    {
        let (items, work) = queue::<(usize, I::Item)>();
        let (done, results) = queue();
        let threads = available_parallelism().map_or(1, usize::from);
        for _ in 0..threads {
            let (work, done, mut f) = (work.clone(), done.clone(), f.clone());
            scope.spawn(move || {
                while let Some((number, item)) = work.receive() {
                    let result = catch_unwind(AssertUnwindSafe(|| f(item)));
                    let is_last = result.is_err();
                    if !done.send((number, result)) || is_last {
                        return;
                    }
                }
            });
        }
        let (window, pace) = (VecDeque::new(), Pace::new());
        Self { iter, items: Some(items), results, window, first: 0, threads, pace }
    }

    /// Gives the threads as much as they may have.
    fn feed(&mut self) {
        let few = 2 * self.threads;
        while let Some(items) = &self.items
            && (self.window.len() < few
                || (self.window.len() < few.max(DEEP) && self.pace.is_quick()))
        {
            self.pace.begin();
            let Some(item) = self.iter.next() else {
                self.items = None;
                return;
            };
            items.send((self.first + self.window.len(), item));
            self.window.push_back(None);
        }
    }
}

impl<I: Iterator, O> Iterator for ParallelMap<I, O> {
    type Item = O;

    fn next(&mut self) -> Option<O> {
        self.feed();
        while self.window.front()?.is_none() {
            let (number, result) = self.results.receive()?;
            if let Some(place) = self.window.get_mut(number - self.first) {
                *place = Some(result);
            }
        }
        self.first += 1;
        self.window.pop_front()??.map_or_else(|panic| resume_unwind(panic), Some)
    }
}
