//! From options to the body of `POST /containers/create`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::mounts::{self, Volume};
use super::ports::{self, Ports};
use super::{CreateFlags, HealthFlags, LimitFlags, NetworkFlags, SecurityFlags, StorageFlags};
use crate::units::{parse_duration, parse_size};

/// The body for `image` and the words after it. `attached`: the streams that
/// the caller will attach to.
pub fn body(
    flags: &CreateFlags,
    image: &str,
    words: &[String],
    attached: &[&str],
) -> Result<Value> {
    let ports = Ports::parse(&flags.network.publish)?;
    let mut exposed: Map<String, Value> =
        ports.bindings.keys().map(|k| (k.clone(), json!({}))).collect();
    for key in ports::exposed(&flags.network.expose)? {
        exposed.insert(key, json!({}));
    }
    let (volumes, mut host) = storage(&flags.storage)?;
    let mut body = json!({
        "Image": image,
        "Hostname": flags.hostname.clone().unwrap_or_default(),
        "Domainname": flags.domainname.clone().unwrap_or_default(),
        "User": flags.user.clone().unwrap_or_default(),
        "WorkingDir": flags.workdir.clone().unwrap_or_default(),
        "Tty": flags.tty,
        "OpenStdin": flags.interactive,
        "StdinOnce": flags.interactive && attached.contains(&"stdin"),
        "AttachStdin": attached.contains(&"stdin"),
        "AttachStdout": attached.contains(&"stdout"),
        "AttachStderr": attached.contains(&"stderr"),
        "Env": environment(flags)?,
        "Labels": pairs_and_files(&flags.label, &flags.label_file)?,
        "ExposedPorts": exposed,
        "Volumes": volumes,
    });
    if !words.is_empty() {
        body["Cmd"] = json!(words);
    }
    if let Some(entrypoint) = &flags.entrypoint {
        // An empty one resets the image's.
        body["Entrypoint"] = json!([entrypoint]);
    }
    set(&mut body, "StopSignal", flags.stop_signal.clone());
    set(&mut body, "StopTimeout", flags.stop_timeout);
    if let Some(health) = health(&flags.health)? {
        body["Healthcheck"] = health;
    }
    host["PortBindings"] = json!(ports.bindings);
    host["AutoRemove"] = flags.rm.into();
    host["RestartPolicy"] = restart_policy(flags.restart.as_deref().unwrap_or("no"))?;
    host["LogConfig"] = json!({
        "Type": flags.log_driver.clone().unwrap_or_default(),
        "Config": pairs(&flags.log_opt),
    });
    host["GroupAdd"] = json!(flags.group_add);
    host["Annotations"] = pairs(&flags.annotation);
    if flags.init {
        host["Init"] = true.into();
    }
    set(&mut host, "Runtime", flags.runtime.clone());
    network(&flags.network, &mut host);
    security(&flags.security, &mut host)?;
    limits(&flags.limits, &mut host)?;
    body["NetworkingConfig"] = json!({"EndpointsConfig": endpoints(&flags.network)?});
    set(&mut body, "MacAddress", flags.network.mac_address.clone());
    body["HostConfig"] = host;
    Ok(body)
}

fn set(object: &mut Value, key: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        object[key] = value.into();
    }
}

/// `KEY=VALUE` and `KEY` as an object.
pub fn pairs(list: &[String]) -> Value {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), Value::from(value))
    };
    Value::Object(list.iter().map(pair).collect())
}

fn lines(path: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let wanted = |l: &&str| !l.is_empty() && !l.starts_with('#');
    Ok(text.lines().map(str::trim_start).filter(wanted).map(str::to_owned).collect())
}

fn pairs_and_files(list: &[String], files: &[PathBuf]) -> Result<Value> {
    let mut all = Vec::new();
    for file in files {
        all.extend(lines(file)?);
    }
    all.extend_from_slice(list);
    Ok(pairs(&all))
}

/// A variable without `=` takes its value from here, or is unset.
fn environment(flags: &CreateFlags) -> Result<Vec<String>> {
    environment_of(&flags.env, &flags.env_file)
}

