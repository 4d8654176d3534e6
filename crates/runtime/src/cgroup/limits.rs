//! Changing the limits of a group whose processes run.
//!
//! Be aware:
//! - v1 refuses a memory limit above the limit of memory and swap, and the
//!   other way round: the order of the two depends on the direction.

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources, LinuxThrottleDevice, LinuxWeightDevice,
};

use super::files::{number, write};
use super::weights::{cpu_weight, io_weight, swap_limit};
use super::{Cgroup, CgroupError, CgroupVersion};

impl Cgroup {
    /// Changes the limits that `resources` sets; others stay.
    ///
    /// # Errors
    /// When a controller is missing or the kernel refuses a value. What was
    /// changed before stays changed.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), CgroupError> {
        let v2 = self.host.version == CgroupVersion::V2;
        if let Some(memory) = resources.memory() {
            let dir = self.need("memory", memory_is_set(memory))?;
            match dir {
                Some(dir) if v2 => memory_v2(&dir, memory)?,
                Some(dir) => memory_v1(&dir, memory)?,
                None => {}
            }
        }
        if let Some(cpu) = resources.cpu() {
            self.update_cpu(cpu, v2)?;
        }
        if let Some(pids) = resources.pids()
            && let Some(dir) = self.need("pids", pids.limit() > 0)?
        {
            write(&dir.join("pids.max"), &limit(pids.limit()))?;
        }
        if let Some(block) = resources.block_io() {
            let dir = self.need("blkio", block_is_set(block))?;
            match dir {
                Some(dir) if v2 => block_v2(&dir, block)?,
                Some(dir) => block_v1(&dir, block)?,
                None => {}
            }
        }
        Ok(())
    }

    /// The directory of `controller`; an error when it is missing and needed.
    fn need(&self, controller: &'static str, needed: bool) -> Result<Option<PathBuf>, CgroupError> {
        match self.controller(controller) {
            None if needed => Err(CgroupError::NoController(controller)),
            found => Ok(found),
        }
    }

    fn update_cpu(&self, cpu: &LinuxCpu, v2: bool) -> Result<(), CgroupError> {
        let wanted = cpu.shares().is_some() || cpu.quota().is_some() || cpu.period().is_some();
        match self.need("cpu", wanted)? {
            Some(dir) if v2 => cpu_v2(&dir, cpu)?,
            Some(dir) => cpu_v1(&dir, cpu)?,
            None => {}
        }
        let sets = [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())];
        let wanted = sets.iter().any(|(_, value)| value.as_ref().is_some_and(|v| !v.is_empty()));
        if let Some(dir) = self.need("cpuset", wanted)? {
            for (file, value) in sets {
                if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                    write(&dir.join(file), value)?;
                }
            }
        }
        Ok(())
    }
}

/// Zero or less is no limit.
fn limit(value: i64) -> String {
    if value > 0 { value.to_string() } else { "max".into() }
}

fn memory_is_set(memory: &LinuxMemory) -> bool {
    memory.limit().is_some() || memory.swap().is_some() || memory.reservation().is_some()
}

fn memory_v1(dir: &Path, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let both = dir.join("memory.memsw.limit_in_bytes");
    let only = dir.join("memory.limit_in_bytes");
    let with_swap = both.exists();
    let swap = memory.swap().filter(|s| *s != 0 && with_swap);
    let steps: [(&Path, Option<i64>); 2] = match (memory.limit().filter(|l| *l != 0), swap) {
        (Some(limit), Some(swap)) => {
            let current = number(&both)?.unwrap_or(u64::MAX);
            let grows = swap == -1 || u64::try_from(swap).is_ok_and(|s| s > current);
            if grows {
                [(&both, Some(swap)), (&only, Some(limit))]
            } else {
                [(&only, Some(limit)), (&both, Some(swap))]
            }
        }
        (limit, swap) => [(&only, limit), (&both, swap)],
    };
    for (file, value) in steps {
        if let Some(value) = value {
            write(file, &value.to_string())?;
        }
    }
    let rest = [
        ("memory.soft_limit_in_bytes", memory.reservation().filter(|r| *r != 0)),
        ("memory.swappiness", memory.swappiness().and_then(|s| i64::try_from(s).ok())),
        ("memory.oom_control", memory.disable_oom_killer().map(i64::from)),
    ];
    for (file, value) in rest {
        if let Some(value) = value {
            write(&dir.join(file), &value.to_string())?;
        }
    }
    Ok(())
}

fn memory_v2(dir: &Path, memory: &LinuxMemory) -> Result<(), CgroupError> {
    let word = |value: i64| if value < 0 { "max".to_owned() } else { value.to_string() };
    if let Some(swap) = swap_limit(memory.limit(), memory.swap()) {
        let file = dir.join("memory.swap.max");
        if file.exists() || swap > 0 {
            write(&file, &word(swap))?;
        }
    }
    if let Some(value) = memory.limit().filter(|l| *l != 0) {
        write(&dir.join("memory.max"), &word(value))?;
    }
    if let Some(value) = memory.reservation().filter(|r| *r != 0) {
        write(&dir.join("memory.low"), &word(value))?;
    }
    Ok(())
}

