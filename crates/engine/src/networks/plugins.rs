//! Networks that programs of others make: drivers that are not built in.

use sampan_net::DriverConfig;

use super::drivers::DriverInput;
use crate::{Engine, EngineError, Result};

/// The configuration of a network of a driver that is not built in.
///
/// # Errors
/// There is no such driver.
pub(super) async fn driver(_engine: &Engine, input: DriverInput<'_>) -> Result<DriverConfig> {
    let driver = input.driver;
    Err(EngineError::NotFound(format!(
        "could not find plugin {driver} in v1 plugin registry: plugin {driver:?} not found"
    )))
}
