//! Checks of the configuration that need nothing but itself and the programs
//! it names: at the daemon's start and for `--validate`. Whatever is wrong is
//! said then, not when the first container needs it.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ipnet::Ipv6Net;
use sampan_image::registry::{InsecureRegistries, Mirror};
use sampan_runtime::{logs, spec};
use sampan_types::docker::ResourcesUlimits;

use crate::EngineConfig;
use crate::container::namespaces::{BUILTIN, find_runtime};
use crate::error::{EngineError, Result};

impl EngineConfig {
    /// Checks everything that can be checked without a running engine.
    ///
    /// # Errors
    /// The first thing that is wrong, with the name of its setting.
    pub fn check(&self) -> Result<()> {
        logs::validate(&self.log.driver, &self.log.options)
            .map_err(|e| EngineError::part(e).context("log-driver and log-opts"))?;
        spec::check_ulimits(&self.default_ulimits())
            .map_err(|e| EngineError::part(e).context("default-ulimits"))?;
        self.check_runtimes()?;
        self.check_registries()?;
        self.check_networks()?;
        check_labels(&self.labels)?;
        if self.shm_size == 0 {
            return invalid("default-shm-size 0: give a size such as 64m");
        }
        Ok(())
    }

    /// The `default-ulimits` in the API's form.
    pub(crate) fn default_ulimits(&self) -> Vec<ResourcesUlimits> {
        let limit = |(name, soft, hard): &(String, i64, i64)| ResourcesUlimits {
            name: Some(name.clone()),
            soft: Some(*soft),
            hard: Some(*hard),
        };
        self.ulimits.iter().map(limit).collect()
    }

    fn check_runtimes(&self) -> Result<()> {
        for (name, path) in &self.runtimes {
            if BUILTIN.contains(&name.as_str()) {
                return invalid(format!("runtime {name:?}: the name is the built-in runtime's"));
            }
            program("runtime", path).map_err(|e| e.context(format!("runtime {name}")))?;
        }
        let default = self.default_runtime.as_deref().unwrap_or_default();
        find_runtime(default, self).map_err(|e| e.context("default-runtime"))?;
        match &self.init_path {
            Some(path) => program("init-path", path),
            None => Ok(()),
        }
    }

    fn check_registries(&self) -> Result<()> {
        for mirror in &self.registry_mirrors {
            Mirror::parse(mirror).map_err(EngineError::part)?;
        }
        InsecureRegistries::parse(&self.insecure_registries).map_err(EngineError::part)?;
        let numbers = [
            ("max-concurrent-downloads", self.max_concurrent_downloads),
            ("max-concurrent-uploads", self.max_concurrent_uploads),
        ];
        match numbers.iter().find(|(_, n)| *n == 0) {
            Some((name, _)) => invalid(format!("{name} 0: at least 1 is needed")),
            None => Ok(()),
        }
    }

    fn check_networks(&self) -> Result<()> {
        for (base, _) in &self.address_pools {
            if base.trunc() != *base {
                return invalid(format!(
                    "default-address-pool {base}: the network's address is {}",
                    base.trunc()
                ));
            }
        }
        let Some(bridge) = &self.bridge else { return Ok(()) };
        if let (Some(address), Some(range)) = (bridge.address, bridge.fixed_cidr)
            && !address.contains(&range)
        {
            return invalid(format!(
                "fixed-cidr {range}: it must lie within the bridge's network {}",
                address.trunc()
            ));
        }
        if let (Some(address), Some(range)) = (bridge.address6, bridge.fixed_cidr6)
            && !address.contains(&range)
        {
            return invalid(format!(
                "fixed-cidr-v6 {range}: it must lie within the bridge's network {}",
                address.trunc()
            ));
        }
        for (setting, net) in [("bip6", bridge.address6), ("fixed-cidr-v6", bridge.fixed_cidr6)] {
            if let Some(net) = net
                && let Some(what) = unusable6(&net)
            {
                return invalid(format!("{setting} {net}: {what}"));
            }
        }
        match bridge.gateway {
            Some(gateway) => Err(EngineError::NotSupported(format!(
                "default-gateway {gateway}: only the bridge's own address can be the containers' \
                 gateway; set that with bip"
            ))),
            None => Ok(()),
        }
    }
}