/// The variables of `--env` and `--env-file`.
pub fn environment_of(own: &[String], files: &[PathBuf]) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for file in files {
        for line in lines(file)? {
            if line.split('=').next().is_some_and(|k| k.contains(char::is_whitespace)) {
                bail!("variable '{line}' in {} contains whitespaces", file.display());
            }
            all.push((line, true));
        }
    }
    all.extend(own.iter().map(|v| (v.clone(), false)));
    let mut env = Vec::new();
    for (variable, from_file) in all {
        if variable.is_empty() || variable.starts_with('=') {
            bail!("invalid environment variable: {variable}");
        }
        match (variable.contains('='), std::env::var(&variable)) {
            (true, _) => env.push(variable),
            (false, Ok(value)) => env.push(format!("{variable}={value}")),
            // Without a value the daemon removes the image's variable.
            (false, Err(_)) if !from_file => env.push(variable),
            (false, Err(_)) => {}
        }
    }
    Ok(env)
}

/// `no`, `always`, `unless-stopped`, `on-failure[:MAX]`.
pub fn restart_policy(text: &str) -> Result<Value> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => match count.parse::<u64>() {
            Ok(count) => (name, count),
            Err(_) => {
                bail!("invalid restart policy format: maximum retry count must be an integer")
            }
        },
        None => (text, 0),
    };
    Ok(json!({"Name": name, "MaximumRetryCount": count}))
}

fn storage(flags: &StorageFlags) -> Result<(Map<String, Value>, Value)> {
    let (mut anonymous, mut binds) = (Map::new(), Vec::new());
    for text in &flags.volume {
        match mounts::volume(text)? {
            Volume::Anonymous(target) => {
                anonymous.insert(target, json!({}));
            }
            Volume::Bind(bind) => binds.push(bind),
        }
    }
    let mounted = flags.mount.iter().map(|m| mounts::mount(m)).collect::<Result<Vec<_>>>()?;
    let tmpfs = flags.tmpfs.iter().map(|t| {
        let (target, options) = t.split_once(':').unwrap_or((t, ""));
        (target.to_owned(), Value::from(options))
    });
    let mut host = json!({
        "Binds": binds,
        "Mounts": mounted,
        "VolumesFrom": flags.volumes_from,
        "Tmpfs": Value::Object(tmpfs.collect()),
        "ReadonlyRootfs": flags.read_only,
        "StorageOpt": pairs(&flags.storage_opt),
    });
    set(&mut host, "VolumeDriver", flags.volume_driver.clone());
    if let Some(size) = &flags.shm_size {
        host["ShmSize"] = size_of(size)?;
    }
    Ok((anonymous, host))
}

fn size_of(text: &str) -> Result<Value> {
    parse_size(text).map(Value::from).map_err(anyhow::Error::msg)
}

/// The name in `--network NAME` or `--network name=NAME,alias=…`.
fn network_name(text: &str) -> &str {
    text.split(',').find_map(|f| f.strip_prefix("name=")).unwrap_or(text)
}

fn network(flags: &NetworkFlags, host: &mut Value) {
    let first = flags.networks.first().map_or("default", |n| network_name(n));
    host["NetworkMode"] = first.into();
    host["PublishAllPorts"] = flags.publish_all.into();
    host["Links"] = json!(flags.link);
    host["Dns"] = json!(flags.dns);
    host["DnsOptions"] = json!(flags.dns_option);
    host["DnsSearch"] = json!(flags.dns_search);
    host["ExtraHosts"] = json!(flags.add_host);
}

fn endpoints(flags: &NetworkFlags) -> Result<Value> {
    let mut endpoints = Map::new();
    for (i, text) in flags.networks.iter().enumerate() {
        let mut endpoint = endpoint(text)?;
        if i == 0 {
            own_options(flags, &mut endpoint);
        }
        endpoints.insert(network_name(text).to_owned(), endpoint);
    }
    let mut default = json!({});
    own_options(flags, &mut default);
    if flags.networks.is_empty() && default != json!({}) {
        endpoints.insert("default".to_owned(), default);
    }
    Ok(Value::Object(endpoints))
}

