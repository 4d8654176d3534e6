//! Plugins of Docker's protocol: programs of others, behind a socket, that
//! drive networks, addresses and volumes.
//!
//! ```text
//! name ─discover─> address ─activate─> what it implements ─call─> POST /Kind.Method
//! ```
//!
//! Be aware:
//! - A plugin is found by its name when it is needed, never before: it may be
//!   a container of this very engine, and a daemon must start without it.
//! - A plugin is not trusted to answer: each call has a limit in time, each
//!   answer one in size.
//! - Source: Docker's documentation of the plugin API (discovery, activation,
//!   `application/vnd.docker.plugins.v1.2+json`).
#![forbid(unsafe_code)]

mod client;
mod discover;
mod error;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

pub use discover::{Address, Places};
pub use error::{CallError, PluginError};

/// What a plugin may drive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PluginKind {
    /// Networks.
    Network,
    /// Addresses.
    Ipam,
    /// Volumes.
    Volume,
}

impl PluginKind {
    /// The name in the protocol, which begins the methods' names too.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "NetworkDriver",
            Self::Ipam => "IpamDriver",
            Self::Volume => "VolumeDriver",
        }
    }
}

/// The plugins of a host. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Plugins {
    places: Arc<Places>,
    /// What answered before. Locked for a moment at a time.
    known: Arc<Mutex<HashMap<String, Arc<Plugin>>>>,
}

/// A plugin that answered.
#[derive(Debug)]
pub struct Plugin {
    name: String,
    address: Address,
    implements: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    #[serde(rename = "Implements", default)]
    implements: Vec<String>,
}

impl Plugins {
    /// The plugins of Docker's own directories, and of `further` ones that are
    /// looked at first.
    #[must_use]
    pub fn new(further: Vec<PathBuf>) -> Self {
        Self { places: Arc::new(Places::with(further)), known: Arc::default() }
    }

    /// The names of the plugins that there are, without asking them anything.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.places.names()
    }

    /// The plugin of this name, which has to drive `kind`.
    ///
    /// # Errors
    /// None of this name; it does not answer; it drives something else.
    pub async fn get(&self, name: &str, kind: PluginKind) -> Result<Arc<Plugin>, PluginError> {
        let address = self.places.find(name)?;
        let known = self.known().get(name).filter(|p| p.address == address).cloned();
        let plugin = match known {
            Some(plugin) => plugin,
            None => {
                let plugin = Arc::new(activate(name, address).await?);
                self.known().insert(name.to_owned(), Arc::clone(&plugin));
                plugin
            }
        };
        if plugin.drives(kind) {
            return Ok(plugin);
        }
        // It may have been replaced by a better one under the same address.
        self.known().remove(name);
        let implements = plugin.implements.join(", ");
        Err(PluginError::WrongKind { name: name.to_owned(), wanted: kind.as_str(), implements })
    }

    /// The names of the plugins that drive `kind`, as far as they were asked.
    #[must_use]
    pub fn driving(&self, kind: PluginKind) -> Vec<String> {
        let known = self.known();
        let driving = known.iter().filter(|(_, p)| p.drives(kind));
        let mut names: Vec<String> = driving.map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<Plugin>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn activate(name: &str, address: Address) -> Result<Plugin, PluginError> {
    let mut plugin = Plugin { name: name.to_owned(), address, implements: Vec::new() };
    let manifest: Manifest = plugin.call("Plugin.Activate", &serde_json::Value::Null).await?;
    plugin.implements = manifest.implements;
    Ok(plugin)
}

impl Plugin {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it drives this.
    #[must_use]
    pub fn drives(&self, kind: PluginKind) -> bool {
        self.implements.iter().any(|i| i == kind.as_str())
    }

    /// Calls a method, `NetworkDriver.Join` or the like.
    ///
    /// # Errors
    /// It can't be reached, takes too long, refuses, or answers nonsense.
    pub async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        method: &str,
        request: &Q,
    ) -> Result<A, PluginError> {
        let asked = |reason| PluginError::call(&self.name, method, reason);
        let body = serde_json::to_vec(request).map_err(|e| asked(e.into()))?;
        let answer = client::post(&self.address, method, body).await.map_err(asked)?;
        serde_json::from_slice(&answer).map_err(|e| asked(e.into()))
    }
}
