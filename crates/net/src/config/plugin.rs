//! Networks that programs of others make.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Subnet;

/// A network of a plugin that speaks libnetwork's remote driver protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteConfig {
    /// The plugin's name.
    pub plugin: String,
    /// The driver's options as the user gave them.
    pub options: BTreeMap<String, String>,
    /// The subnets.
    pub subnets: Vec<Subnet>,
    /// No way out but to containers on it.
    pub internal: bool,
}

/// A network that CNI plugins make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CniConfig {
    /// The network configuration list (`-o conf=FILE`), where it was read from.
    pub file: PathBuf,
    /// Its text when the network was made, which is what counts.
    pub list: String,
}