/// The options beside `--network` are the first network's.
fn own_options(flags: &NetworkFlags, endpoint: &mut Value) {
    set(&mut endpoint["IPAMConfig"], "IPv4Address", flags.ip.clone());
    set(&mut endpoint["IPAMConfig"], "IPv6Address", flags.ip6.clone());
    if !flags.link_local_ip.is_empty() {
        endpoint["IPAMConfig"]["LinkLocalIPs"] = json!(flags.link_local_ip);
    }
    if !flags.network_alias.is_empty() {
        endpoint["Aliases"] = json!(flags.network_alias);
    }
    set(endpoint, "MacAddress", flags.mac_address.clone());
    if endpoint["IPAMConfig"].is_null() {
        endpoint.as_object_mut().map(|o| o.remove("IPAMConfig"));
    }
}

fn endpoint(text: &str) -> Result<Value> {
    let mut endpoint = json!({});
    if !text.contains('=') {
        return Ok(endpoint);
    }
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key {
            "name" => {}
            "alias" => match endpoint["Aliases"].as_array_mut() {
                Some(list) => list.push(value.into()),
                None => endpoint["Aliases"] = json!([value]),
            },
            "ip" => endpoint["IPAMConfig"]["IPv4Address"] = value.into(),
            "ip6" => endpoint["IPAMConfig"]["IPv6Address"] = value.into(),
            "mac-address" => endpoint["MacAddress"] = value.into(),
            "gw-priority" => {
                endpoint["GwPriority"] = value.parse::<i64>().context("gw-priority")?.into();
            }
            "driver-opt" => {
                let (k, v) = value.split_once('=').unwrap_or((value, ""));
                endpoint["DriverOpts"][k] = v.into();
            }
            _ => bail!("invalid field key {key} in --network {text}"),
        }
    }
    Ok(endpoint)
}

fn security(flags: &SecurityFlags, host: &mut Value) -> Result<()> {
    host["Privileged"] = flags.privileged.into();
    host["CapAdd"] = json!(flags.cap_add);
    host["CapDrop"] = json!(flags.cap_drop);
    host["SecurityOpt"] = json!(security_options(&flags.security_opt)?);
    host["Sysctls"] = pairs(&flags.sysctl);
    set(host, "PidMode", flags.pid.clone());
    set(host, "IpcMode", flags.ipc.clone());
    set(host, "UTSMode", flags.uts.clone());
    set(host, "CgroupnsMode", flags.cgroupns.clone());
    set(host, "UsernsMode", flags.userns.clone());
    set(host, "CgroupParent", flags.cgroup_parent.clone());
    host["Devices"] = Value::Array(flags.device.iter().map(|d| device(d)).collect::<Result<_>>()?);
    host["DeviceCgroupRules"] = json!(flags.device_cgroup_rule);
    Ok(())
}

/// A seccomp profile is a file here and its content for the daemon.
fn security_options(options: &[String]) -> Result<Vec<String>> {
    let content = |option: &String| {
        let profile = option.strip_prefix("seccomp=").or_else(|| option.strip_prefix("seccomp:"));
        match profile {
            Some(file) if !["unconfined", "builtin"].contains(&file) => {
                let text = std::fs::read_to_string(file)
                    .with_context(|| format!("opening seccomp profile ({file}) failed"))?;
                let json: Value = serde_json::from_str(&text).with_context(|| {
                    format!("compacting json for seccomp profile ({file}) failed")
                })?;
                Ok(format!("seccomp={json}"))
            }
            _ => Ok(option.clone()),
        }
    };
    options.iter().map(content).collect()
}

fn device(text: &str) -> Result<Value> {
    let is_mode = |m: &str| !m.is_empty() && m.chars().all(|c| "rwm".contains(c));
    let parts: Vec<&str> = text.split(':').collect();
    let (host, container, mode) = match parts.as_slice() {
        [host] => (*host, *host, "rwm"),
        [host, mode] if is_mode(mode) => (*host, *host, *mode),
        [host, container] => (*host, *container, "rwm"),
        [host, container, mode] if is_mode(mode) => (*host, *container, *mode),
        _ => bail!("invalid device specification: {text}"),
    };
    Ok(json!({"PathOnHost": host, "PathInContainer": container, "CgroupPermissions": mode}))
}

