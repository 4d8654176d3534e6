//! `network`.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::images::options;
use super::inspect::{InspectOne, Kind};
use super::network_care::{Check, Migrate, Stats, Trace};
use super::ps::labels;
use crate::app::App;
use crate::client::{Client, plain};
use crate::failure::{Failures, is_not_found, text};
use crate::query::{Query, name, parse_filter};
use crate::table::{Column, Table};
use crate::{out, time};

/// Manage networks
#[derive(Debug, Subcommand)]
pub enum Network {
    Check(Check),
    /// Connect a container to a network
    Connect(Connect),
    /// Create a network
    Create(Create),
    /// Disconnect a container from a network
    Disconnect(Disconnect),
    /// Show everything about networks
    Inspect(InspectOne),
    /// List networks
    #[command(visible_alias = "list")]
    Ls(List),
    Migrate(Migrate),
    /// Remove all networks that no container uses
    Prune(Prune),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Remove),
    Stats(Stats),
    Trace(Trace),
}

impl Network {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Check(verb) => verb.run(app).await,
            Self::Connect(verb) => verb.run(app).await,
            Self::Create(verb) => verb.run(app).await,
            Self::Disconnect(verb) => verb.run(app).await,
            Self::Inspect(verb) => verb.run(app, Kind::Network).await,
            Self::Ls(verb) => verb.run(app).await,
            Self::Migrate(verb) => verb.run(app).await,
            Self::Prune(verb) => verb.run(app).await,
            Self::Rm(verb) => verb.run(app).await,
            Self::Stats(verb) => verb.run(app).await,
            Self::Trace(verb) => verb.run(app).await,
        }
    }
}

/// `network ls`
#[derive(Debug, Args)]
pub struct List {
    /// Show only what matches: driver=…, name=…, label=… (may be repeated)
    #[arg(short, long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Don't shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    async fn run(self, app: &App) -> Result<()> {
        let format = self.format.clone().or_else(|| app.config.format("networksFormat"));
        let client = app.client().await?;
        let list = client.get("/networks", &Query::new().filters(&self.filter)).await?;
        let mut list = list.as_array().cloned().unwrap_or_default();
        list.sort_by_key(|n| n["Name"].as_str().unwrap_or_default().to_owned());
        let rows: Vec<_> = list.iter().map(|n| self.row(n)).collect();
        if self.quiet {
            let id = |row: &Map<String, Value>| row["ID"].as_str().unwrap_or_default().to_owned();
            return rows.iter().try_for_each(|row| out::line(&id(row)));
        }
        let columns = vec![
            Column { field: "ID", heading: "NETWORK ID" },
            Column { field: "Name", heading: "NAME" },
            Column { field: "Driver", heading: "DRIVER" },
            Column { field: "Scope", heading: "SCOPE" },
        ];
        out::text(&Table { columns, rows }.render(&format.unwrap_or_default())?)
    }

    fn row(&self, network: &Value) -> Map<String, Value> {
        let id = network["Id"].as_str().unwrap_or_default();
        let created = network["Created"].as_str().unwrap_or_default();
        let row = json!({
            "ID": if self.no_trunc { id } else { out::short_id(id) },
            "Name": network["Name"],
            "Driver": network["Driver"],
            "Scope": network["Scope"],
            "IPv4": (network["EnableIPv4"] != false).to_string(),
            "IPv6": (network["EnableIPv6"] == true).to_string(),
            "Internal": (network["Internal"] == true).to_string(),
            "Labels": labels(&network["Labels"]),
            "CreatedAt": time::go_style_of(created),
        });
        match row {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// `network create`
#[derive(Debug, Args)]
pub struct Create {
    /// Let containers connect by hand
    #[arg(long)]
    attachable: bool,
    /// Keep an address from containers: NAME=ADDRESS
    #[arg(long, value_name = "ADDRESS")]
    aux_address: Vec<String>,
    /// Take the configuration of this network
    #[arg(long, value_name = "NETWORK")]
    config_from: Option<String>,
    /// Make a configuration only
    #[arg(long)]
    config_only: bool,
    /// The driver
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// The gateway of a subnet
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    gateway: Vec<String>,
    /// Make the network that takes in the cluster's published ports
    #[arg(long)]
    ingress: bool,
    /// Keep the network from the outside
    #[arg(long)]
    internal: bool,
    /// Give containers addresses of this range only
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    ip_range: Vec<String>,
    /// The driver that manages addresses
    #[arg(long, default_value = "default", value_name = "DRIVER")]
    ipam_driver: String,
    /// An option of that driver: KEY=VALUE
    #[arg(long, value_name = "OPTION")]
    ipam_opt: Vec<String>,
    /// Give containers IPv4 addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    ipv4: Option<bool>,
    /// Give containers IPv6 addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
        default_missing_value = "true")]
    ipv6: Option<bool>,
    /// Set metadata: KEY[=VALUE]
    #[arg(long)]
    label: Vec<String>,
    /// An option of the driver: KEY=VALUE
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
    /// Where the network exists
    #[arg(long)]
    scope: Option<String>,
    /// A subnet
    #[arg(long, value_name = "CIDR", value_delimiter = ',')]
    subnet: Vec<String>,
    /// The network's name
    #[arg(value_name = "NETWORK")]
    name: String,
}

