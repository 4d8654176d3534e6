//! What a driver has to remember of what programs of others made for it: one
//! file for each network and endpoint, below the instance's volatile directory.
//!
//! Be aware:
//! - A note is written before the program is asked, and removed after it undid
//!   what it did: what died between is found here, and undone.

use std::io;
use std::path::PathBuf;

use sampan_types::{EndpointId, NetworkId, SandboxId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{AttachRequest, ObservedEndpoint};
use crate::config::{Attachment, DriverConfig, EndpointSpec};
use crate::error::NetError;

/// A network that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct NetworkNote {
    /// The network.
    pub network: NetworkId,
    /// By what it was made.
    pub driver: DriverConfig,
}

/// An endpoint that is, or was about to be, attached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct EndpointNote {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The endpoint.
    pub endpoint: EndpointSpec,
    /// The network's name.
    pub network_name: String,
    /// By what it is attached.
    pub driver: DriverConfig,
    /// The interface's name inside.
    pub interface: String,
    /// The interface's name on the host, when it came from there.
    pub source: Option<String>,
    /// What it was attached as; none while that goes on.
    pub attachment: Option<Attachment>,
}

impl EndpointNote {
    /// The note of an endpoint that is about to be attached, under the name
    /// that its interface shall have.
    pub fn new(request: &AttachRequest) -> Result<Self, NetError> {
        let network = &request.network;
        let interface = match &request.interface {
            Some(name) => name.clone(),
            None => request.namespace.free_interface("eth").map_err(NetError::kernel(format!(
                "attach a sandbox to network {}",
                network.name
            )))?,
        };
        Ok(Self {
            sandbox: request.sandbox.clone(),
            endpoint: request.endpoint.clone(),
            network_name: network.name.clone(),
            driver: network.driver.clone(),
            interface,
            source: None,
            attachment: None,
        })
    }

    /// What is observed of it.
    pub fn observed(self) -> ObservedEndpoint {
        ObservedEndpoint {
            sandbox: self.sandbox,
            endpoint: self.endpoint.endpoint,
            host_interface: self.source.unwrap_or(self.interface),
            peer: 0,
            master: None,
            up: true,
            isolated: false,
            hairpin: false,
        }
    }
}

/// The notes of one driver.
#[derive(Debug)]
pub(super) struct Notes {
    dir: PathBuf,
}

fn network_file(network: &NetworkId) -> String {
    format!("network-{network}")
}

fn endpoint_file(endpoint: &EndpointId) -> String {
    format!("endpoint-{endpoint}")
}

fn past_file(endpoint: &EndpointId) -> String {
    format!("past-{endpoint}")
}

impl Notes {
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub async fn network(&self, network: &NetworkId) -> Result<Option<NetworkNote>, NetError> {
        self.read(&network_file(network)).await
    }

    pub async fn networks(&self) -> Result<Vec<NetworkNote>, NetError> {
        self.all("network-").await
    }

    pub async fn add_network(&self, note: &NetworkNote) -> Result<(), NetError> {
        self.write(&network_file(&note.network), note).await
    }

    pub async fn remove_network(&self, network: &NetworkId) -> Result<(), NetError> {
        self.remove(&network_file(network)).await
    }

    pub async fn endpoint(&self, endpoint: &EndpointId) -> Result<Option<EndpointNote>, NetError> {
        self.read(&endpoint_file(endpoint)).await
    }

    pub async fn endpoints(&self) -> Result<Vec<EndpointNote>, NetError> {
        self.all("endpoint-").await
    }

    pub async fn add_endpoint(&self, note: &EndpointNote) -> Result<(), NetError> {
        self.write(&endpoint_file(&note.endpoint.endpoint), note).await
    }

    pub async fn remove_endpoint(&self, endpoint: &EndpointId) -> Result<(), NetError> {
        self.remove(&endpoint_file(endpoint)).await
    }

    /// What the programs said of an endpoint, in a driver's own form.
    pub async fn past<T: DeserializeOwned>(
        &self,
        endpoint: &EndpointId,
    ) -> Result<Option<T>, NetError> {
        self.read(&past_file(endpoint)).await
    }

    pub async fn add_past<T: Serialize>(
        &self,
        endpoint: &EndpointId,
        past: &T,
    ) -> Result<(), NetError> {
        self.write(&past_file(endpoint), past).await
    }

    pub async fn remove_past(&self, endpoint: &EndpointId) -> Result<(), NetError> {
        self.remove(&past_file(endpoint)).await
    }

    fn failed(
        &self,
        operation: &'static str,
        file: &str,
    ) -> impl FnOnce(io::Error) -> NetError + use<> {
        let path = self.dir.join(file);
        move |source| NetError::Note { operation, path, source }
    }

    async fn write<T: Serialize>(&self, file: &str, note: &T) -> Result<(), NetError> {
        let written = async {
            tokio::fs::create_dir_all(&self.dir).await?;
            // A half-written note is never seen under the file's name.
            let part = self.dir.join(format!(".{file}"));
            tokio::fs::write(&part, serde_json::to_vec(note)?).await?;
            tokio::fs::rename(&part, self.dir.join(file)).await
        };
        written.await.map_err(self.failed("write", file))
    }

    async fn read<T: DeserializeOwned>(&self, file: &str) -> Result<Option<T>, NetError> {
        match tokio::fs::read(self.dir.join(file)).await {
            Ok(bytes) => {
                let note = serde_json::from_slice(&bytes).map_err(io::Error::from);
                note.map(Some).map_err(self.failed("read", file))
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failed("read", file)(e)),
        }
    }

    async fn remove(&self, file: &str) -> Result<(), NetError> {
        match tokio::fs::remove_file(self.dir.join(file)).await {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(self.failed("remove", file)(e)),
            _ => Ok(()),
        }
    }

    /// What can't be read is reported, and left.
    async fn all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<T>, NetError> {
        let mut entries = match tokio::fs::read_dir(&self.dir).await {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.failed("list", "")(e)),
        };
        let mut notes = Vec::new();
        while let Some(entry) = entries.next_entry().await.map_err(self.failed("list", ""))? {
            let file = entry.file_name().to_string_lossy().into_owned();
            if !file.starts_with(prefix) {
                continue;
            }
            match self.read(&file).await {
                Ok(note) => notes.extend(note),
                Err(e) => tracing::warn!(error = %e, "a note is left out"),
            }
        }
        Ok(notes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CniConfig;

    #[tokio::test]
    async fn notes_are_kept_until_they_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let notes = Notes::new(dir.path().join("below"));
        assert_eq!(notes.networks().await.unwrap(), []);
        let driver = DriverConfig::Cni(CniConfig { file: "/x".into(), list: "{}".to_owned() });
        let note = NetworkNote { network: NetworkId::random(), driver };
        notes.add_network(&note).await.unwrap();
        notes.add_network(&note).await.unwrap();
        assert_eq!(notes.network(&note.network).await.unwrap(), Some(note.clone()));
        assert_eq!(notes.networks().await.unwrap(), std::slice::from_ref(&note));
        assert_eq!(notes.endpoints().await.unwrap(), []);
        std::fs::write(dir.path().join("below/network-broken"), "{").unwrap();
        assert_eq!(notes.networks().await.unwrap().len(), 1, "a broken one is left out");
        notes.remove_network(&note.network).await.unwrap();
        notes.remove_network(&note.network).await.unwrap();
        assert_eq!(notes.network(&note.network).await.unwrap(), None);
    }
}
