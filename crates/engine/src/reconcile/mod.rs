//! The daemon's start: comparing the records with the world, and making the
//! one follow from the other.
//!
//! In this order: read the records, look at every container's shim, adopt
//! what runs, give the network its due, sweep what belongs to nobody, then
//! finish what was begun (removals, ends, starts) and carry out restart
//! policies.
//!
//! Be aware:
//! - Every step can be repeated: a daemon that dies here begins again.
//! - What belongs to a record that can't be read is left alone.
//! - When the store was lost, nothing is swept that a record may have named.

mod decide;
mod finish;
mod sweep;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures_util::StreamExt;
use sampan_runtime::Shim;
use sampan_types::{ContainerId, VolumeName};

use crate::Engine;
use crate::container::Container;
use crate::container::state::Status;
use crate::error::Result;
use crate::record::{self, ContainerRecord};
use decide::{Found, Verdict, decide};

/// How many containers are looked at or finished at once.
const AT_ONCE: usize = 16;

impl Engine {
    /// See the module's documentation. `lost`: the store was set aside.
    pub(crate) async fn reconcile(&self, lost: bool) -> Result<()> {
        crate::fault!("reconcile:before");
        let mut known = self.load_records().await?;
        if lost {
            self.salvage(&mut known).await;
        }
        self.finish_renames().await?;
        let containers = self.containers();
        let verdicts: Vec<(Arc<Container>, Verdict)> = futures_util::stream::iter(containers)
            .map(|c| async move {
                let verdict = self.look(&c).await;
                (c, verdict)
            })
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        crate::fault!("reconcile:after-adopt");
        let running: BTreeSet<&ContainerId> = verdicts
            .iter()
            .filter(|(_, v)| matches!(v, Verdict::Adopted))
            .map(|(c, _)| c.id())
            .collect();
        self.reconcile_networks(&running).await;
        crate::fault!("reconcile:after-network");
        self.restore_volumes(&running).await;
        self.end_restorings().await?;
        if lost {
            tracing::warn!("snapshots and directories without a record are left");
        } else {
            self.sweep(&known).await;
        }
        crate::fault!("reconcile:after-sweep");
        self.finish_all(verdicts).await;
        self.switch_all_on().await;
        self.end_stale_leases().await?;
        self.let_go_of_all().await?;
        self.trim_after(self.containers().iter().map(|c| c.record().wished_ports.size()).sum());
        Ok(())
    }

    /// Reads all records into the index. Returns the ids of all, also of
    /// those that can't be read.
    async fn load_records(&self) -> Result<HashSet<ContainerId>> {
        let mut known = HashSet::new();
        for (key, value) in self.store().list(record::PREFIX).await?.entries {
            if let Ok(id) = key[record::PREFIX.len()..].parse() {
                known.insert(id);
            }
            self.trim_after(value.value.len());
            match record::decode(&key, &value.value) {
                Ok(record) => self.index(record),
                Err(error) => tracing::error!(%error, "a container is left out"),
            }
        }
        Ok(known)
    }

    fn index(&self, record: ContainerRecord) {
        let c = Container::new(record);
        let name = c.record().name.clone();
        if let Err(error) = self.inner.containers.reserve(&name, c.id()) {
            tracing::error!(container = c.id().short(), %error, "the container has no name");
        }
        self.inner.containers.insert(c);
    }

    /// Looks at one container's shim and adopts it when it runs.
    async fn look(&self, c: &Arc<Container>) -> Verdict {
        let record = c.record();
        let found = match self.inner.runtime.connect(c.id()).await {
            Ok(Some(shim)) => Found::Shim {
                generation: shim.generation(),
                started: shim.started().is_some(),
                shim: Some(shim),
            },
            Ok(None) => match self.inner.runtime.recorded_exit(c.id()) {
                Ok(exit) => Found::Gone(exit),
                Err(error) => {
                    tracing::warn!(container = c.id().short(), %error, "exit is not readable");
                    Found::Gone(None)
                }
            },
            Err(error) => {
                tracing::warn!(container = c.id().short(), %error, "shim does not answer");
                Found::Gone(None)
            }
        };
        let (verdict, shim) = decide(&record, found, &self.inner.boot_id);
        if let (Verdict::Adopted, Some(shim)) = (&verdict, shim) {
            self.adopt(c, shim).await;
        }
        verdict
    }

