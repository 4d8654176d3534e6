//! What a container uses, as `docker stats` shows it.
//!
//! Be aware:
//! - A stream has one sample a second by the clock: that is what it is for.
//!   Nothing runs while nobody listens.
//! - Percentages are the client's: each sample carries the processor figures
//!   of the one before it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::{self, BoxStream};
use sampan_runtime::cgroup::{BlkioEntry, Cgroup, CgroupStats, CgroupVersion};
use sampan_types::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior};

use crate::container::{Container, Live};
use crate::record::{ContainerRecord, NetworkMode};
use crate::{Engine, Result};

/// One sample per item.
pub type StatsStream = BoxStream<'static, Value>;

impl Engine {
    /// Samples of a container's use of resources: one a second until it is
    /// removed when `stream`, otherwise one. With `one_shot` the one comes at
    /// once, without a sample before it to compare with.
    ///
    /// # Errors
    /// No such container.
    pub async fn container_stats(
        &self,
        id: &str,
        stream: bool,
        one_shot: bool,
    ) -> Result<StatsStream> {
        let container = self.container(id)?;
        if !stream && (one_shot || !container.record().state.has_process()) {
            let (value, _) = self.sample(&container, &None).await;
            return Ok(stream::iter([value]).boxed());
        }
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let live = container.subscribe();
        let sampler = Sampler { engine: self.clone(), container, interval, live, before: None };
        if stream {
            return Ok(stream::unfold(sampler, |mut s| async move {
                s.next().await.map(|value| (value, s))
            })
            .boxed());
        }
        // The second one: only then is there one before it.
        Ok(stream::once(async move {
            let mut sampler = sampler;
            sampler.next().await;
            sampler.next().await
        })
        .filter_map(|value| async move { value })
        .boxed())
    }

    /// A sample now, and what the next one compares itself with.
    async fn sample(
        &self,
        container: &Container,
        before: &Option<Before>,
    ) -> (Value, Option<Before>) {
        let record = container.record();
        if !record.state.has_process() {
            return (empty(&record), None);
        }
        let cgroup = self.cgroup(&record);
        let for_read = Arc::clone(&record);
        let read = self.blocking(move || Ok(Reading::take(&cgroup, &for_read)?)).await;
        match read {
            Ok(reading) => {
                let cpu = cpu(&reading);
                let value = shown(&record, &reading, &cpu, before.as_ref());
                (value, Some(Before { cpu, read: reading.at }))
            }
            Err(error) => {
                // It ended a moment ago.
                tracing::debug!(container = record.id.short(), %error, "no statistics");
                (empty(&record), None)
            }
        }
    }
}

struct Sampler {
    engine: Engine,
    container: Arc<Container>,
    interval: Interval,
    live: watch::Receiver<Live>,
    before: Option<Before>,
}

impl Sampler {
    /// The next sample; none when the container is gone.
    async fn next(&mut self) -> Option<Value> {
        tokio::select! {
            biased;
            _ = self.live.wait_for(|l| l.removed) => return None,
            _ = self.interval.tick() => {}
        }
        let (value, before) = self.engine.sample(&self.container, &self.before).await;
        self.before = before;
        Some(value)
    }
}

/// What a sample keeps for the next one.
struct Before {
    cpu: Value,
    read: Timestamp,
}

/// All that is read from the kernel for one sample.
struct Reading {
    at: Timestamp,
    cgroup: CgroupStats,
    host: HostCpu,
    memory: u64,
    interfaces: BTreeMap<String, [u64; 8]>,
}

impl Reading {
    fn take(
        cgroup: &Cgroup,
        record: &ContainerRecord,
    ) -> Result<Self, sampan_runtime::cgroup::CgroupError> {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let own =
            matches!(record.networking.mode, NetworkMode::Private | NetworkMode::Container(_));
        let interfaces = if own {
            interfaces(&text(&format!("/proc/{}/net/dev", record.state.pid)))
        } else {
            BTreeMap::new()
        };
        let memory = text("/proc/meminfo");
        let memory = memory.lines().find_map(|l| {
            l.strip_prefix("MemTotal:")?.trim().trim_end_matches(" kB").parse::<u64>().ok()
        });
        Ok(Self {
            cgroup: cgroup.stats()?,
            host: HostCpu::parse(&text("/proc/stat")),
            memory: memory.unwrap_or(0).saturating_mul(1024),
            interfaces,
            at: Timestamp::now(),
        })
    }
}

