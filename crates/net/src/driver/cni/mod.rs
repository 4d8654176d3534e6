//! Networks that CNI plugins make: a list of programs, each of which adds its
//! part to a sandbox.
//!
//! Be aware:
//! - The plugins choose the addresses and set everything up themselves; what
//!   they did is read from the last one's result.
//! - A result is noted (see [`Notes`]): the plugins want it back when the
//!   endpoint goes, also after a crash.
//! - The list that counts is the one that was read when the network was made.
//!   A file that changes later changes no network.

mod exec;
mod list;
mod result;

use std::path::PathBuf;

use sampan_types::EndpointId;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::notes::{EndpointNote, Notes};
use super::{AttachRequest, BoxFuture, DetachRequest, Driver, Observed, ObservedEndpoint};
use crate::config::{Attachment, CniConfig, DriverConfig, NetworkSpec};
use crate::error::NetError;

use exec::Invocation;
use list::List;

/// The driver of CNI networks.
#[derive(Debug)]
pub(crate) struct Cni {
    /// Where plugins are looked for.
    path: Vec<PathBuf>,
    notes: Notes,
    /// Where the namespaces' names are.
    namespaces: PathBuf,
}

/// What the plugins are told when an endpoint goes.
#[derive(Debug, Serialize, Deserialize)]
struct Past {
    result: Option<Value>,
}

impl CniConfig {
    /// A network by the list in `file`, whose text is `list`.
    ///
    /// # Errors
    /// Why it is no network configuration list.
    pub fn parse(file: PathBuf, list: String) -> Result<Self, String> {
        List::parse(&list).map_err(|e| format!("{}: {e}", file.display()))?;
        Ok(Self { file, list })
    }
}

impl Cni {
    /// Plugins are looked for in `path`; notes are below `dir`, names of
    /// namespaces in `namespaces`.
    pub fn new(path: Vec<PathBuf>, dir: PathBuf, namespaces: PathBuf) -> Self {
        let known = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
        let path = path.into_iter().chain(known.map(PathBuf::from)).collect();
        Self { path, notes: Notes::new(dir), namespaces }
    }

    fn list(network: &str, driver: &DriverConfig) -> Result<List, NetError> {
        let DriverConfig::Cni(config) = driver else {
            return Err(NetError::NotSupported {
                what: format!("network {network} by CNI plugins"),
            });
        };
        List::parse(&config.list)
            .map_err(|reason| NetError::InvalidNetwork { network: network.to_owned(), reason })
    }

    /// Nothing is made before the first endpoint: only looks whether the
    /// plugins are there.
    fn check_network(&self, network: &NetworkSpec) -> Result<Vec<String>, NetError> {
        let list = Self::list(&network.name, &network.driver)?;
        for (kind, _) in list.plugins() {
            exec::program(kind, &self.path).map_err(|reason| NetError::InvalidNetwork {
                network: network.name.clone(),
                reason,
            })?;
        }
        Ok(Vec::new())
    }

    async fn attach_endpoint(&self, request: AttachRequest) -> Result<Attachment, NetError> {
        let network = &request.network;
        let list = Self::list(&network.name, &network.driver)?;
        let mut note = EndpointNote::new(&request)?;
        self.notes.add_endpoint(&note).await?;
        let made = self.add(&list, &note).await;
        match made {
            Ok(attachment) => {
                note.attachment = Some(attachment.clone());
                self.notes.add_endpoint(&note).await?;
                Ok(attachment)
            }
            Err(e) => {
                if let Err(also) = self.delete(&note).await {
                    tracing::warn!(network = network.name, error = %also, "failed to take an endpoint back from CNI plugins");
                }
                Err(e)
            }
        }
    }

    async fn add(&self, list: &List, note: &EndpointNote) -> Result<Attachment, NetError> {
        let failed =
            |reason| NetError::InvalidEndpoint { network: note.network_name.clone(), reason };
        let mut result: Option<Value> = None;
        for (kind, plugin) in list.plugins() {
            let input = list.input(plugin, result.as_ref(), &note.endpoint);
            let answer = self.run(kind, "ADD", note, &input).await.map_err(failed)?;
            if !answer.is_null() {
                result = Some(answer);
            }
            self.notes.add_past(&note.endpoint.endpoint, &Past { result: result.clone() }).await?;
        }
        let result = result.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
        result::attachment(&note.endpoint, &note.interface, &result).map_err(failed)
    }

