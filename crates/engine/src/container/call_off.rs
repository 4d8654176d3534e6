//! Calling off what waits for a volume: a server that says nothing, or a plugin
//! that hangs, can keep a start waiting for minutes.
//!
//! Be aware:
//! - Only the wait for a volume is called off; every other step ends by itself.
//!   Who waited undoes what it did, and gives its `ops` lock back.
//! - It lasts for as long as somebody holds a [`CallingOff`]: what begins to
//!   wait in between is called off too.
//! - What the kernel or the plugin was asked for goes on, and is undone by the
//!   volume's driver when it has come about.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sampan_volume::VolumeError;

use super::Container;
use crate::Engine;
use crate::error::{EngineError, Result};

/// Why something was called off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallOff {
    /// Somebody removes the container.
    #[error("it is being removed")]
    Removed,
    /// Somebody stops it.
    #[error("it was stopped")]
    Stopped,
    /// Somebody kills it.
    #[error("it was killed")]
    Killed,
    /// Nobody waits for it any more.
    #[error("the client went away")]
    Abandoned,
}

/// What waits for a volume of the container is called off until this is dropped.
#[derive(Debug)]
pub(crate) struct CallingOff {
    container: Arc<Container>,
    why: CallOff,
}

impl Drop for CallingOff {
    fn drop(&mut self) {
        self.container.off.send_modify(|all| {
            if let Some(own) = all.iter().position(|why| *why == self.why) {
                all.remove(own);
            }
        });
    }
}

/// A start is under way until this is dropped.
#[derive(Debug)]
pub(super) struct Starting<'a> {
    container: &'a Container,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.container.starting.store(false, Ordering::Release);
    }
}

impl Container {
    /// Calls off what waits for a volume of this container.
    pub(crate) fn call_off(self: &Arc<Self>, why: CallOff) -> CallingOff {
        self.off.send_modify(|all| all.push(why));
        CallingOff { container: Arc::clone(self), why }
    }

    /// Returns when somebody calls it off, with the reason of the first one.
    async fn called_off(&self) -> CallOff {
        let mut off = self.off.subscribe();
        // The sender lives as long as the container, which the caller has.
        let first = off.wait_for(|all| !all.is_empty()).await;
        first.ok().and_then(|all| all.first().copied()).unwrap_or(CallOff::Abandoned)
    }

    /// Notes that a start is under way. The caller holds `ops`.
    pub(super) fn starts(&self) -> Starting<'_> {
        self.starting.store(true, Ordering::Release);
        Starting { container: self }
    }

    /// Whether a start is under way.
    pub(crate) fn is_starting(&self) -> bool {
        self.starting.load(Ordering::Acquire)
    }
}

impl Engine {
    /// Waits for a volume of a container, as a part of `operation` (`start`,
    /// `creation`, `copy`), until that is called off or the daemon ends.
    pub(crate) async fn unless_called_off<T>(
        &self,
        c: &Container,
        operation: &'static str,
        work: impl Future<Output = Result<T, VolumeError>>,
    ) -> Result<T> {
        tokio::select! {
            done = work => Ok(done?),
            why = c.called_off() => {
                let container = c.record().name.to_string();
                Err(EngineError::CalledOff { operation, container, why })
            }
            () = self.inner.stop.cancelled() => Err(EngineError::ShuttingDown),
        }
    }

    /// Calls off a start that is under way. Says whether the container runs
    /// all the same; when not, it is to stay down.
    pub(super) async fn call_off_start(&self, c: &Arc<Container>, why: CallOff) -> bool {
        let off = c.call_off(why);
        let _ops = c.ops.lock().await;
        drop(off);
        let runs = c.record().state.is_running();
        if !runs && !c.is_removed() {
            self.wish_stopped(c, crate::record::Desired::Stopped, false).await;
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::tests::container;

    #[tokio::test]
    async fn the_first_reason_counts_until_all_are_gone() {
        let c = container(&"ab".repeat(32), "web");
        let first = c.call_off(CallOff::Removed);
        let second = c.call_off(CallOff::Stopped);
        assert_eq!(c.called_off().await, CallOff::Removed);
        drop(first);
        assert_eq!(c.called_off().await, CallOff::Stopped);
        drop(second);
        let wait = c.called_off();
        tokio::pin!(wait);
        assert!(futures_util::poll!(&mut wait).is_pending());
        let _again = c.call_off(CallOff::Killed);
        assert_eq!(wait.await, CallOff::Killed);
    }

    #[test]
    fn a_start_is_under_way_until_it_ended() {
        let c = container(&"ab".repeat(32), "web");
        let starting = c.starts();
        assert!(c.is_starting());
        drop(starting);
        assert!(!c.is_starting());
    }
}
