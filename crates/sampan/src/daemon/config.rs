//! From settings, which are text, to the engine's configuration.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use ipnet::IpNet;
use sampan_engine::{BridgeConfig, EngineConfig};

use super::settings::Settings;

/// Where state is kept when no directory is named.
pub const DATA_ROOT: &str = "/var/lib/sampan";
/// Where the state of running containers is kept when no directory is named.
pub const EXEC_ROOT: &str = "/run/sampan";

/// The engine's configuration. Makes relative directories absolute; touches
/// nothing else.
pub fn engine(settings: &Settings) -> Result<EngineConfig> {
    let absolute = |path: &Option<PathBuf>, default: &str| {
        std::path::absolute(path.as_deref().unwrap_or(Path::new(default)))
            .with_context(|| format!("directory {path:?}"))
    };
    let data_root = absolute(&settings.data_root, DATA_ROOT)?;
    let exec_root = absolute(&settings.exec_root, EXEC_ROOT)?;
    // The path, not the link below /proc: a replaced binary must not leave new
    // shims without their program.
    let program = std::env::current_exe().context("find the sampan binary")?;
    let mut config = EngineConfig::new(data_root, exec_root.clone(), program);

    config.instance = instance_name(&exec_root);
    config.cgroup_parent = match &settings.cgroup_parent {
        Some(parent) => format!("/{}", parent.trim_matches('/')),
        None => format!("/{}", config.instance),
    };
    config.bridge = bridge(settings)?;
    set(&mut config.network_redirect, settings.network_redirect);
    set(&mut config.host_ipv6_ports, settings.host_ipv6_ports);
    set(&mut config.strict_binds, settings.strict_binds);
    set(&mut config.respect_host_firewall, settings.respect_host_firewall);
    config.address_pools =
        settings.default_address_pools.iter().map(|t| address_pool(t)).collect::<Result<_>>()?;
    config.plugin_dirs.clone_from(&settings.plugin_dirs);
    config.cni_path.clone_from(&settings.cni_paths);
    config.publish_address = parse_option(settings.ip.as_deref(), "ip")?;
    config.dns = settings.dns.iter().map(|t| parse(t, "dns")).collect::<Result<_>>()?;
    config.dns_search.clone_from(&settings.dns_search);
    config.dns_options.clone_from(&settings.dns_opts);
    logs(settings, &mut config)?;
    if let Some(size) = &settings.default_shm_size {
        config.shm_size = bytes(size)?;
    }
    config.ulimits = settings.default_ulimits.iter().map(|t| ulimit(t)).collect::<Result<_>>()?;
    config.init = settings.init.unwrap_or(false);
    config.init_path.clone_from(&settings.init_path);
    runtimes(settings, &mut config)?;
    config.labels.clone_from(&settings.labels);
    config.insecure_registries.clone_from(&settings.insecure_registries);
    config.registry_mirrors.clone_from(&settings.registry_mirrors);
    set(&mut config.max_concurrent_downloads, settings.max_concurrent_downloads);
    set(&mut config.max_concurrent_uploads, settings.max_concurrent_uploads);
    set(&mut config.shutdown_timeout, settings.shutdown_timeout);
    config.node_name.clone_from(&settings.node_name);
    config.debug = settings.debug.unwrap_or(false);
    Ok(config)
}

fn set<T: Copy>(target: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *target = value;
    }
}

/// The default instance is called `sampan`; any other bears a mark of its
/// exec-root, so that names in the kernel never meet.
fn instance_name(exec_root: &Path) -> String {
    if exec_root == Path::new(EXEC_ROOT) {
        return "sampan".to_owned();
    }
    // FNV-1a, 32 bits: stable over versions and machines.
    let bytes = exec_root.as_os_str().as_encoded_bytes();
    let hash =
        bytes.iter().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    format!("sampan-{hash:08x}")
}

fn bridge(settings: &Settings) -> Result<Option<BridgeConfig>> {
    if settings.bridge.as_deref() == Some("none") {
        return Ok(None);
    }
    let mut bridge = BridgeConfig::default();
    if let Some(name) = &settings.bridge {
        if name.is_empty() || name.len() > 15 || name.contains(['/', ' ']) {
            bail!("bridge {name}: an interface's name has 1 to 15 characters without / and space");
        }
        bridge.name.clone_from(name);
    }
    bridge.address = parse_option(settings.bip.as_deref(), "bip")?;
    bridge.fixed_cidr = parse_option(settings.fixed_cidr.as_deref(), "fixed-cidr")?;
    set(&mut bridge.ipv6, settings.ipv6);
    bridge.address6 = parse_option(settings.bip6.as_deref(), "bip6")?;
    bridge.fixed_cidr6 = parse_option(settings.fixed_cidr_v6.as_deref(), "fixed-cidr-v6")?;
    bridge.gateway = parse_option(settings.default_gateway.as_deref(), "default-gateway")?;
    if let Some(mtu) = settings.mtu {
        if !(68..=65535).contains(&mtu) {
            bail!("mtu {mtu}: 68 to 65535 bytes are possible");
        }
        if bridge.ipv6 && mtu < 1280 {
            bail!("mtu {mtu}: with ipv6 at least 1280 bytes are needed");
        }
        bridge.mtu = Some(mtu);
    }
    set(&mut bridge.icc, settings.icc);
    set(&mut bridge.ip_masq, settings.ip_masq);
    Ok(Some(bridge))
}

