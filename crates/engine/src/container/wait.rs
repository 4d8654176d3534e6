//! Waiting for containers.

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::{Container, Live};
use crate::Engine;
use crate::error::Result;

/// What to wait for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WaitCondition {
    /// It does not run: also when it never did.
    #[default]
    NotRunning,
    /// It ends the next time.
    NextExit,
    /// It is gone.
    Removed,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitResult {
    /// The exit code.
    pub status_code: i64,
    /// Why it could not be started or removed.
    pub error: Option<String>,
}

/// A wait that has begun: nothing that happens from now on is missed.
pub struct WaitHandle {
    future: BoxFuture<'static, WaitResult>,
}

impl std::fmt::Debug for WaitHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WaitHandle")
    }
}

impl WaitHandle {
    /// Waits. Can be dropped at any time.
    pub async fn result(self) -> WaitResult {
        self.future.await
    }
}

impl Engine {
    /// Begins to wait for a container.
    ///
    /// # Errors
    /// No such container.
    pub fn container_wait(&self, id: &str, condition: WaitCondition) -> Result<WaitHandle> {
        let c = self.container(id)?;
        let live = c.subscribe();
        let (_, seen) = c.snapshot();
        Ok(WaitHandle { future: Box::pin(wait(live, condition, seen)) })
    }
}

async fn wait(mut live: watch::Receiver<Live>, condition: WaitCondition, seen: u64) -> WaitResult {
    // The sender lives as long as the container's handle, and that is gone
    // only after `removed` was seen.
    let reached = live.wait_for(|l| is_met(l, condition, seen)).await;
    match reached {
        Ok(live) => result(&live, condition, seen),
        Err(_) => WaitResult { status_code: 0, error: None },
    }
}

fn is_met(live: &Live, condition: WaitCondition, seen: u64) -> bool {
    live.removed
        || match condition {
            WaitCondition::NotRunning => live.exits > seen || !live.record.state.is_running(),
            WaitCondition::NextExit => live.exits > seen,
            WaitCondition::Removed => false,
        }
}

fn result(live: &Live, condition: WaitCondition, seen: u64) -> WaitResult {
    // An end that was waited for is reported as such, even when the container
    // runs again already.
    let (code, error) = match &live.last_exit {
        Some(exit) if live.exits > seen => (exit.code, exit.error.clone()),
        // Whoever started it has been told why that failed; it was removed well.
        _ if condition == WaitCondition::Removed => (live.record.state.exit_code, String::new()),
        _ => (live.record.state.exit_code, live.record.state.error.clone()),
    };
    WaitResult { status_code: i64::from(code), error: Some(error).filter(|e| !e.is_empty()) }
}

impl Container {
    /// Returns when the process has ended more than `seen` times since the
    /// daemon's start, or the container is gone.
    pub(crate) async fn wait_exit(&self, seen: u64) {
        let mut live = self.subscribe();
        let _ = live.wait_for(|l| l.exits > seen || l.removed).await;
    }

    /// Whether the container is gone.
    #[must_use]
    pub fn is_removed(&self) -> bool {
        self.live.borrow().removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::state::{State, Status};
    use crate::container::{Exit, tests::container};

    fn running() -> std::sync::Arc<Container> {
        let c = container(&"ab".repeat(32), "web");
        c.change(|r| r.state = State { status: Status::Running, ..State::default() });
        c
    }

    async fn after(condition: WaitCondition, f: impl FnOnce(&Container)) -> WaitResult {
        let c = running();
        let live = c.subscribe();
        let seen = live.borrow().exits;
        f(&c);
        wait(live, condition, seen).await
    }

    #[tokio::test]
    async fn an_end_is_not_missed_when_it_runs_again() {
        let r = after(WaitCondition::NotRunning, |c| {
            c.change_at_exit(Exit { code: 3, error: String::new() }, |r| {
                r.state.status = Status::Restarting;
            });
            c.change(|r| r.state = State { status: Status::Running, ..State::default() });
        })
        .await;
        assert_eq!(r, WaitResult { status_code: 3, error: None });
    }

    #[tokio::test]
    async fn removal_ends_every_wait() {
        for condition in
            [WaitCondition::NotRunning, WaitCondition::NextExit, WaitCondition::Removed]
        {
            let r = after(condition, |c| {
                c.change_at_exit(Exit { code: 7, error: "x".into() }, |_| ());
                c.mark_removed();
            })
            .await;
            assert_eq!(r, WaitResult { status_code: 7, error: Some("x".into()) });
        }
    }

    #[test]
    fn what_does_not_run_need_not_be_waited_for() {
        let c = container(&"ab".repeat(32), "web");
        assert!(is_met(&c.subscribe().borrow(), WaitCondition::NotRunning, 0));
        assert!(!is_met(&c.subscribe().borrow(), WaitCondition::NextExit, 0));
        assert!(!is_met(&running().subscribe().borrow(), WaitCondition::NotRunning, 0));
    }
}