fn cpu_v1(dir: &Path, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        write(&dir.join("cpu.shares"), &shares.to_string())?;
    }
    let period =
        cpu.period().filter(|p| *p != 0).map(|p| (dir.join("cpu.cfs_period_us"), p.to_string()));
    let quota =
        cpu.quota().filter(|q| *q != 0).map(|q| (dir.join("cpu.cfs_quota_us"), q.to_string()));
    match (period, quota) {
        (Some((period_file, period)), Some((quota_file, quota))) => {
            // Each is checked against the other's present value: a change that
            // is refused in one order is possible in the other.
            if write(&period_file, &period).is_ok() {
                write(&quota_file, &quota)
            } else {
                write(&quota_file, &quota)?;
                write(&period_file, &period)
            }
        }
        (Some((file, value)), None) | (None, Some((file, value))) => write(&file, &value),
        (None, None) => Ok(()),
    }
}

fn cpu_v2(dir: &Path, cpu: &LinuxCpu) -> Result<(), CgroupError> {
    if let Some(shares) = cpu.shares().filter(|s| *s != 0) {
        write(&dir.join("cpu.weight"), &cpu_weight(shares).to_string())?;
    }
    let quota = cpu.quota().filter(|q| *q != 0);
    let period = cpu.period().filter(|p| *p != 0);
    if quota.is_none() && period.is_none() {
        return Ok(());
    }
    let file = dir.join("cpu.max");
    let current = super::files::read(&file)?.unwrap_or_default();
    let present = current.split_whitespace().next().unwrap_or("max");
    let quota = match quota {
        Some(q) if q > 0 => q.to_string(),
        Some(_) => "max".into(),
        None => present.to_owned(),
    };
    let value = period.map_or_else(|| quota.clone(), |p| format!("{quota} {p}"));
    write(&file, &value)
}

fn block_is_set(block: &LinuxBlockIo) -> bool {
    block.weight().is_some_and(|w| w != 0) || throttles(block).iter().any(|(_, _, l)| !l.is_empty())
}

/// The v1 file, the v2 key and the devices of each kind of throttle.
fn throttles(block: &LinuxBlockIo) -> [(&'static str, &'static str, &[LinuxThrottleDevice]); 4] {
    [
        ("read_bps_device", "rbps", block.throttle_read_bps_device().as_deref().unwrap_or(&[])),
        ("write_bps_device", "wbps", block.throttle_write_bps_device().as_deref().unwrap_or(&[])),
        ("read_iops_device", "riops", block.throttle_read_iops_device().as_deref().unwrap_or(&[])),
        (
            "write_iops_device",
            "wiops",
            block.throttle_write_iops_device().as_deref().unwrap_or(&[]),
        ),
    ]
}

fn weight_devices(block: &LinuxBlockIo) -> &[LinuxWeightDevice] {
    block.weight_device().as_deref().unwrap_or(&[])
}

fn block_v1(dir: &Path, block: &LinuxBlockIo) -> Result<(), CgroupError> {
    // The name depends on the scheduler.
    let prefix = if dir.join("blkio.weight").exists() { "blkio" } else { "blkio.bfq" };
    if let Some(weight) = block.weight().filter(|w| *w != 0) {
        write(&dir.join(format!("{prefix}.weight")), &weight.to_string())?;
    }
    for device in weight_devices(block) {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {weight}", device.major(), device.minor());
            write(&dir.join(format!("{prefix}.weight_device")), &value)?;
        }
    }
    for (file, _, devices) in throttles(block) {
        for device in devices {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            write(&dir.join(format!("blkio.throttle.{file}")), &value)?;
        }
    }
    Ok(())
}

fn block_v2(dir: &Path, block: &LinuxBlockIo) -> Result<(), CgroupError> {
    let bfq = dir.join("io.bfq.weight");
    let weight_of = |w: u16| if bfq.exists() { u64::from(w) } else { io_weight(w) };
    let file = if bfq.exists() { bfq.clone() } else { dir.join("io.weight") };
    if let Some(weight) = block.weight().filter(|w| *w != 0) {
        write(&file, &format!("default {}", weight_of(weight)))?;
    }
    for device in weight_devices(block) {
        if let Some(weight) = device.weight() {
            let value = format!("{}:{} {}", device.major(), device.minor(), weight_of(weight));
            write(&file, &value)?;
        }
    }
    for (_, key, devices) in throttles(block) {
        for device in devices {
            let value = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
            write(&dir.join("io.max"), &value)?;
        }
    }
    Ok(())
}