/// The host's processors.
#[derive(Debug, Default, PartialEq, Eq)]
struct HostCpu {
    /// Nanoseconds that all processors have spent, idle ones included.
    total: u64,
    online: u32,
}

impl HostCpu {
    /// From `/proc/stat`, whose unit is 1/100 s on Linux.
    fn parse(text: &str) -> Self {
        let mut cpu = Self::default();
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("cpu") else { continue };
            if let Some(all) = rest.strip_prefix(' ') {
                let ticks = all.split_whitespace().take(7).filter_map(|f| f.parse::<u64>().ok());
                cpu.total = ticks.sum::<u64>().saturating_mul(10_000_000);
            } else {
                cpu.online += 1;
            }
        }
        cpu
    }
}

/// The counters of `/proc/<pid>/net/dev` by interface, loopback and limiters left out:
/// received bytes, packets, errors, dropped; the same for sent.
fn interfaces(table: &str) -> BTreeMap<String, [u64; 8]> {
    let mut out = BTreeMap::new();
    for line in table.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let fields: Vec<u64> = rest.split_whitespace().filter_map(|f| f.parse().ok()).collect();
        if let (true, [rb, rp, re, rd, _, _, _, _, tb, tp, te, td, ..]) =
            (!is_left_out(name.trim()), fields.as_slice())
        {
            out.insert(name.trim().to_owned(), [*rb, *rp, *re, *rd, *tb, *tp, *te, *td]);
        }
    }
    out
}

/// What passes a limiter passes the interface that it limits, too.
fn is_left_out(interface: &str) -> bool {
    interface == "lo" || sampan_net::is_limiter(interface)
}

/// `cpu_stats`.
fn cpu(reading: &Reading) -> Value {
    let cpu = &reading.cgroup.cpu;
    let mut out = no_cpu();
    out["cpu_usage"] = json!({
        "total_usage": cpu.total,
        "usage_in_kernelmode": cpu.kernel,
        "usage_in_usermode": cpu.user,
    });
    if !cpu.per_cpu.is_empty() {
        out["cpu_usage"]["percpu_usage"] = json!(cpu.per_cpu);
    }
    out["system_cpu_usage"] = json!(reading.host.total);
    out["online_cpus"] = json!(reading.host.online);
    out["throttling_data"] = json!({
        "periods": cpu.periods,
        "throttled_periods": cpu.throttled_periods,
        "throttled_time": cpu.throttled_time,
    });
    out
}

fn no_cpu() -> Value {
    json!({
        "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 },
        "throttling_data": { "periods": 0, "throttled_periods": 0, "throttled_time": 0 },
    })
}

/// The sample of a container that does not run.
fn empty(record: &ContainerRecord) -> Value {
    json!({
        "name": format!("/{}", record.name),
        "id": record.id,
        "read": Timestamp::NEVER.to_string(),
        "preread": Timestamp::NEVER.to_string(),
        "pids_stats": {},
        "blkio_stats": no_blkio(),
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": no_cpu(),
        "precpu_stats": no_cpu(),
        "memory_stats": {},
    })
}

fn shown(
    record: &ContainerRecord,
    reading: &Reading,
    cpu: &Value,
    before: Option<&Before>,
) -> Value {
    let mut out = empty(record);
    out["read"] = json!(reading.at.to_string());
    if let Some(before) = before {
        out["preread"] = json!(before.read.to_string());
        out["precpu_stats"] = before.cpu.clone();
    }
    out["cpu_stats"] = cpu.clone();
    out["memory_stats"] = memory(reading);
    let pids = &reading.cgroup.pids;
    out["pids_stats"] = json!({ "current": pids.current });
    if let Some(limit) = pids.limit {
        out["pids_stats"]["limit"] = json!(limit);
    }
    let blkio = &reading.cgroup.blkio;
    out["blkio_stats"]["io_service_bytes_recursive"] = blkio_entries(&blkio.service_bytes);
    out["blkio_stats"]["io_serviced_recursive"] = blkio_entries(&blkio.serviced);
    if !reading.interfaces.is_empty() {
        out["networks"] = networks(&reading.interfaces);
    }
    out
}