    /// Takes a running container over.
    async fn adopt(&self, c: &Arc<Container>, shim: Shim) {
        let frozen = self.cgroup(&c.record()).is_frozen().unwrap_or(false);
        let started = shim.started();
        let before = c.record();
        c.change(|r| {
            let health = crate::health::is_checked(&r.config);
            if !r.state.has_process() {
                r.state = crate::record::State {
                    health: health.then(Default::default),
                    finished: r.state.finished,
                    ..Default::default()
                };
            }
            r.state.status = if frozen { Status::Paused } else { Status::Running };
            r.state.pid = shim.pid();
            if let Some(at) = started {
                r.state.started = at;
            }
        });
        if before.state != c.record().state {
            self.persist_later(c);
        }
        self.reserve_network(&c.record());
        if let Err(error) = self.limit_again(&c.record()).await {
            tracing::error!(container = c.id().short(), %error, "limits are not those recorded");
        }
        c.set_shim(Some(shim.clone()));
        self.adopt_execs(c).await;
        self.supervise(c, shim);
        tracing::info!(container = c.id().short(), pid = before.state.pid, "adopted");
    }

    /// Lets the networks' manager compare the kernel with what runs.
    async fn reconcile_networks(&self, running: &BTreeSet<&ContainerId>) {
        let kept = self.kept_sandboxes(running);
        for owner in &kept {
            self.reserve_network(&owner.record());
        }
        let running = self.containers().into_iter().filter(|c| running.contains(c.id()));
        let all: Vec<_> = running.chain(kept).collect();
        let switched_off = self.refit_endpoints(&all).await;
        let desired: Vec<_> = all.iter().filter_map(|c| self.sandbox_spec(&c.record())).collect();
        self.prepare_policies().await;
        match self.inner.networks.reconcile(&desired).await {
            Ok(repairs) => {
                for repair in &repairs.restored {
                    tracing::info!(what = %repair, "restored");
                    self.tell_repair(repair);
                }
                for line in &repairs.removed {
                    tracing::info!(what = %line, "removed a leftover");
                }
                for line in &repairs.failed {
                    tracing::error!(what = %line, "not restored");
                }
                for sandbox in &repairs.lost {
                    tracing::error!(
                        sandbox = sandbox.short(),
                        "a running container has lost its network: restart it"
                    );
                }
            }
            Err(error) => tracing::error!(%error, "networks are not compared"),
        }
        if switched_off {
            // Their links are gone before there are others of the same names.
            self.inner.networks.settle().await;
        }
        self.watch_networks().await;
    }

    /// Tells the volumes who uses them.
    async fn restore_volumes(&self, running: &BTreeSet<&ContainerId>) {
        let mut users: BTreeMap<VolumeName, BTreeSet<String>> = BTreeMap::new();
        for c in self.containers().iter().filter(|c| running.contains(c.id())) {
            for name in c.record().mounts.iter().filter_map(|m| m.volume.clone()) {
                users.entry(name).or_default().insert(c.id().to_string());
            }
        }
        for error in self.volume_store().restore(&users).await {
            tracing::error!(%error, "a volume is not restored");
        }
    }

    /// After the loss of the store: records of running containers from the
    /// copies beside their bundles.
    async fn salvage(&self, known: &mut HashSet<ContainerId>) {
        let dir = self.inner.config.exec_root.join("containers");
        let copies = self.blocking(move || Ok(sweep::copies(&dir))).await.unwrap_or_default();
        for (id, mut record) in copies {
            known.insert(id.clone());
            if !matches!(self.inner.runtime.connect(&id).await, Ok(Some(_))) {
                continue;
            }
            // The networks have new ids; their names are the same.
            for (name, endpoint) in &mut record.networking.endpoints {
                if let Ok(network) = self.network_table().resolve(name) {
                    endpoint.network = network.id.clone();
                }
            }
            self.index(record);
            let Some(c) = self.container_by_id(&id) else { continue };
            match self.persist(&c).await {
                Ok(()) => tracing::info!(container = id.short(), "record restored"),
                Err(error) => tracing::error!(container = id.short(), %error, "not restored"),
            }
        }
    }
}
