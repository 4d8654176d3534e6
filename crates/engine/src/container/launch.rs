//! From a record to a created process: the specification and the runtime.

use std::path::PathBuf;
use std::sync::Arc;

use sampan_runtime::spec::{self, SpecInput};
use sampan_runtime::{CreateRequest, IoConfig, Shim};
use sampan_types::docker::ResourcesUlimits;

use super::Container;
use super::files::Prepared;
use super::network::NetPlan;
use super::start::start_failure;
use crate::Engine;
use crate::error::Result;
use crate::record::ContainerRecord;

impl Engine {
    /// Builds the specification and lets the runtime create the container;
    /// its init waits.
    pub(super) async fn create_process(
        &self,
        record: &ContainerRecord,
        plan: &NetPlan,
        prepared: Prepared,
        netns: Option<PathBuf>,
    ) -> Result<Shim> {
        let config = &self.inner.config;
        let cgroup = self.cgroup(record);
        let namespaces = self.namespaces(record, plan, netns)?;
        let ulimits = self.default_ulimits();
        let init = record.host_config.init.unwrap_or(config.init);
        let init = init.then(|| config.init_path.as_deref().unwrap_or(&config.program));
        let hostname = record.config.hostname.as_deref().unwrap_or_default();
        let container = self.linked_config(record);
        let spec = spec::build(&SpecInput {
            id: &record.id,
            config: &container,
            host: &record.host_config,
            rootfs: &prepared.rootfs,
            hostname,
            user: &prepared.user,
            mounts: &prepared.mounts,
            namespaces: &namespaces,
            cgroups_path: cgroup.path(),
            init,
            devices: &prepared.devices,
            default_ulimits: &ulimits,
            facts: &self.inner.facts,
        })?;
        let request = CreateRequest {
            id: record.id.clone(),
            generation: record.generation,
            spec,
            io: io_config(record),
            log: self.log_setup(record)?,
            runtime: self.oci_runtime(record.host_config.runtime.as_deref().unwrap_or_default())?,
        };
        self.inner.runtime.create(request).await.map_err(start_failure)
    }

    /// The daemon's `default-ulimits` in the API's form.
    pub(crate) fn default_ulimits(&self) -> Vec<ResourcesUlimits> {
        self.inner.config.default_ulimits()
    }

    /// Hands the streams over to the clients that attached before the start.
    pub(super) async fn attach_waiting(&self, c: &Arc<Container>, shim: &Shim) {
        for waiting in c.take_waiting() {
            match shim.attach(waiting.options).await {
                // A client that is gone already drops its streams.
                Ok(streams) => waiting.hand_over(streams),
                Err(error) => {
                    tracing::warn!(container = c.id().short(), %error, "a client is not attached");
                }
            }
        }
    }
}

fn io_config(record: &ContainerRecord) -> IoConfig {
    let size = record.host_config.console_size.as_deref().and_then(|size| match size {
        [rows, columns] => Some((u16::try_from(*rows).ok()?, u16::try_from(*columns).ok()?)),
        _ => None,
    });
    IoConfig {
        tty: record.tty(),
        open_stdin: record.open_stdin(),
        stdin_once: record.config.stdin_once.unwrap_or(false),
        console_size: size.filter(|(rows, columns)| *rows > 0 && *columns > 0),
    }
}