    async fn run(
        &self,
        kind: &str,
        command: &str,
        note: &EndpointNote,
        input: &Value,
    ) -> Result<Value, String> {
        let netns = self.namespaces.join(note.sandbox.as_str());
        let invocation = Invocation {
            command,
            container: note.sandbox.as_str(),
            netns: &netns,
            interface: &note.interface,
        };
        exec::run(kind, &self.path, &invocation, input).await
    }

    /// Lets the plugins undo what they did, the last one first. Each of them
    /// is asked, whatever the others say.
    async fn delete(&self, note: &EndpointNote) -> Result<(), NetError> {
        let list = Self::list(&note.network_name, &note.driver)?;
        let endpoint = &note.endpoint.endpoint;
        let past: Option<Past> = self.notes.past(endpoint).await?;
        let result = past.and_then(|p| p.result);
        let mut failed = None;
        for (kind, plugin) in list.plugins().rev() {
            let input = list.input(plugin, result.as_ref(), &note.endpoint);
            if let Err(reason) = self.run(kind, "DEL", note, &input).await {
                failed.get_or_insert(reason);
            }
        }
        if let Some(reason) = failed {
            return Err(NetError::InvalidEndpoint { network: note.network_name.clone(), reason });
        }
        self.notes.remove_past(endpoint).await?;
        self.notes.remove_endpoint(endpoint).await
    }

    async fn undo(&self, endpoint: &EndpointId) -> Result<(), NetError> {
        match self.notes.endpoint(endpoint).await? {
            Some(note) => self.delete(&note).await,
            None => Ok(()),
        }
    }

    async fn restore_endpoint(
        &self,
        request: AttachRequest,
    ) -> Result<(Attachment, bool), NetError> {
        if let Some(note) = self.notes.endpoint(&request.endpoint.endpoint).await? {
            if let Some(attachment) = note.attachment.clone()
                && note.sandbox == request.sandbox
                && self.is_whole(&request, &note).await?
            {
                return Ok((attachment, false));
            }
            self.delete(&note).await?;
        }
        Ok((self.attach_endpoint(request).await?, true))
    }

    /// Whether the plugins find what they did; of those that can't say, whether
    /// the interface is there.
    async fn is_whole(
        &self,
        request: &AttachRequest,
        note: &EndpointNote,
    ) -> Result<bool, NetError> {
        let list = Self::list(&note.network_name, &note.driver)?;
        if !list.has_check() {
            let link = request.namespace.route().link(&note.interface);
            return Ok(link.is_ok_and(|l| l.is_some_and(|l| l.up)));
        }
        let past: Option<Past> = self.notes.past(&note.endpoint.endpoint).await?;
        let result = past.and_then(|p| p.result);
        for (kind, plugin) in list.plugins() {
            let input = list.input(plugin, result.as_ref(), &note.endpoint);
            if let Err(reason) = self.run(kind, "CHECK", note, &input).await {
                tracing::info!(
                    network = note.network_name,
                    reason,
                    "an endpoint is not as its plugins made it"
                );
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn observe_all(&self) -> Result<Observed, NetError> {
        let endpoints = self.notes.endpoints().await?;
        let endpoints = endpoints.into_iter().map(EndpointNote::observed);
        Ok(Observed { networks: Vec::new(), endpoints: endpoints.collect() })
    }
}

impl Driver for Cni {
    fn create_network<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<Vec<String>, NetError>> {
        Box::pin(async move { self.check_network(network) })
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>> {
        Box::pin(self.attach_endpoint(request))
    }

    fn restore(
        &self,
        request: AttachRequest,
        _found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>> {
        Box::pin(self.restore_endpoint(request))
    }

    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move { self.undo(&request.endpoint.endpoint).await })
    }

    fn discard_endpoint<'a>(
        &'a self,
        endpoint: &'a ObservedEndpoint,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(self.undo(&endpoint.endpoint))
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, NetError>> {
        Box::pin(self.observe_all())
    }
}
