//! Changing a container: its name, its limits, its restart policy.

use std::sync::Arc;

use oci_spec::runtime::LinuxResources;
use sampan_runtime::spec::{self, Devices};
use sampan_types::ContainerName;
use sampan_types::docker::{ContainerUpdateBody, HostConfig, RestartPolicyNameEnum};

use super::Container;
use super::state::Status;
use crate::Engine;
use crate::error::{EngineError, Result};
use crate::record::ContainerRecord;
use crate::restart::Policy;

impl Engine {
    /// Gives a container another name.
    ///
    /// # Errors
    /// The name is in use or no name.
    pub async fn container_rename(&self, id: &str, name: &str) -> Result<()> {
        let (engine, c) = (self.clone(), self.container(id)?);
        let name = name.strip_prefix('/').unwrap_or(name);
        if name.is_empty() {
            return Err(EngineError::Invalid("Neither old nor new names may be empty".to_owned()));
        }
        let name: ContainerName = name
            .parse()
            .map_err(|e: sampan_types::NameError| EngineError::Invalid(e.to_string()))?;
        self.detached(async move {
            let _ops = c.ops.lock().await;
            let old = c.record().name.clone();
            if old == name {
                return Err(EngineError::Invalid(
                    "Renaming a container with the same name as its current name".to_owned(),
                ));
            }
            engine.inner.containers.reserve(&name, c.id())?;
            if let Err(e) = engine.commit_change(&c, |r| r.name = name.clone()).await {
                engine.inner.containers.release(&name, c.id());
                return Err(e);
            }
            engine.inner.containers.release(&old, c.id());
            engine.rename_ports(&c.record());
            engine.refresh_names(&c.record()).await;
            let old = format!("/{old}");
            engine.container_event(&c, "rename", &[("oldName", &old)]);
            crate::fault!("rename:after-record");
            engine.refresh_policies().await
        })
        .await
    }

    /// Changes limits and restart policy, also of a running container;
    /// returns warnings.
    ///
    /// # Errors
    /// Limits that are out of range or that the kernel refuses.
    pub async fn container_update(
        &self,
        id: &str,
        body: ContainerUpdateBody,
    ) -> Result<Vec<String>> {
        let (engine, c) = (self.clone(), self.container(id)?);
        self.detached(async move {
            let _ops = c.ops.lock().await;
            engine.update_locked(&c, &body).await
        })
        .await
    }

    async fn update_locked(
        &self,
        c: &Arc<Container>,
        body: &ContainerUpdateBody,
    ) -> Result<Vec<String>> {
        let record = c.record();
        let cannot = |e: EngineError| e.context(format!("Cannot update container {}", c.id()));
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(cannot(EngineError::Conflict(
                "container is marked for removal and cannot be \"update\"".to_owned(),
            )));
        }
        let host = updated(&record.host_config, body).map_err(cannot)?;
        let warnings =
            spec::validate_resources(&host, &self.inner.facts).map_err(|e| cannot(e.into()))?;
        let devices = Devices::collect(&host).map_err(|e| cannot(e.into()))?;
        let limits =
            spec::resources(&host, &devices, &self.inner.facts).map_err(|e| cannot(e.into()))?;
        self.commit_change(c, |r| r.host_config = host).await?;
        crate::fault!("update:after-record");
        if record.state.has_process() {
            if let Err(e) = self.limit(&record, limits).await {
                // The kernel refuses: the old limits hold, and are the record's.
                let old = record.host_config.clone();
                self.commit_change(c, |r| r.host_config = old).await?;
                return Err(cannot(e));
            }
            crate::fault!("update:after-cgroup");
        }
        self.container_event(c, "update", &[]);
        Ok(warnings)
    }

    async fn limit(&self, record: &ContainerRecord, limits: LinuxResources) -> Result<()> {
        let cgroup = self.cgroup(record);
        self.blocking(move || Ok(cgroup.update(&limits)?)).await
    }

    /// Gives a running container the limits of its record once more: an
    /// earlier daemon may have died between the record and the kernel.
    pub(crate) async fn limit_again(&self, record: &ContainerRecord) -> Result<()> {
        let devices = Devices::collect(&record.host_config)?;
        let limits = spec::resources(&record.host_config, &devices, &self.inner.facts)?;
        self.limit(record, limits).await
    }
}

