//! Following the host's firewall: a task that renews the copies when somebody
//! changed a ruleset.

use std::io;
use std::time::Duration;

use sampan_sys::netlink::Heard;
use sampan_sys::nft::NftEvents;
use tokio::task::JoinHandle;

/// How long changes are gathered: `nft -f` and `iptables-restore` are one
/// batch each, scripts many.
const GATHER: Duration = Duration::from_millis(20);

/// The task, which ends with this.
#[derive(Debug)]
pub(in crate::firewall::nft) struct Watch {
    task: JoinHandle<()>,
}

impl Watch {
    /// Listens in the caller's network namespace to everybody but the sockets
    /// with the ports `own`, and calls `renew` after changes of tables that
    /// are `relevant`.
    pub fn start<F: Future<Output = ()> + Send>(
        own: &[u32],
        relevant: impl Fn(&str) -> bool + Send + 'static,
        renew: impl Fn() -> F + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let mut events = NftEvents::open(own)?;
        let task = tokio::spawn(async move {
            loop {
                if let Err(error) = events.ready().await {
                    tracing::warn!(%error, "changes of the host's firewall are not followed any more; they are looked for from time to time");
                    return;
                }
                tokio::time::sleep(GATHER).await;
                let mut changed = false;
                let heard = events.drain(|event| changed |= relevant(&event.table));
                if changed || !matches!(heard, Ok(Heard::All)) {
                    renew().await;
                }
            }
        });
        Ok(Self { task })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