impl Create {
    async fn run(self, app: &App) -> Result<()> {
        let mut body = json!({
            "Name": self.name,
            "Driver": self.driver,
            "Scope": self.scope.clone().unwrap_or_default(),
            "Internal": self.internal,
            "Attachable": self.attachable,
            "Ingress": self.ingress,
            "ConfigOnly": self.config_only,
            "Options": options(&self.opt),
            "Labels": options(&self.label),
            "IPAM": {
                "Driver": self.ipam_driver,
                "Options": options(&self.ipam_opt),
                "Config": self.pools()?,
            },
        });
        for (key, value) in [("EnableIPv4", self.ipv4), ("EnableIPv6", self.ipv6)] {
            if let Some(value) = value {
                body[key] = value.into();
            }
        }
        if let Some(from) = &self.config_from {
            body["ConfigFrom"] = json!({"Network": from});
        }
        let client = app.client().await?;
        let answer = client.post("/networks/create", &Query::new(), Some(&body)).await?;
        if let Some(warning) = answer["Warning"].as_str().filter(|w| !w.is_empty()) {
            out::note(&format!("WARNING: {warning}"));
        }
        out::line(answer["Id"].as_str().unwrap_or_default())
    }

    /// A pool for each subnet, with what lies in it.
    fn pools(&self) -> Result<Vec<Value>> {
        if self.subnet.is_empty() {
            let ranges = self.ip_range.len() + self.aux_address.len();
            return match (self.gateway.as_slice(), ranges) {
                ([], 0) => Ok(Vec::new()),
                (gateways, 0) => Ok(gateways.iter().map(|g| json!({"Gateway": g})).collect()),
                _ => bail!("every ip-range or gateway must have a corresponding subnet"),
            };
        }
        let mut pools: Vec<(Cidr, Value)> = Vec::new();
        for subnet in &self.subnet {
            let Some(cidr) = Cidr::parse(subnet) else { bail!("invalid subnet {subnet}") };
            if pools.iter().any(|(p, _)| p.contains(&cidr) || cidr.contains(p)) {
                bail!("multiple overlapping subnet configuration is not supported");
            }
            pools.push((cidr, json!({"Subnet": subnet})));
        }
        let mut put = |text: &str, key: &str, name: Option<&str>| {
            let inside = Cidr::parse(text);
            let pool = pools
                .iter_mut()
                .find(|(pool, _)| inside.as_ref().is_some_and(|inside| pool.contains(inside)));
            let Some((_, pool)) = pool else {
                bail!("no matching subnet for {key} {text}");
            };
            match name {
                Some(name) => pool[key][name] = text.into(),
                None if pool[key].is_null() => pool[key] = text.into(),
                None => bail!("cannot configure multiple {key} on one subnet"),
            }
            Ok(())
        };
        for range in &self.ip_range {
            put(range, "IPRange", None)?;
        }
        for gateway in &self.gateway {
            put(gateway, "Gateway", None)?;
        }
        for pair in &self.aux_address {
            let Some((name, address)) = pair.split_once('=') else {
                bail!("invalid aux-address {pair}: NAME=ADDRESS is expected");
            };
            put(address, "AuxiliaryAddresses", Some(name))?;
        }
        Ok(pools.into_iter().map(|(_, pool)| pool).collect())
    }
}

/// A range of addresses; a single one is a range of one.
#[derive(Debug)]
struct Cidr {
    bits: u128,
    length: u32,
    width: u32,
}

impl Cidr {
    fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
            None => (text, None),
        };
        let (bits, width) = match address.parse::<std::net::IpAddr>().ok()? {
            std::net::IpAddr::V4(a) => (u128::from(a.to_bits()), 32),
            std::net::IpAddr::V6(a) => (a.to_bits(), 128),
        };
        let length = length.unwrap_or(width);
        (length <= width).then_some(Self { bits, length, width })
    }

    fn contains(&self, other: &Self) -> bool {
        let shift = self.width - self.length;
        let network = |bits: u128| bits.checked_shr(shift).unwrap_or(0);
        self.width == other.width
            && self.length <= other.length
            && network(self.bits) == network(other.bits)
    }
}