/// The host configuration with the given limits over it. What `update` can't
/// change is refused.
fn updated(old: &HostConfig, body: &ContainerUpdateBody) -> Result<HostConfig> {
    refuse_fixed(old, body)?;
    let mut host = old.clone();
    let conflict = |text: &str| Err(EngineError::Conflict(text.to_owned()));
    let set = |n: Option<i64>| n.filter(|n| *n != 0);
    if set(body.nano_cpus).is_some() {
        if set(host.cpu_period).is_some() || set(host.cpu_quota).is_some() {
            return conflict(
                "Conflicting options: Nano CPUs cannot be updated as CPU Period or CPU Quota has \
                 already been set",
            );
        }
    } else if set(host.nano_cpus).is_some()
        && (set(body.cpu_period).is_some() || set(body.cpu_quota).is_some())
    {
        return conflict(
            "Conflicting options: CPU Period or CPU Quota cannot be updated as NanoCPUs has \
             already been set",
        );
    }
    if let Some(memory) = set(body.memory)
        && set(body.memory_swap).is_none()
        && host.memory_swap.is_some_and(|swap| swap > 0 && memory > swap)
    {
        return conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the \
             memoryswap at the same time",
        );
    }
    let over = |to: &mut Option<i64>, from: Option<i64>| {
        if set(from).is_some() {
            *to = from;
        }
    };
    over(&mut host.cpu_shares, body.cpu_shares);
    over(&mut host.nano_cpus, body.nano_cpus);
    over(&mut host.cpu_period, body.cpu_period);
    over(&mut host.cpu_quota, body.cpu_quota);
    over(&mut host.memory, body.memory);
    over(&mut host.memory_swap, body.memory_swap);
    over(&mut host.memory_reservation, body.memory_reservation);
    over(&mut host.pids_limit, body.pids_limit);
    for (to, from) in
        [(&mut host.cpuset_cpus, &body.cpuset_cpus), (&mut host.cpuset_mems, &body.cpuset_mems)]
    {
        if from.as_deref().is_some_and(|f| !f.is_empty()) {
            to.clone_from(from);
        }
    }
    if body.blkio_weight.is_some_and(|w| w != 0) {
        host.blkio_weight = body.blkio_weight;
    }
    if let Some(policy) = &body.restart_policy
        && !matches!(policy.name, None | Some(RestartPolicyNameEnum::EMPTY))
    {
        let parsed = Policy::parse(policy).map_err(|e| EngineError::Invalid(e.to_string()))?;
        if host.auto_remove.unwrap_or(false) && parsed != Policy::No {
            return conflict(
                "Restart policy cannot be updated because AutoRemove is enabled for the container",
            );
        }
        host.restart_policy = Some(policy.clone());
    }
    Ok(host)
}

/// Refuses changes of what only `create` can set, unless it stays the same.
fn refuse_fixed(old: &HostConfig, body: &ContainerUpdateBody) -> Result<()> {
    fn changed<T: PartialEq>(old: Option<&Vec<T>>, new: Option<&Vec<T>>) -> bool {
        new.is_some_and(|n| !n.is_empty() && old != Some(n))
    }
    fn number(old: Option<i64>, new: Option<i64>) -> bool {
        new.is_some_and(|n| n != 0 && old != Some(n))
    }
    let parent = body.cgroup_parent.as_deref().filter(|p| !p.is_empty());
    let fixed = [
        ("CgroupParent", parent.is_some() && parent != old.cgroup_parent.as_deref()),
        ("BlkioWeightDevice", {
            changed(old.blkio_weight_device.as_ref(), body.blkio_weight_device.as_ref())
        }),
        ("BlkioDeviceReadBps", {
            changed(old.blkio_device_read_bps.as_ref(), body.blkio_device_read_bps.as_ref())
        }),
        ("BlkioDeviceWriteBps", {
            changed(old.blkio_device_write_bps.as_ref(), body.blkio_device_write_bps.as_ref())
        }),
        ("BlkioDeviceReadIOps", {
            changed(old.blkio_device_read_iops.as_ref(), body.blkio_device_read_iops.as_ref())
        }),
        ("BlkioDeviceWriteIOps", {
            changed(old.blkio_device_write_iops.as_ref(), body.blkio_device_write_iops.as_ref())
        }),
        ("Devices", changed(old.devices.as_ref(), body.devices.as_ref())),
        ("DeviceCgroupRules", {
            changed(old.device_cgroup_rules.as_ref(), body.device_cgroup_rules.as_ref())
        }),
        ("DeviceRequests", changed(old.device_requests.as_ref(), body.device_requests.as_ref())),
        ("Ulimits", changed(old.ulimits.as_ref(), body.ulimits.as_ref())),
        ("CpuRealtimePeriod", number(old.cpu_realtime_period, body.cpu_realtime_period)),
        ("CpuRealtimeRuntime", number(old.cpu_realtime_runtime, body.cpu_realtime_runtime)),
        (
            "MemorySwappiness",
            body.memory_swappiness.is_some_and(|n| n > 0 && old.memory_swappiness != Some(n)),
        ),
        (
            "OomKillDisable",
            body.oom_kill_disable == Some(true) && old.oom_kill_disable != Some(true),
        ),
        ("Init", body.init.is_some() && body.init != old.init),
    ];
    match fixed.iter().find(|(_, wrong)| *wrong) {
        Some((name, _)) => Err(EngineError::NotSupported(format!(
            "{name} cannot be updated: create the container anew"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sampan_types::docker::RestartPolicy;

    #[test]
    fn only_what_is_set_changes() {
        let old = HostConfig { memory: Some(1 << 20), cpu_shares: Some(5), ..Default::default() };
        let body = ContainerUpdateBody {
            memory: Some(2 << 20),
            cpu_shares: Some(0),
            pids_limit: Some(-1),
            ..Default::default()
        };
        let new = updated(&old, &body).unwrap();
        assert_eq!(
            (new.memory, new.cpu_shares, new.pids_limit),
            (Some(2 << 20), Some(5), Some(-1))
        );
    }

    #[test]
    fn what_conflicts_is_refused() {
        let old = HostConfig { memory_swap: Some(1 << 20), ..Default::default() };
        let body = ContainerUpdateBody { memory: Some(2 << 20), ..Default::default() };
        assert!(updated(&old, &body).unwrap_err().to_string().contains("memoryswap"));
        let old = HostConfig { auto_remove: Some(true), ..Default::default() };
        let body = ContainerUpdateBody {
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::ALWAYS),
                maximum_retry_count: None,
            }),
            ..Default::default()
        };
        assert!(updated(&old, &body).unwrap_err().to_string().contains("AutoRemove"));
        let body = ContainerUpdateBody { init: Some(true), ..Default::default() };
        assert!(updated(&HostConfig::default(), &body).is_err());
    }
}
