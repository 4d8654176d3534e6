//! The daemon's side: it keeps the process running and tells it of the
//! sandboxes.
//!
//! ```text
//! set, remove … ──> the keeper's queue ──> desired state ──> the process
//!                                             └── all of it, when the process is another one
//! ```
//!
//! Be aware:
//! - The process is started when there is something to answer for, and found
//!   again by its socket when the daemon was restarted.
//! - Its death is noticed by the end of the connection; a new one is started
//!   and told everything at once.

mod keeper;
mod launch;

use std::path::PathBuf;

use sampan_net::NetError;
use sampan_net::names::{BoxFuture, NameService, NameSet, SandboxNames};
use sampan_types::SandboxId;
use tokio::sync::{mpsc, oneshot};

use keeper::{Keeper, Order, Outcome, What};

/// How the process is started.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// The sampan binary, started as `PROGRAM proxy …`.
    pub program: PathBuf,
    /// Where its socket and its log are.
    pub exec_root: PathBuf,
    /// The host's resolver configuration; `/etc/resolv.conf` when absent.
    pub resolv_conf: Option<PathBuf>,
}

/// The name service, as the networks' manager knows it.
#[derive(Debug, Clone)]
pub struct Client {
    orders: mpsc::UnboundedSender<Order>,
}

impl Client {
    /// A client. Nothing is started before it is needed. Needs a tokio
    /// runtime.
    #[must_use]
    pub fn new(config: ClientConfig) -> Self {
        let (orders, queue) = mpsc::unbounded_channel();
        tokio::spawn(Keeper::new(config).run(queue));
        Self { orders }
    }

    fn order(&self, what: What, operation: String) -> BoxFuture<'_, Result<Outcome, NetError>> {
        let (done, result) = oneshot::channel();
        let sent = self.orders.send(Order { what, done });
        Box::pin(async move {
            let stopped = || NetError::Stopped;
            sent.map_err(|_| stopped())?;
            let result = result.await.map_err(|_| stopped())?;
            result.map_err(|e| NetError::Names { operation, reason: e.to_string() })
        })
    }
}

impl NameService for Client {
    fn set(&self, sandbox: SandboxNames) -> BoxFuture<'_, Result<(), NetError>> {
        let operation = format!("answer for names in sandbox {}", sandbox.sandbox.short());
        let done = self.order(What::Set(Box::new(sandbox)), operation);
        Box::pin(async move { done.await.map(drop) })
    }

    fn remove<'a>(&'a self, sandbox: &'a SandboxId) -> BoxFuture<'a, Result<(), NetError>> {
        let operation = format!("forget the names of sandbox {}", sandbox.short());
        let done = self.order(What::Remove(sandbox.clone()), operation);
        Box::pin(async move { done.await.map(drop) })
    }

    fn verify(&self, sandboxes: Vec<SandboxId>) -> BoxFuture<'_, Result<Vec<SandboxId>, NetError>> {
        let operation = "compare the ways to the name service".to_owned();
        let done = self.order(What::Verify(sandboxes), operation);
        Box::pin(async move { done.await.map(|outcome| outcome.restored) })
    }

    fn restore(&self, sandboxes: Vec<SandboxNames>) -> BoxFuture<'_, Result<bool, NetError>> {
        let operation = "restore the names of containers".to_owned();
        let done = self.order(What::Restore(sandboxes), operation);
        Box::pin(async move { done.await.map(|outcome| outcome.changed) })
    }

    fn fill(&self, sets: Vec<NameSet>) -> BoxFuture<'_, Result<(), NetError>> {
        let done = self.order(What::Fill(sets), "fill sets with addresses of names".to_owned());
        Box::pin(async move { done.await.map(drop) })
    }
}