/// `network connect`
#[derive(Debug, Args)]
pub struct Connect {
    /// A further name on the network
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    alias: Vec<String>,
    /// An option of the driver: KEY=VALUE
    #[arg(long, value_name = "OPTION")]
    driver_opt: Vec<String>,
    /// The network with the highest number gives the default route
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    gw_priority: Option<i64>,
    /// The IPv4 address
    #[arg(long, value_name = "ADDRESS")]
    ip: Option<String>,
    /// The IPv6 address
    #[arg(long, value_name = "ADDRESS")]
    ip6: Option<String>,
    /// Link to another container: NAME[:ALIAS]
    #[arg(long)]
    link: Vec<String>,
    /// A link-local address
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    link_local_ip: Vec<String>,
    /// The network
    network: String,
    /// The container
    container: String,
}

impl Connect {
    async fn run(self, app: &App) -> Result<()> {
        let mut endpoint = json!({
            "IPAMConfig": {},
            "Links": self.link,
            "Aliases": self.alias,
            "DriverOpts": options(&self.driver_opt),
        });
        let ipam = &mut endpoint["IPAMConfig"];
        for (key, address) in [("IPv4Address", &self.ip), ("IPv6Address", &self.ip6)] {
            if let Some(address) = address {
                ipam[key] = address.as_str().into();
            }
        }
        if !self.link_local_ip.is_empty() {
            ipam["LinkLocalIPs"] = json!(self.link_local_ip);
        }
        if let Some(priority) = self.gw_priority {
            endpoint["GwPriority"] = priority.into();
        }
        let body = json!({"Container": self.container, "EndpointConfig": endpoint});
        let client = app.client().await?;
        let path = format!("/networks/{}/connect", name(&self.network));
        client.post(&path, &Query::new(), Some(&body)).await.map(drop)
    }
}

/// `network disconnect`
#[derive(Debug, Args)]
pub struct Disconnect {
    /// Disconnect even what doesn't answer
    #[arg(short, long)]
    force: bool,
    /// The network
    network: String,
    /// The container
    container: String,
}

impl Disconnect {
    async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let body = json!({"Container": self.container, "Force": self.force});
        let path = format!("/networks/{}/disconnect", name(&self.network));
        client.post(&path, &Query::new(), Some(&body)).await.map(drop)
    }
}

/// `network rm`
#[derive(Debug, Args)]
pub struct Remove {
    /// Don't fail when there is no such network
    #[arg(short, long)]
    force: bool,
    /// The networks
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

impl Remove {
    async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let mut failures = Failures::default();
        for network in &self.networks {
            match client.docker().remove_network(&name(network)).await.map_err(plain) {
                Ok(()) => out::line(network)?,
                Err(e) if self.force && is_not_found(&e) => {}
                Err(e) => {
                    let e = anyhow::anyhow!(text(&e));
                    failures.add(&e);
                }
            }
        }
        failures.end()
    }
}

/// `network prune`
#[derive(Debug, Args)]
pub struct Prune {
    /// Only what matches: until=…, label=… (may be repeated)
    #[arg(long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    async fn run(self, app: &App) -> Result<()> {
        let warning =
            "WARNING! This will remove all custom networks not used by at least one container.";
        if !self.force && !out::confirm(warning)? {
            return Ok(());
        }
        prune(&app.client().await?, &self.filter).await
    }
}

/// Removes unused networks and prints their names.
pub async fn prune(client: &Client, filters: &[String]) -> Result<()> {
    let answer = client.post("/networks/prune", &Query::new().filters(filters), None).await?;
    let names: Vec<&str> = answer["NetworksDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if names.is_empty() {
        Ok(())
    } else {
        out::text(&format!("Deleted Networks:\n{}\n\n", names.join("\n")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let cidr = |t| Cidr::parse(t).unwrap();
        assert!(cidr("10.0.0.0/8").contains(&cidr("10.1.2.3")));
        assert!(!cidr("10.0.0.0/24").contains(&cidr("10.0.1.0/25")));
        assert!(cidr("::/0").contains(&cidr("fd00::1")));
        assert!(!cidr("0.0.0.0/0").contains(&cidr("fd00::1")));
        assert!(Cidr::parse("10.0.0.0/33").is_none() && Cidr::parse("x").is_none());
    }
}
