//! Limits: checked in Docker's words, and as the OCI has them.

use std::collections::BTreeSet;

use oci_spec::runtime::{
    LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources, LinuxThrottleDevice,
    LinuxThrottleDeviceBuilder, LinuxWeightDevice, LinuxWeightDeviceBuilder,
};
use sampan_types::docker::{HostConfig, ThrottleDevice};

use super::{Devices, HostFacts, SpecError, Warning, devices};

/// Less can't hold a container.
const MIN_MEMORY: i64 = 6 << 20;
/// `--cpus` is a quota of this period, in microseconds.
const CPU_PERIOD: i64 = 100_000;
/// What the kernel accepts as CPU shares.
const SHARES: std::ops::RangeInclusive<i64> = 2..=262_144;

fn invalid<T>(message: impl Into<String>) -> Result<T, SpecError> {
    Err(SpecError::Invalid(message.into()))
}

/// Checks all limits; what the kernel has not is a warning and is left out.
pub(super) fn validate(host: &HostConfig, facts: &HostFacts) -> Result<Vec<Warning>, SpecError> {
    let mut warnings = Vec::new();
    memory(host, facts, &mut warnings)?;
    cpu(host, facts, &mut warnings)?;
    cpuset(host, facts, &mut warnings)?;
    block(host, facts, &mut warnings)?;
    if host.pids_limit.is_some_and(|n| n > 0) && !facts.cgroup.pids {
        warnings.push(missing("PIDs limit capabilities", "PIDs limit discarded."));
    }
    Ok(warnings)
}

fn missing(what: &str, then: &str) -> Warning {
    format!("Your kernel does not support {what} or the cgroup is not mounted. {then}")
}

fn memory(
    host: &HostConfig,
    facts: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<(), SpecError> {
    let limit = host.memory.unwrap_or(0);
    let swap = host.memory_swap.unwrap_or(0);
    let reservation = host.memory_reservation.unwrap_or(0);
    let facts = &facts.cgroup;
    if limit != 0 && limit < MIN_MEMORY {
        return invalid("Minimum memory limit allowed is 6MB");
    }
    if limit > 0 && !facts.memory {
        warnings.push(missing("memory limit capabilities", "Limitation discarded."));
    }
    if limit > 0 && swap != -1 && facts.memory && !facts.swap {
        warnings.push(missing("swap limit capabilities", "Memory limited without swap."));
    }
    if limit > 0 && swap > 0 && swap < limit {
        return invalid("Minimum memoryswap limit should be larger than memory limit, see usage");
    }
    if swap < -1 {
        return invalid(format!("invalid memory swap limit: {swap}"));
    }
    if limit == 0 && swap > 0 {
        return invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
    }
    // -1 is "unset".
    if let Some(value) = host.memory_swappiness.filter(|v| *v != -1) {
        if !(0..=100).contains(&value) {
            return invalid(format!(
                "Invalid value: {value}, valid memory swappiness range is 0-100"
            ));
        }
        if !facts.swappiness {
            warnings
                .push(missing("memory swappiness capabilities", "Memory swappiness discarded."));
        }
    }
    if reservation > 0 && !facts.memory {
        warnings.push(missing("memory soft limit capabilities", "Limitation discarded."));
    }
    if reservation != 0 && reservation < MIN_MEMORY {
        return invalid("Minimum memory reservation allowed is 6MB");
    }
    if limit > 0 && reservation > limit {
        return invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        );
    }
    if host.oom_kill_disable.unwrap_or(false) {
        if !facts.oom_kill_disable {
            warnings.push(
                "Your kernel does not support OomKillDisable. OomKillDisable discarded.".into(),
            );
        } else if limit == 0 {
            warnings.push(
                "OOM killer is disabled for the container, but no memory limit is set, this can \
                 result in the system running out of resources."
                    .into(),
            );
        }
    }
    Ok(())
}

