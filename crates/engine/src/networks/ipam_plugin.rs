//! Subnets and addresses that a plugin manages (source: libnetwork's
//! `docs/ipam.md`).
//!
//! Be aware:
//! - The plugin is asked before anything is written, and told after everything
//!   is gone. What was asked for and never used is given back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_plugin::{Plugin, PluginKind};
use serde::{Deserialize, Serialize};

use super::ipam::Families;
use super::record::IpamRecord;
use crate::{Engine, EngineError, Result};

/// The option by which a gateway's address is asked for.
const REQUEST_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Spaces {
    local_default_address_space: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct RequestPool<'a> {
    address_space: &'a str,
    pool: String,
    sub_pool: String,
    options: &'a BTreeMap<String, String>,
    #[serde(rename = "V6")]
    v6: bool,
}

#[derive(Debug, Deserialize)]
struct Pool {
    #[serde(rename = "PoolID")]
    id: String,
    #[serde(rename = "Pool")]
    pool: String,
    #[serde(rename = "Data", default)]
    data: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Serialize)]
struct ReleasePool<'a> {
    #[serde(rename = "PoolID")]
    id: &'a str,
}

#[derive(Debug, Serialize)]
struct RequestAddress<'a> {
    #[serde(rename = "PoolID")]
    pool: &'a str,
    #[serde(rename = "Address")]
    address: String,
    #[serde(rename = "Options")]
    options: BTreeMap<&'a str, &'a str>,
}

#[derive(Debug, Deserialize)]
struct Address {
    #[serde(rename = "Address")]
    address: String,
}

#[derive(Debug, Serialize)]
struct ReleaseAddress<'a> {
    #[serde(rename = "PoolID")]
    pool: &'a str,
    #[serde(rename = "Address")]
    address: String,
}

/// An answer of which nothing matters.
#[derive(Debug, Deserialize)]
struct Nothing {}

/// A plugin with the options of one network.
pub(super) struct Ipam {
    plugin: std::sync::Arc<Plugin>,
    options: BTreeMap<String, String>,
}

impl Ipam {
    /// The plugin of this name.
    ///
    /// # Errors
    /// None of this name, or it does not answer.
    pub(super) async fn find(
        engine: &Engine,
        name: &str,
        options: BTreeMap<String, String>,
    ) -> Result<Self> {
        let plugin = engine.plugins().get(name, PluginKind::Ipam).await;
        Ok(Self { plugin: plugin.map_err(EngineError::part)?, options })
    }

    fn wrong(&self, what: &str, text: &str) -> EngineError {
        EngineError::Fault(format!(
            "IPAM plugin {} answered {text:?} for {what}",
            self.plugin.name()
        ))
    }

    /// Completes the subnets of a network: each pool is asked for, with its
    /// gateway and its auxiliary addresses. Nothing stays taken on failure.
    pub(super) async fn pools(
        &self,
        named: Vec<IpamRecord>,
        families: Families,
    ) -> Result<Vec<IpamRecord>> {
        let spaces: Spaces = self
            .plugin
            .call("IpamDriver.GetDefaultAddressSpaces", &serde_json::Value::Null)
            .await
            .map_err(EngineError::part)?;
        let mut wanted: Vec<(Option<IpamRecord>, bool)> = named
            .into_iter()
            .map(|n| {
                let v6 = n.subnet.addr().is_ipv6();
                (Some(n), v6)
            })
            .collect();
        for (asked, v6) in [(families.v4, false), (families.v6, true)] {
            if asked && !wanted.iter().any(|(_, six)| *six == v6) {
                wanted.push((None, v6));
            }
        }
        let mut made = Vec::new();
        for (named, v6) in wanted {
            match self.pool(&spaces.local_default_address_space, named, v6).await {
                Ok(record) => made.push(record),
                Err(e) => {
                    self.give_back(&made).await;
                    return Err(e);
                }
            }
        }
        Ok(made)
    }

