//! Iterators whose work is done by other threads: the interface of the crate
//! `pariter` 0.6 as far as `rustic_core` uses it.
//!
//! It stands in that crate's place (`[patch]` in the workspace) because that
//! one hands over each item alone, through six threads for each file of a
//! backup: with small files most of the time goes into waking threads. Here
//! items that come quickly may queue up, so that one waking serves many.
//!
//! Be aware:
//! - Items may be whole packs of many MiB. What takes long to make is likely
//!   large, and is handed over alone, so that no more of them are in memory
//!   than there are stages.
//! - The order is kept. A panic of a thread goes on in whoever takes its item.
#![forbid(unsafe_code)]

mod parallel_map;
mod queue;
mod readahead;

use std::thread::Scope;

pub use parallel_map::ParallelMap;
pub use readahead::Readahead;

/// What every iterator gets.
pub trait IteratorExt: Iterator + Sized {
    /// Applies `f` on as many threads as there are processors.
    fn parallel_map_scoped<'env, 'scope, F, O>(
        self,
        scope: &'scope Scope<'scope, 'env>,
        f: F,
    ) -> ParallelMap<Self, O>
    where
        F: FnMut(Self::Item) -> O + Send + Clone + 'env,
        Self::Item: Send + 'env,
        O: Send + 'env,
    {
        ParallelMap::start(self, scope, &f)
    }

    /// Runs the iterator ahead, on a thread of its own.
    fn readahead_scoped<'env, 'scope>(
        self,
        scope: &'scope Scope<'scope, 'env>,
    ) -> Readahead<Self::Item>
    where
        Self: Send + 'scope + 'env,
        Self::Item: Send + 'scope + 'env,
    {
        Readahead::start(self, scope)
    }
}

impl<I: Iterator> IteratorExt for I {}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread;
    use std::time::Duration;

    use super::*;

    #[test]
    fn order_is_kept_over_all_stages() {
        let found: Vec<u64> = thread::scope(|s| {
            let stages = (0..20_000u64).readahead_scoped(s).filter(|n| n % 3 != 0);
            let stages = stages.parallel_map_scoped(s, |n| n * n).readahead_scoped(s);
            stages.collect()
        });
        assert_eq!(found, (0..20_000).filter(|n| n % 3 != 0).map(|n| n * n).collect::<Vec<_>>());
    }

    #[test]
    fn what_takes_long_to_make_is_not_piled_up() {
        let (made, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let slow = (0..20).map(|_| {
            thread::sleep(Duration::from_millis(1));
            made.fetch_add(1, Ordering::Relaxed)
        });
        thread::scope(|s| {
            for taken in slow.readahead_scoped(s) {
                thread::sleep(Duration::from_millis(3));
                most.fetch_max(made.load(Ordering::Relaxed) - taken, Ordering::Relaxed);
            }
        });
        // The one in hand, the one that waits.
        assert!(most.into_inner() <= 2);
    }

    #[test]
    fn an_iterator_that_nobody_reads_ends() {
        let made = AtomicUsize::new(0);
        let endless = std::iter::repeat_with(|| made.fetch_add(1, Ordering::Relaxed));
        thread::scope(|s| {
            let first = endless.readahead_scoped(s).parallel_map_scoped(s, |n| n).next();
            assert_eq!(first, Some(0));
        });
    }

    #[test]
    fn panics_arrive() {
        let count = |wrong: fn(u32) -> u32, ahead: bool| {
            catch_unwind(AssertUnwindSafe(|| {
                thread::scope(|s| {
                    if ahead {
                        (0..100).map(wrong).readahead_scoped(s).count()
                    } else {
                        (0..100).parallel_map_scoped(s, wrong).count()
                    }
                })
            }))
        };
        let wrong = |n| if n == 50 { panic!("wrong") } else { n };
        assert!(count(wrong, true).is_err() && count(wrong, false).is_err());
        assert_eq!(count(|n| n, true).ok(), Some(100));
    }
}