/// Adds the limits that were given to `host`; `update` takes the same ones.
pub fn limits(flags: &LimitFlags, host: &mut Value) -> Result<()> {
    if let Some(memory) = &flags.memory {
        host["Memory"] = size_of(memory)?;
    }
    match flags.memory_swap.as_deref() {
        None => {}
        Some("-1") => host["MemorySwap"] = json!(-1),
        Some(size) => host["MemorySwap"] = size_of(size)?,
    }
    if let Some(size) = &flags.memory_reservation {
        host["MemoryReservation"] = size_of(size)?;
    }
    set(host, "MemorySwappiness", flags.memory_swappiness);
    if let Some(cpus) = &flags.cpus {
        host["NanoCpus"] = nano_cpus(cpus)?.into();
    }
    set(host, "CpuShares", flags.cpu_shares);
    set(host, "CpuPeriod", flags.cpu_period);
    set(host, "CpuQuota", flags.cpu_quota);
    set(host, "CpusetCpus", flags.cpuset_cpus.clone());
    set(host, "CpusetMems", flags.cpuset_mems.clone());
    set(host, "PidsLimit", flags.pids_limit);
    set(host, "BlkioWeight", flags.blkio_weight);
    let throttles = [
        ("BlkioWeightDevice", &flags.blkio_weight_device, "Weight", false),
        ("BlkioDeviceReadBps", &flags.device_read_bps, "Rate", true),
        ("BlkioDeviceWriteBps", &flags.device_write_bps, "Rate", true),
        ("BlkioDeviceReadIOps", &flags.device_read_iops, "Rate", false),
        ("BlkioDeviceWriteIOps", &flags.device_write_iops, "Rate", false),
    ];
    for (key, list, field, is_size) in throttles {
        if !list.is_empty() {
            let values = list.iter().map(|t| throttle(t, field, is_size)).collect::<Result<_>>()?;
            host[key] = Value::Array(values);
        }
    }
    if !flags.ulimit.is_empty() {
        let values = flags.ulimit.iter().map(|t| ulimit(t)).collect::<Result<_>>()?;
        host["Ulimits"] = Value::Array(values);
    }
    if flags.oom_kill_disable {
        host["OomKillDisable"] = true.into();
    }
    set(host, "OomScoreAdj", flags.oom_score_adj);
    Ok(())
}

fn nano_cpus(text: &str) -> Result<i64> {
    match text.parse::<f64>() {
        Ok(cpus) if cpus.is_finite() && cpus >= 0.0 => Ok((cpus * 1e9).round() as i64),
        _ => bail!("failed to parse {text} as a number of processors"),
    }
}

fn throttle(text: &str, field: &str, is_size: bool) -> Result<Value> {
    let Some((path, value)) = text.rsplit_once(':') else {
        bail!("bad format: {text}: DEVICE:VALUE is expected");
    };
    let value = if is_size {
        size_of(value)?
    } else {
        value.parse::<u64>().with_context(|| format!("invalid value for {text}"))?.into()
    };
    Ok(json!({"Path": path, field: value}))
}

fn ulimit(text: &str) -> Result<Value> {
    let Some((name, limits)) = text.split_once('=') else {
        bail!("invalid ulimit argument: {text}");
    };
    let number =
        |t: &str| t.parse::<i64>().with_context(|| format!("invalid ulimit argument: {text}"));
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    let (soft, hard) = (number(soft)?, number(hard)?);
    if hard != -1 && (soft > hard || soft == -1) {
        bail!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}");
    }
    Ok(json!({"Name": name, "Soft": soft, "Hard": hard}))
}

fn health(flags: &HealthFlags) -> Result<Option<Value>> {
    if flags.no_healthcheck {
        if flags.health_cmd.is_some() {
            bail!("--no-healthcheck conflicts with --health-* options");
        }
        return Ok(Some(json!({"Test": ["NONE"]})));
    }
    let mut health = json!({});
    if let Some(command) = &flags.health_cmd {
        health["Test"] = json!(["CMD-SHELL", command]);
    }
    for (key, text) in [
        ("Interval", &flags.health_interval),
        ("Timeout", &flags.health_timeout),
        ("StartPeriod", &flags.health_start_period),
        ("StartInterval", &flags.health_start_interval),
    ] {
        if let Some(text) = text {
            health[key] = parse_duration(text).map_err(anyhow::Error::msg)?.into();
        }
    }
    set(&mut health, "Retries", flags.health_retries);
    Ok((health != json!({})).then_some(health))
}