    async fn pool(&self, space: &str, named: Option<IpamRecord>, v6: bool) -> Result<IpamRecord> {
        let text = |net: Option<IpNet>| net.map(|n| n.to_string()).unwrap_or_default();
        let request = RequestPool {
            address_space: space,
            pool: text(named.as_ref().map(|n| n.subnet)),
            sub_pool: text(named.as_ref().and_then(|n| n.range)),
            options: &self.options,
            v6,
        };
        let pool: Pool = self
            .plugin
            .call("IpamDriver.RequestPool", &request)
            .await
            .map_err(EngineError::part)?;
        let completed = self.complete(&pool, named).await;
        if completed.is_err() {
            self.release_pool(&pool.id).await;
        }
        completed
    }

    async fn complete(&self, pool: &Pool, named: Option<IpamRecord>) -> Result<IpamRecord> {
        let subnet: IpNet = pool.pool.parse().map_err(|_| self.wrong("a pool", &pool.pool))?;
        let said = pool.data.as_ref().and_then(|d| d.get(GATEWAY));
        let gateway = match (named.as_ref().map(|n| n.gateway), said) {
            // Chosen by the user, or by what the plugin says of the pool.
            (Some(gateway), _) => self.address(&pool.id, Some(gateway), true).await?,
            (None, Some(text)) => {
                let address = text.split('/').next().and_then(|t| t.parse().ok());
                address.ok_or_else(|| self.wrong("a gateway", text))?
            }
            (None, None) => self.address(&pool.id, None, true).await?,
        };
        let auxiliary = named.as_ref().map(|n| n.auxiliary.clone()).unwrap_or_default();
        for address in auxiliary.values() {
            self.address(&pool.id, Some(*address), false).await?;
        }
        Ok(IpamRecord {
            subnet: subnet.trunc(),
            range: named.as_ref().and_then(|n| n.range),
            gateway,
            auxiliary,
            chosen: true,
            pool: Some(pool.id.clone()),
        })
    }

    /// An address of a pool: this one, or any.
    ///
    /// # Errors
    /// The plugin refuses.
    pub(super) async fn address(
        &self,
        pool: &str,
        wanted: Option<IpAddr>,
        gateway: bool,
    ) -> Result<IpAddr> {
        let options = if gateway { [(REQUEST_TYPE, GATEWAY)].into() } else { BTreeMap::new() };
        let address = wanted.map(|a| a.to_string()).unwrap_or_default();
        let request = RequestAddress { pool, address, options };
        let answer: Address = self
            .plugin
            .call("IpamDriver.RequestAddress", &request)
            .await
            .map_err(EngineError::part)?;
        let text = answer.address;
        let address = text.split('/').next().and_then(|t| t.parse().ok());
        address.ok_or_else(|| self.wrong("an address", &text))
    }

    /// Gives an address back.
    ///
    /// # Errors
    /// The plugin refuses, or does not answer.
    pub(super) async fn release(&self, pool: &str, address: IpAddr) -> Result<()> {
        let request = ReleaseAddress { pool, address: address.to_string() };
        let released = self.plugin.call::<_, Nothing>("IpamDriver.ReleaseAddress", &request).await;
        released.map(|_| ()).map_err(EngineError::part)
    }

    /// Gives the pools of a network back, with what was taken of them for it.
    pub(super) async fn give_back(&self, subnets: &[IpamRecord]) {
        for subnet in subnets {
            let Some(pool) = &subnet.pool else { continue };
            for address in std::iter::once(&subnet.gateway).chain(subnet.auxiliary.values()) {
                if let Err(error) = self.release(pool, *address).await {
                    tracing::warn!(%error, "an address is not given back");
                }
            }
            self.release_pool(pool).await;
        }
    }

    async fn release_pool(&self, id: &str) {
        let request = ReleasePool { id };
        let released = self.plugin.call::<_, Nothing>("IpamDriver.ReleasePool", &request).await;
        if let Err(error) = released {
            tracing::warn!(%error, "a pool is not given back");
        }
    }
}
