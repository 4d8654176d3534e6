//! Keeps the process running, and what it knows equal to what it shall know.
//!
//! Be aware: what is asked for is written down before the process is told, so
//! that a process that died meanwhile is told all of it when it is back.

use std::collections::BTreeMap;
use std::time::Duration;

use sampan_net::names::{NameSet, SandboxNames};
use sampan_types::SandboxId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::ClientConfig;
use super::launch::{ClientError, Link};
use crate::protocol::{self, Request, Response};

/// How long after a failed start the next one is tried: at first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// What is asked of the keeper.
#[derive(Debug)]
pub(super) enum What {
    Set(Box<SandboxNames>),
    Remove(SandboxId),
    Verify(Vec<SandboxId>),
    Restore(Vec<SandboxNames>),
    Fill(Vec<NameSet>),
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Whether anything was different.
    pub(super) changed: bool,
    /// Where, as far as that was asked.
    pub(super) restored: Vec<SandboxId>,
}

impl Outcome {
    fn changed(changed: bool) -> Self {
        Self { changed, restored: Vec::new() }
    }
}

/// What is asked, and whom to tell what came of it.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) what: What,
    pub(super) done: oneshot::Sender<Result<Outcome, ClientError>>,
}

/// See the module.
pub(super) struct Keeper {
    config: ClientConfig,
    sandboxes: BTreeMap<SandboxId, SandboxNames>,
    sets: Vec<NameSet>,
    link: Option<Link>,
    /// How long to wait after the next failure, and when to try again.
    backoff: Duration,
    retry: Option<Instant>,
}

impl Keeper {
    pub(super) fn new(config: ClientConfig) -> Self {
        let (sandboxes, sets) = (BTreeMap::new(), Vec::new());
        Self { config, sandboxes, sets, link: None, backoff: RETRY.0, retry: None }
    }

    /// Carries orders out until there is nobody to give any. The process goes
    /// on then.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let gone = async {
                match (&self.link, self.retry) {
                    (Some(link), _) => link.closed().await,
                    (None, Some(at)) => sleep_until(at).await,
                    (None, None) => std::future::pending().await,
                }
            };
            tokio::select! {
                order = orders.recv() => {
                    let Some(Order { what, done }) = order else { return };
                    let result = self.carry_out(what).await;
                    // Who asked may be gone.
                    let _ = done.send(result);
                }
                () = gone => self.come_back().await,
            }
        }
    }

    /// Whether the process is needed.
    fn is_needed(&self) -> bool {
        !self.sets.is_empty() || self.sandboxes.values().any(|s| s.dns.serves)
    }

    async fn carry_out(&mut self, what: What) -> Result<Outcome, ClientError> {
        let request = match what {
            What::Set(names) => {
                if self.sandboxes.get(&names.sandbox) == Some(&*names) && self.link.is_some() {
                    return Ok(Outcome::default());
                }
                self.sandboxes.insert(names.sandbox.clone(), (*names).clone());
                Request::Set(names)
            }
            What::Remove(sandbox) => {
                if self.sandboxes.remove(&sandbox).is_none() && self.link.is_none() {
                    return Ok(Outcome::default());
                }
                Request::Remove(sandbox)
            }
            What::Verify(sandboxes) => Request::Verify(sandboxes),
            What::Restore(all) => {
                self.sandboxes = all.iter().map(|n| (n.sandbox.clone(), n.clone())).collect();
                Request::Restore(all)
            }
            What::Fill(sets) => {
                self.sets.clone_from(&sets);
                Request::Fill(sets)
            }
        };
        if self.link.is_none() {
            // A process that an earlier daemon left is told that nothing is
            // left; none is started for that.
            return if self.is_needed() || matches!(request, Request::Restore(_)) {
                self.connect().await
            } else {
                Ok(Outcome::default())
            };
        }
        match self.call(&request).await {
            Err(ClientError::Link(error)) => {
                tracing::warn!(%error, "the name service is gone");
                self.connect().await
            }
            result => result,
        }
    }

    /// The connection ended, or it is time to try again.
    async fn come_back(&mut self) {
        if let Some(link) = self.link.take() {
            tracing::warn!(pid = link.pid, "the name service is gone");
        }
        self.retry = None;
        if self.is_needed()
            && let Err(error) = self.connect().await
        {
            tracing::error!(%error, "names of containers are not answered");
        }
    }

    /// Finds the process or starts one, and tells it everything. Says whether
    /// anything was different there.
    async fn connect(&mut self) -> Result<Outcome, ClientError> {
        let result = self.try_connect().await;
        match &result {
            Ok(_) => (self.backoff, self.retry) = (RETRY.0, None),
            Err(ClientError::Refused(_)) if self.link.is_some() => {}
            Err(_) => {
                self.link = None;
                self.retry = Some(Instant::now() + self.backoff);
                self.backoff = (self.backoff * 2).min(RETRY.1);
            }
        }
        result
    }

    async fn try_connect(&mut self) -> Result<Outcome, ClientError> {
        self.link = None;
        let build = protocol::build(&self.config.program)?;
        let found = Link::find(&self.config, &build).await;
        self.link = match found {
            None if !self.is_needed() => return Ok(Outcome::default()),
            None => Some(Link::start(&self.config, &build).await?),
            found => found,
        };
        self.call(&Request::Fill(self.sets.clone())).await?;
        let all = self.sandboxes.values().cloned().collect();
        self.call(&Request::Restore(all)).await
    }

    /// Sends a request. A connection that fails is given up.
    async fn call(&mut self, request: &Request) -> Result<Outcome, ClientError> {
        let Some(link) = &mut self.link else {
            return Err(std::io::Error::from(std::io::ErrorKind::NotConnected).into());
        };
        match link.call(request).await {
            Ok(Response::Done { changed }) => Ok(Outcome::changed(changed)),
            Ok(Response::Verified { restored }) => {
                Ok(Outcome { changed: !restored.is_empty(), restored })
            }
            Ok(Response::Failed { reason }) => Err(ClientError::Refused(reason)),
            Ok(other) => Err(ClientError::Refused(format!("unexpected answer {other:?}"))),
            Err(error) => {
                self.link = None;
                Err(error.into())
            }
        }
    }
}