/// `memory_stats`: v2 has neither the most nor the count of failures.
fn memory(reading: &Reading) -> Value {
    let memory = &reading.cgroup.memory;
    let limit = memory.limit.map_or(reading.memory, |l| l.min(reading.memory));
    let mut out = json!({ "usage": memory.usage, "stats": memory.stats, "limit": limit });
    if reading.cgroup.version != CgroupVersion::V2 {
        out["max_usage"] = json!(memory.max_usage);
    }
    if memory.failcnt > 0 {
        out["failcnt"] = json!(memory.failcnt);
    }
    out
}

fn no_blkio() -> Value {
    json!({
        "io_service_bytes_recursive": null,
        "io_serviced_recursive": null,
        "io_queue_recursive": null,
        "io_service_time_recursive": null,
        "io_wait_time_recursive": null,
        "io_merged_recursive": null,
        "io_time_recursive": null,
        "sectors_recursive": null,
    })
}

fn blkio_entries(entries: &[BlkioEntry]) -> Value {
    let shown: Vec<Value> = entries
        .iter()
        .map(|e| json!({ "major": e.major, "minor": e.minor, "op": e.op, "value": e.value }))
        .collect();
    super::json::null_if_empty(&shown)
}

fn networks(interfaces: &BTreeMap<String, [u64; 8]>) -> Value {
    let shown = interfaces.iter().map(|(name, [rb, rp, re, rd, tb, tp, te, td])| {
        let counters = json!({
            "rx_bytes": rb, "rx_packets": rp, "rx_errors": re, "rx_dropped": rd,
            "tx_bytes": tb, "tx_packets": tp, "tx_errors": te, "tx_dropped": td,
        });
        (name.clone(), counters)
    });
    Value::Object(shown.collect())
}

#[cfg(test)]
mod tests {
    use sampan_runtime::cgroup::{BlkioStats, CpuStats, MemoryStats, PidsStats};

    use super::*;
    use crate::container::tests::record as blank;

    fn reading(version: CgroupVersion) -> Reading {
        let cgroup = CgroupStats {
            version,
            cpu: CpuStats { total: 7, per_cpu: vec![3, 4], ..CpuStats::default() },
            memory: MemoryStats { usage: 5, max_usage: 9, limit: None, ..MemoryStats::default() },
            pids: PidsStats { current: 2, limit: Some(10) },
            blkio: BlkioStats::default(),
        };
        Reading {
            at: Timestamp::from_nanos(1_000_000_000),
            cgroup,
            host: HostCpu { total: 100, online: 2 },
            memory: 1 << 30,
            interfaces: interfaces(
                "Inter-| Receive | Transmit\n face |bytes\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  \
                 eth0: 10 1 2 3 0 0 0 0 20 4 5 6 0 0 0 0\n",
            ),
        }
    }

    #[test]
    fn samples_have_dockerds_shape() {
        let record = blank(&"ab".repeat(32), "web");
        let first = reading(CgroupVersion::V1);
        let before = Before { cpu: cpu(&first), read: first.at };
        let out = shown(&record, &first, &cpu(&first), Some(&before));
        assert_eq!(out["name"], "/web");
        assert_eq!(out["cpu_stats"]["cpu_usage"]["percpu_usage"], json!([3, 4]));
        assert_eq!(out["precpu_stats"], out["cpu_stats"]);
        assert_eq!(out["preread"], "1970-01-01T00:00:01Z");
        assert_eq!(out["memory_stats"]["limit"], 1 << 30);
        assert_eq!(out["memory_stats"]["max_usage"], 9);
        assert_eq!(out["pids_stats"], json!({"current": 2, "limit": 10}));
        assert_eq!(out["networks"]["eth0"]["tx_bytes"], 20);
        assert_eq!(out["networks"]["eth0"]["rx_dropped"], 3);
        assert!(out["networks"].get("lo").is_none());
        let v2 = reading(CgroupVersion::V2);
        assert!(memory(&v2).get("max_usage").is_none());
    }

    #[test]
    fn a_stopped_container_uses_nothing() {
        let out = empty(&blank(&"ab".repeat(32), "web"));
        assert_eq!(out["read"], "0001-01-01T00:00:00Z");
        assert_eq!(out["memory_stats"], json!({}));
        assert_eq!(out["blkio_stats"]["io_service_bytes_recursive"], json!(null));
        assert!(out.get("networks").is_none());
    }

    #[test]
    fn the_hosts_processors_are_read() {
        let text = "cpu  1 2 3 4 5 6 7 8 9 10\ncpu0 1 2\ncpu1 1 2\nintr 5\n";
        assert_eq!(HostCpu::parse(text), HostCpu { total: 280_000_000, online: 2 });
    }
}
