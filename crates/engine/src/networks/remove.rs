//! Removing networks.

use std::sync::Arc;

use sampan_types::{EventType, Timestamp};
use serde_json::{Value, json};

use super::forbidden;
use super::record::NetworkRecord;
use crate::filters::Filters;
use crate::{Engine, Result};

impl Engine {
    /// Removes a network.
    ///
    /// # Errors
    /// No such network, a predefined one, containers on it.
    pub async fn network_remove(&self, name: &str) -> Result<()> {
        let network = self.network_table().resolve(name)?;
        if network.is_predefined() {
            return Err(forbidden(format!(
                "{} is a pre-defined network and cannot be removed",
                network.name
            )));
        }
        let engine = self.clone();
        self.detached(async move { engine.drop_network(&network).await }).await
    }

    /// The kernel's part goes first: a crash between the two leaves a record
    /// whose network is made again at start.
    async fn drop_network(&self, network: &Arc<NetworkRecord>) -> Result<()> {
        let table = self.network_table();
        let _change = table.changes.lock().await;
        if table.get(&network.id).is_none() {
            return Ok(());
        }
        let on = self.containers_on(network);
        if !on.is_empty() {
            let on: Vec<String> = on
                .iter()
                .map(|r| format!("name:{:?} id:{:?}", r.name.as_str(), r.id.short()))
                .collect();
            return Err(forbidden(format!(
                "error while removing network: network {} has active endpoints ({})",
                network.name,
                on.join(", ")
            )));
        }
        let dependent = |n: &&Arc<NetworkRecord>| n.config_from.as_ref() == Some(&network.name);
        let all = table.all();
        if let Some(other) = all.iter().find(dependent).filter(|_| network.config_only) {
            return Err(forbidden(format!(
                "configuration network {:?} is in use by network {}",
                network.name, other.name
            )));
        }
        crate::fault!("network-remove:before-kernel");
        self.networks().delete_network(&network.id).await?;
        crate::fault!("network-remove:after-kernel");
        table.delete(network).await?;
        crate::fault!("network-remove:after-record");
        self.release_pools(network).await;
        self.network_event(network, "destroy");
        Ok(())
    }

    /// Removes the networks that no container is on, running or not.
    ///
    /// # Errors
    /// When a filter is wrong.
    pub async fn network_prune(&self, filters: &Filters) -> Result<Value> {
        filters.validate(&["label", "label!", "until"])?;
        let until = filters.time("until", Timestamp::now())?;
        let mut removed = Vec::new();
        for network in self.network_table().all() {
            let label = |key: &str| network.labels.get(key).map(String::as_str);
            if network.is_predefined()
                || !filters.labels_and_not(label)
                || until.is_some_and(|u| network.created > u)
                || self.refers_to(&network)
            {
                continue;
            }
            match self.network_remove(network.id.as_str()).await {
                Ok(()) => removed.push(network.name.clone()),
                // One that came into use meanwhile.
                Err(error) => tracing::warn!(network = %network.name, %error, "it is not pruned"),
            }
        }
        self.event_bus().publish(EventType::Network, "prune", "", [("reclaimed", "0")]);
        Ok(json!({ "NetworksDeleted": crate::container_view::null_if_empty(&removed) }))
    }

    /// Whether a container, running or not, is configured for a network.
    fn refers_to(&self, network: &NetworkRecord) -> bool {
        let on = |r: &crate::record::ContainerRecord| {
            r.networking
                .endpoints
                .iter()
                .any(|(name, e)| e.network == network.id || *name == network.name)
        };
        self.containers().iter().any(|c| on(&c.record()))
    }
}
