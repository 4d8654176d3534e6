//! Networks that programs of others make: drivers that are not built in.

use std::path::PathBuf;

use sampan_net::{CniConfig, DriverConfig, RemoteConfig};
use sampan_plugin::{PluginError, PluginKind};

use super::drivers::DriverInput;
use crate::{Engine, EngineError, Result};

/// The driver whose networks CNI plugins make.
pub(super) const CNI: &str = "cni";

/// The longest network configuration list that is read.
const LONGEST: u64 = 1 << 20;

/// The configuration of a network of a driver that is not built in.
///
/// # Errors
/// There is no such driver; an option is wrong.
pub(super) async fn driver(engine: &Engine, input: DriverInput<'_>) -> Result<DriverConfig> {
    if input.driver == CNI {
        return cni(engine, input).await;
    }
    let DriverInput { driver, options, subnets, internal, .. } = input;
    match engine.plugins().get(driver, PluginKind::Network).await {
        Ok(_) => {
            let plugin = driver.to_owned();
            Ok(DriverConfig::Remote(RemoteConfig { plugin, options, subnets, internal }))
        }
        Err(PluginError::NotFound { .. }) => Err(EngineError::NotFound(format!(
            "could not find plugin {driver} in v1 plugin registry: plugin {driver:?} not found"
        ))),
        Err(e) => Err(EngineError::part(e)),
    }
}

/// `-o conf=FILE`
async fn cni(engine: &Engine, input: DriverInput<'_>) -> Result<DriverConfig> {
    let DriverInput { name, mut options, subnets, internal, .. } = input;
    let file = options.remove("conf").map(PathBuf::from);
    let invalid = |reason: String| Err(EngineError::Invalid(format!("network {name}: {reason}")));
    let Some(file) = file.filter(|f| f.is_absolute()) else {
        return invalid(
            "driver cni needs the path of a network configuration list: -o conf=/etc/cni/net.d/…"
                .to_owned(),
        );
    };
    if let Some(option) = options.keys().next() {
        return invalid(format!("option {option} is not supported by driver cni"));
    }
    if !subnets.is_empty() {
        return invalid(
            "the plugins of driver cni choose the addresses: name no subnet".to_owned(),
        );
    }
    if internal {
        return invalid("driver cni has no internal networks: say so in the list".to_owned());
    }
    let path = file.clone();
    let read = move || -> std::io::Result<String> {
        let length = std::fs::metadata(&path)?.len();
        if length > LONGEST {
            return Err(std::io::Error::other(format!("{length} bytes are too many")));
        }
        std::fs::read_to_string(&path)
    };
    let shown = file.display().to_string();
    let list = engine
        .blocking(move || read().map_err(|e| EngineError::io("read", shown, e)))
        .await
        .map_err(|e| EngineError::Invalid(format!("network {name}: {e}")))?;
    match CniConfig::parse(file, list) {
        Ok(config) => Ok(DriverConfig::Cni(config)),
        Err(reason) => invalid(reason),
    }
}