/// Why containers can't have addresses of an IPv6 network, if they can't.
fn unusable6(net: &Ipv6Net) -> Option<&'static str> {
    let first = net.network();
    if net.prefix_len() > 126 {
        return Some("it has no room for a container");
    }
    if first.is_multicast() || first.is_loopback() || first.is_unspecified() {
        return Some("containers need a network of unicast addresses");
    }
    first.is_unicast_link_local().then_some(
        "link-local addresses lead nowhere from the bridge: give a unique local network (fd00::/8)",
    )
}

fn invalid<T>(message: impl Into<String>) -> Result<T> {
    Err(EngineError::Invalid(message.into()))
}

/// A program that is named by its whole path.
fn program(setting: &'static str, path: &Path) -> Result<()> {
    if !path.is_absolute() {
        return invalid(format!("{setting} {}: a whole path is needed", path.display()));
    }
    let metadata =
        std::fs::metadata(path).map_err(|e| EngineError::io(setting, path.display(), e))?;
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return invalid(format!("{setting} {}: it is not an executable file", path.display()));
    }
    Ok(())
}

/// `KEY=VALUE`, each key with one value.
fn check_labels(labels: &[String]) -> Result<()> {
    let mut known = BTreeMap::new();
    for label in labels {
        let Some((key, value)) = label.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return invalid(format!("label {label:?}: KEY=VALUE is expected"));
        };
        if known.insert(key, value).is_some_and(|old| old != value) {
            return invalid(format!("label {key:?} is given two values"));
        }
    }
    Ok(())
}

/// Makes the runtimes' paths whole: those without a slash are searched in
/// `PATH`, as dockerd does.
#[must_use]
pub fn search_path(name: &Path) -> PathBuf {
    if name.components().count() != 1 || name.is_absolute() {
        return name.to_owned();
    }
    let search = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&search).map(|dir| dir.join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut EngineConfig)) -> String {
        let mut config = EngineConfig::new("/d".into(), "/e".into(), "/p".into());
        assert!(config.check().is_ok());
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn what_is_wrong_is_named() {
        let has = |text: String, word: &str| assert!(text.contains(word), "{word} in {text}");
        has(refused(|c| c.log.driver = "gelf".into()), "gelf");
        has(refused(|c| drop(c.log.options.insert("max-sise".into(), "1".into()))), "max-sise");
        has(refused(|c| c.ulimits.push(("files".into(), 1, 2))), "files");
        has(refused(|c| c.ulimits.push(("nofile".into(), 3, 2))), "default-ulimits");
        has(refused(|c| c.labels = vec!["a=1".into(), "a=2".into()]), "\"a\"");
        has(refused(|c| c.labels = vec!["a".into()]), "KEY=VALUE");
        has(refused(|c| c.max_concurrent_uploads = 0), "max-concurrent-uploads");
        has(refused(|c| c.registry_mirrors.push("ftp://x".into())), "mirror");
        has(refused(|c| c.insecure_registries.push("http://x/y".into())), "insecure registry");
        has(refused(|c| c.address_pools.push(("fd00::1/48".parse().unwrap(), 64))), "fd00::/48");
        has(refused(|c| c.default_runtime = Some("no-such-runtime".into())), "no-such-runtime");
        has(refused(|c| drop(c.runtimes.insert("x".into(), "/etc/passwd".into()))), "executable");
        has(refused(|c| drop(c.runtimes.insert("sampan".into(), "/bin/sh".into()))), "built-in");
        has(refused(|c| c.init_path = Some("tini".into())), "whole path");
        let gateway = Some("10.0.0.9".parse().unwrap());
        has(refused(|c| c.bridge.as_mut().unwrap().gateway = gateway), "default-gateway");
    }

    #[test]
    fn names_are_searched() {
        assert!(search_path(Path::new("sh")).is_absolute());
        assert_eq!(search_path(Path::new("/x/y")), Path::new("/x/y"));
        assert_eq!(search_path(Path::new("no-such-program")), Path::new("no-such-program"));
    }
}
