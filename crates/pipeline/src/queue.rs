//! What lies between two threads: items in order, for as long as there is
//! somebody on both sides.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Items that come after one another within this time are taken for small:
/// what has the size of a chunk takes longer to read, to hash or to encrypt.
const QUICK: Duration = Duration::from_micros(500);
/// How often a receiver lets others run before it sleeps: who is woken by the
/// kernel costs more than who never slept.
const YIELDS: u32 = 16;
/// How many small items may wait.
pub const DEEP: usize = 16;

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    receivers: usize,
    /// How many receivers sleep that nobody woke: counted down by who wakes
    /// one, so that it is not woken again before it runs.
    hungry: usize,
    /// At which length senders want to be woken, if any sleeps.
    wake_at: Option<usize>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    drained: Condvar,
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of others runs while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where items go in.
pub struct Sender<T>(Arc<Shared<T>>);

/// Where they come out.
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue with its two ends.
pub fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let state =
        State { items: VecDeque::new(), senders: 1, receivers: 1, hungry: 0, wake_at: None };
    let (filled, drained) = (Condvar::new(), Condvar::new());
    let shared = Arc::new(Shared { state: Mutex::new(state), filled, drained });
    (Sender(Arc::clone(&shared)), Receiver(shared))
}

impl<T> Sender<T> {
    /// Appends an item. False when nobody takes items any more.
    pub fn send(&self, item: T) -> bool {
        let mut state = self.0.lock();
        if state.receivers == 0 {
            return false;
        }
        state.items.push_back(item);
        let wakes = state.hungry > 0;
        state.hungry -= usize::from(wakes);
        drop(state);
        if wakes {
            self.0.filled.notify_one();
        }
        true
    }

    /// Waits until no more than `depth` items wait. Who has to wait is woken
    /// when half of them are taken: not for each.
    pub fn settle(&self, depth: usize) {
        let mut state = self.0.lock();
        if state.items.len() <= depth {
            return;
        }
        while state.items.len() > depth / 2 && state.receivers > 0 {
            state.wake_at = state.wake_at.max(Some(depth / 2));
            state = self.0.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Receiver<T> {
    /// The next item; none when all senders are gone.
    pub fn receive(&self) -> Option<T> {
        let mut state = self.0.lock();
        let mut patience = YIELDS;
        loop {
            if let Some(item) = state.items.pop_front() {
                let left = state.items.len();
                let wakes = state.wake_at.take_if(|at| left <= *at).is_some();
                drop(state);
                if wakes {
                    self.0.drained.notify_all();
                }
                return Some(item);
            }
            if state.senders == 0 {
                return None;
            }
            if patience > 0 {
                patience -= 1;
                drop(state);
                thread::yield_now();
                state = self.0.lock();
                continue;
            }
            state.hungry += 1;
            state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.lock().receivers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.0.filled.notify_all();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receivers -= 1;
        if state.receivers == 0 {
            // Dropped when the lock is not held any more: items have ends of
            // their own.
            let items = std::mem::take(&mut state.items);
            self.0.drained.notify_all();
            drop(state);
            drop(items);
        }
    }
}

/// Tells items that come quickly from others.
pub struct Pace(Instant);

impl Pace {
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Begins to wait for the next item.
    pub fn begin(&mut self) {
        self.0 = Instant::now();
    }

    /// Whether it came quickly.
    pub fn is_quick(&self) -> bool {
        self.0.elapsed() < QUICK
    }
}