fn cpu(host: &HostConfig, facts: &HostFacts, warnings: &mut Vec<Warning>) -> Result<(), SpecError> {
    let nano = host.nano_cpus.unwrap_or(0);
    let (period, quota) = (host.cpu_period.unwrap_or(0), host.cpu_quota.unwrap_or(0));
    if nano > 0 && period > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set");
    }
    if nano > 0 && quota > 0 {
        return invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set");
    }
    if nano > 0 && !facts.cgroup.cpu {
        return invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the \
             cgroup is not mounted",
        );
    }
    let count = i64::try_from(facts.cpus.len()).unwrap_or(1).max(1);
    // The smallest quota that the kernel takes is a hundredth of the period.
    if nano != 0 && !(10_000_000..=count.saturating_mul(1_000_000_000)).contains(&nano) {
        return invalid(format!(
            "Range of CPUs is from 0.01 to {count}.00, as there are only {count} CPUs available"
        ));
    }
    if host.cpu_shares.is_some_and(|s| s > 0) && !facts.cgroup.cpu {
        warnings.push(missing("CPU shares", "Shares discarded."));
    }
    if (period != 0 || quota != 0) && !facts.cgroup.cpu {
        warnings.push(
            "Your kernel does not support CPU CFS scheduler. CPU period/quota discarded.".into(),
        );
    }
    if period != 0 && !(1000..=1_000_000).contains(&period) {
        return invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        );
    }
    if quota > 0 && quota < 1000 {
        return invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)");
    }
    if [host.cpu_realtime_period, host.cpu_realtime_runtime].iter().any(|v| v.unwrap_or(0) != 0) {
        return Err(SpecError::Unsupported(
            "Your kernel does not support CPU real-time scheduler".into(),
        ));
    }
    if [host.cpu_count, host.cpu_percent, host.io_maximum_iops, host.io_maximum_bandwidth]
        .iter()
        .any(|v| v.unwrap_or(0) != 0)
    {
        return invalid(
            "Invalid QoS settings: linux does not support Maximum IO Bandwidth or Maximum IO IOps, CpuCount or CpuPercent",
        );
    }
    Ok(())
}