fn parse<T: std::str::FromStr>(text: &str, setting: &str) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().with_context(|| format!("{setting} {text:?}"))
}

fn parse_option<T: std::str::FromStr>(text: Option<&str>, setting: &str) -> Result<Option<T>>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.map(|t| parse(t, setting)).transpose()
}

/// `base=10.0.0.0/8,size=24`
fn address_pool(text: &str) -> Result<(IpNet, u8)> {
    let (mut base, mut size) = (None, None);
    for field in text.split(',') {
        match field.split_once('=') {
            Some(("base", v)) => base = Some(parse::<IpNet>(v, "default-address-pool base")?),
            Some(("size", v)) => size = Some(parse::<u8>(v, "default-address-pool size")?),
            _ => bail!("default-address-pool {text:?}: base=CIDR,size=BITS is expected"),
        }
    }
    let (Some(base), Some(size)) = (base, size) else {
        bail!("default-address-pool {text:?}: base=CIDR,size=BITS is expected")
    };
    if size < base.prefix_len() || size > base.max_prefix_len() {
        bail!("default-address-pool {text:?}: networks of {size} bits don't fit in {base}");
    }
    Ok((base, size))
}

fn logs(settings: &Settings, config: &mut EngineConfig) -> Result<()> {
    if let Some(driver) = &settings.log_driver {
        if *driver != config.log.driver {
            // They are json-file's; every driver has defaults of its own.
            config.log.options.clear();
        }
        config.log.driver.clone_from(driver);
    }
    for option in &settings.log_opts {
        let Some((key, value)) = option.split_once('=') else {
            bail!("log-opt {option:?}: KEY=VALUE is expected")
        };
        config.log.options.insert(key.to_owned(), value.to_owned());
    }
    Ok(())
}

fn runtimes(settings: &Settings, config: &mut EngineConfig) -> Result<()> {
    for runtime in &settings.runtimes {
        let Some((name, path)) = runtime.split_once('=') else {
            bail!("add-runtime {runtime:?}: NAME=PATH is expected")
        };
        config.runtimes.insert(name.to_owned(), sampan_engine::search_path(Path::new(path)));
    }
    config.default_runtime.clone_from(&settings.default_runtime);
    Ok(())
}

/// `64m`: a number of bytes with an optional unit of 1024 (b, k, m, g).
fn bytes(text: &str) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = match text[digits.len()..].to_ascii_lowercase().trim_end_matches('b') {
        "" => 1,
        "k" => 1 << 10,
        "m" => 1 << 20,
        "g" => 1 << 30,
        unit => bail!("size {text:?}: unknown unit {unit:?}"),
    };
    let number: u64 = parse(digits, "size")?;
    number.checked_mul(factor).with_context(|| format!("size {text:?} is too large"))
}

/// `nofile=1024:2048`
fn ulimit(text: &str) -> Result<(String, i64, i64)> {
    let Some((name, limits)) = text.split_once('=') else {
        bail!("default-ulimit {text:?}: NAME=SOFT[:HARD] is expected")
    };
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Ok((name.to_owned(), parse(soft, "default-ulimit")?, parse(hard, "default-ulimit")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instances_have_names_of_their_own() {
        assert_eq!(instance_name(Path::new("/run/sampan")), "sampan");
        let other = instance_name(Path::new("/tmp/a/exec"));
        assert!(other.starts_with("sampan-") && other.len() == 15);
        assert_ne!(other, instance_name(Path::new("/tmp/b/exec")));
    }

    #[test]
    fn text_becomes_values() {
        assert_eq!(bytes("64m").unwrap(), 64 << 20);
        assert_eq!(bytes("1Gb").unwrap(), 1 << 30);
        assert!(bytes("5x").is_err() && bytes("").is_err());
        assert_eq!(ulimit("nofile=1:2").unwrap(), ("nofile".to_owned(), 1, 2));
        assert!(address_pool("base=10.0.0.0/8,size=24").is_ok());
        assert!(address_pool("base=10.0.0.0/16,size=8").is_err());
    }

    #[test]
    fn wrong_values_name_the_setting() {
        let wrong = Settings { bip: Some("1.2.3".to_owned()), ..Settings::default() };
        assert!(format!("{:#}", engine(&wrong).unwrap_err()).contains("bip"));
    }
}