fn cpuset(
    host: &HostConfig,
    facts: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<(), SpecError> {
    let cpus = host.cpuset_cpus.as_deref().unwrap_or_default();
    let mems = host.cpuset_mems.as_deref().unwrap_or_default();
    let asked = !cpus.is_empty() || !mems.is_empty();
    if asked && !facts.cgroup.cpuset {
        warnings.push(missing("cpuset", "Cpuset discarded."));
    }
    for (text, available, kind, what) in [
        (cpus, &facts.cpus, "cpus", "Requested CPUs"),
        (mems, &facts.mems, "mems", "Requested memory nodes"),
    ] {
        let Some(wanted) = parse_set(text) else {
            return invalid(format!("Invalid value {text} for cpuset {kind}"));
        };
        if !wanted.is_subset(available) {
            return invalid(format!(
                "{what} are not available - requested {text}, available: {}",
                show_set(available)
            ));
        }
    }
    Ok(())
}

/// `0-2,4`.
pub(super) fn parse_set(text: &str) -> Option<BTreeSet<u32>> {
    let mut set = BTreeSet::new();
    if text.is_empty() {
        return Some(set);
    }
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        // More CPUs no kernel has; a typing error must not fill the memory.
        if first > last || last > 8191 {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

fn show_set(set: &BTreeSet<u32>) -> String {
    let mut parts: Vec<(u32, u32)> = Vec::new();
    for n in set {
        match parts.last_mut() {
            Some((_, last)) if *last + 1 == *n => *last = *n,
            _ => parts.push((*n, *n)),
        }
    }
    let show = |(first, last): &(u32, u32)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    parts.iter().map(show).collect::<Vec<_>>().join(",")
}

fn block(
    host: &HostConfig,
    facts: &HostFacts,
    warnings: &mut Vec<Warning>,
) -> Result<(), SpecError> {
    let weight = host.blkio_weight.unwrap_or(0);
    if weight > 0 && !facts.cgroup.blkio_weight {
        warnings.push(missing("Block I/O weight", "Weight discarded."));
    }
    if weight > 0 && !(10..=1000).contains(&weight) {
        return invalid("Range of blkio weight is from 10 to 1000");
    }
    for device in host.blkio_weight_device.iter().flatten() {
        if !(10..=1000).contains(&device.weight.unwrap_or(0)) {
            return invalid(format!(
                "invalid weight for device {}: the range is from 10 to 1000",
                device.path.as_deref().unwrap_or_default()
            ));
        }
    }
    if host.blkio_weight_device.as_ref().is_some_and(|d| !d.is_empty())
        && !facts.cgroup.blkio_weight
    {
        warnings.push(missing("Block I/O weight_device", "Weight-device discarded."));
    }
    let throttles = [
        (&host.blkio_device_read_bps, "BPS Block I/O read limit"),
        (&host.blkio_device_write_bps, "BPS Block I/O write limit"),
        (&host.blkio_device_read_iops, "IOPS Block read limit in IO"),
        (&host.blkio_device_write_iops, "IOPS Block write limit in IO"),
    ];
    for (list, what) in throttles {
        for device in list.iter().flatten() {
            if device.rate.unwrap_or(0) < 0 {
                return invalid(format!(
                    "invalid rate for device {}: it can't be negative",
                    device.path.as_deref().unwrap_or_default()
                ));
            }
        }
        if list.as_ref().is_some_and(|l| !l.is_empty()) && !facts.cgroup.blkio {
            warnings.push(missing(what, &format!("{what} discarded.")));
        }
    }
    Ok(())
}

/// The limits as the OCI has them; those that the kernel lacks are left out.
pub(super) fn build(
    host: &HostConfig,
    found: &Devices,
    facts: &HostFacts,
) -> Result<LinuxResources, SpecError> {
    let mut resources = LinuxResources::default();
    resources.set_devices(Some(devices::rules(host, found)?));
    if facts.cgroup.memory {
        resources.set_memory(build_memory(host, facts));
    }
    resources.set_cpu(build_cpu(host, facts));
    if let Some(limit) = host.pids_limit.filter(|_| facts.cgroup.pids) {
        let mut pids = LinuxPids::default();
        pids.set_limit(if limit > 0 { limit } else { -1 });
        resources.set_pids(Some(pids));
    }
    if facts.cgroup.blkio {
        resources.set_block_io(build_block(host, found, facts)?);
    }
    Ok(resources)
}

fn build_memory(host: &HostConfig, facts: &HostFacts) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    let limit = host.memory.filter(|l| *l > 0);
    let swap = match (host.memory_swap.unwrap_or(0), limit) {
        _ if !facts.cgroup.swap => None,
        (0, Some(limit)) => Some(limit.saturating_mul(2)),
        (0, None) => None,
        (swap, _) => Some(swap),
    };
    let swappiness = host.memory_swappiness.filter(|s| *s >= 0 && facts.cgroup.swappiness);
    memory
        .set_limit(limit)
        .set_swap(swap)
        .set_reservation(host.memory_reservation.filter(|r| *r > 0))
        .set_swappiness(swappiness.and_then(|s| u64::try_from(s).ok()))
        .set_disable_oom_killer(
            host.oom_kill_disable.filter(|d| *d && facts.cgroup.oom_kill_disable),
        );
    (memory != LinuxMemory::default()).then_some(memory)
}

fn build_cpu(host: &HostConfig, facts: &HostFacts) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    if facts.cgroup.cpu {
        let number = |v: Option<i64>| v.and_then(|v| u64::try_from(v).ok()).filter(|v| *v > 0);
        let shares =
            host.cpu_shares.filter(|s| *s > 0).map(|s| s.clamp(*SHARES.start(), *SHARES.end()));
        cpu.set_shares(number(shares));
        match host.nano_cpus.filter(|n| *n > 0) {
            Some(nano) => {
                let quota = i128::from(nano) * i128::from(CPU_PERIOD) / 1_000_000_000;
                cpu.set_period(number(Some(CPU_PERIOD)))
                    .set_quota(Some(i64::try_from(quota).unwrap_or(i64::MAX)));
            }
            None => {
                cpu.set_period(number(host.cpu_period))
                    .set_quota(host.cpu_quota.filter(|q| *q != 0));
            }
        }
    }
    if facts.cgroup.cpuset {
        let text = |v: &Option<String>| v.clone().filter(|t| !t.is_empty());
        cpu.set_cpus(text(&host.cpuset_cpus)).set_mems(text(&host.cpuset_mems));
    }
    (cpu != LinuxCpu::default()).then_some(cpu)
}

fn build_block(
    host: &HostConfig,
    found: &Devices,
    facts: &HostFacts,
) -> Result<Option<LinuxBlockIo>, SpecError> {
    let number = |path: Option<&str>| {
        let path = path.unwrap_or_default();
        found
            .block
            .get(path)
            .copied()
            .ok_or_else(|| SpecError::Device(format!("stat {path}: no such file or directory")))
    };
    let throttle = |list: &Option<Vec<ThrottleDevice>>| {
        let mut out: Vec<LinuxThrottleDevice> = Vec::new();
        for device in list.iter().flatten() {
            let (major, minor) = number(device.path.as_deref())?;
            let rate = u64::try_from(device.rate.unwrap_or(0)).unwrap_or(0);
            let builder =
                LinuxThrottleDeviceBuilder::default().major(major).minor(minor).rate(rate);
            out.push(builder.build().expect("every field is set"));
        }
        Ok(Some(out).filter(|o| !o.is_empty()))
    };
    let mut block = LinuxBlockIo::default();
    block
        .set_throttle_read_bps_device(throttle(&host.blkio_device_read_bps)?)
        .set_throttle_write_bps_device(throttle(&host.blkio_device_write_bps)?)
        .set_throttle_read_iops_device(throttle(&host.blkio_device_read_iops)?)
        .set_throttle_write_iops_device(throttle(&host.blkio_device_write_iops)?);
    if facts.cgroup.blkio_weight {
        let mut weights: Vec<LinuxWeightDevice> = Vec::new();
        for device in host.blkio_weight_device.iter().flatten() {
            let (major, minor) = number(device.path.as_deref())?;
            let weight = u16::try_from(device.weight.unwrap_or(0)).unwrap_or(0);
            let builder =
                LinuxWeightDeviceBuilder::default().major(major).minor(minor).weight(weight);
            weights.push(builder.build().expect("every field is set"));
        }
        block
            .set_weight(host.blkio_weight.filter(|w| *w > 0))
            .set_weight_device(Some(weights).filter(|w| !w.is_empty()));
    }
    Ok((block != LinuxBlockIo::default()).then_some(block))
}

#[cfg(test)]
mod tests {
    use super::super::testing::facts;
    use super::*;
    use proptest::prelude::*;

    fn refused(change: impl FnOnce(&mut HostConfig)) -> String {
        let mut host = HostConfig::default();
        change(&mut host);
        validate(&host, &facts()).unwrap_err().to_string()
    }

    #[test]
    fn limits_out_of_range_are_refused_in_dockers_words() {
        let m = 1 << 20;
        assert_eq!(refused(|h| h.memory = Some(m)), "Minimum memory limit allowed is 6MB");
        assert_eq!(refused(|h| h.memory = Some(-5)), "Minimum memory limit allowed is 6MB");
        assert_eq!(
            refused(|h| (h.memory, h.memory_swap) = (Some(20 * m), Some(10 * m))),
            "Minimum memoryswap limit should be larger than memory limit, see usage"
        );
        assert_eq!(
            refused(|h| h.memory_swap = Some(10 * m)),
            "You should always set the Memory limit when using Memoryswap limit, see usage"
        );
        assert_eq!(
            refused(|h| (h.memory, h.memory_reservation) = (Some(20 * m), Some(30 * m))),
            "Minimum memory limit can not be less than memory reservation limit, see usage"
        );
        assert_eq!(
            refused(|h| h.nano_cpus = Some(5_000_000_000)),
            "Range of CPUs is from 0.01 to 4.00, as there are only 4 CPUs available"
        );
        assert_eq!(
            refused(|h| (h.nano_cpus, h.cpu_quota) = (Some(1_000_000_000), Some(1000))),
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set"
        );
        assert_eq!(
            refused(|h| h.cpuset_cpus = Some("0-7".into())),
            "Requested CPUs are not available - requested 0-7, available: 0-3"
        );
        assert_eq!(
            refused(|h| h.cpuset_mems = Some("x".into())),
            "Invalid value x for cpuset mems"
        );
        assert_eq!(
            refused(|h| h.blkio_weight = Some(5)),
            "Range of blkio weight is from 10 to 1000"
        );
    }

    #[test]
    fn what_the_kernel_lacks_is_a_warning_and_left_out() {
        let mut facts = facts();
        facts.cgroup.swap = false;
        facts.cgroup.pids = false;
        let host =
            HostConfig { memory: Some(64 << 20), pids_limit: Some(5), ..HostConfig::default() };
        assert_eq!(validate(&host, &facts).unwrap().len(), 2);
        let built = build(&host, &Devices::default(), &facts).unwrap();
        assert_eq!(built.memory().unwrap().swap(), None);
        assert!(built.pids().is_none());
    }

    #[test]
    fn defaults_and_conversions() {
        let host = HostConfig {
            memory: Some(64 << 20),
            nano_cpus: Some(1_500_000_000),
            pids_limit: Some(0),
            cpu_shares: Some(1),
            ..HostConfig::default()
        };
        let built = build(&host, &Devices::default(), &facts()).unwrap();
        assert_eq!(built.memory().unwrap().swap(), Some(128 << 20));
        let cpu = built.cpu().as_ref().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.shares()),
            (Some(150_000), Some(100_000), Some(2))
        );
        assert_eq!(built.pids().as_ref().unwrap().limit(), -1);
        let built = build(&HostConfig::default(), &Devices::default(), &facts()).unwrap();
        assert!(built.memory().is_none() && built.cpu().is_none() && built.pids().is_none());
    }

    #[test]
    fn limited_devices_must_have_been_found() {
        let device = ThrottleDevice { path: Some("/dev/x".into()), rate: Some(1000) };
        let host =
            HostConfig { blkio_device_read_bps: Some(vec![device]), ..HostConfig::default() };
        assert!(build(&host, &Devices::default(), &facts()).is_err());
        let found = Devices { block: [("/dev/x".into(), (8, 1))].into(), ..Devices::default() };
        let built = build(&host, &found, &facts()).unwrap();
        let block = built.block_io().as_ref().unwrap();
        assert_eq!(block.throttle_read_bps_device().as_ref().unwrap()[0].major(), 8);
    }

    proptest! {
        #[test]
        fn sets_go_both_ways(set in prop::collection::btree_set(0u32..100, 0..20)) {
            prop_assert_eq!(parse_set(&show_set(&set)), Some(set));
        }

        #[test]
        fn noise_is_no_panic(text in "[0-9,-]{0,12}") {
            let _ = parse_set(&text);
        }

        #[test]
        fn what_is_accepted_can_be_built(memory in any::<i64>(), swap in any::<i64>(), nano in any::<i64>(), quota in any::<i64>()) {
            let host = HostConfig {
                memory: Some(memory), memory_swap: Some(swap), nano_cpus: Some(nano),
                cpu_quota: Some(quota), ..HostConfig::default()
            };
            if validate(&host, &facts()).is_ok() {
                prop_assert!(build(&host, &Devices::default(), &facts()).is_ok());
            }
        }
    }
}
