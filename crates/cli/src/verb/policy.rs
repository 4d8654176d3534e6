//! `policy`: who may talk to whom, which docker has no word for.

use std::io::Read as _;

use anyhow::{Context, Result, bail};
use clap::{ArgGroup, Args, Subcommand, ValueEnum};
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::{Map, Value, json};

use super::inspect::{InspectOne, Kind};
use crate::app::App;
use crate::client::{full, nothing};
use crate::failure::{Failures, is_not_found};
use crate::out;
use crate::query::{Query, name};
use crate::table::{Column, Table};

/// Manage network policies: who may talk to whom
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Make policies those of a file, or make new ones of it: all of them, or none
    Apply(Apply),
    Create(Box<Create>),
    /// Show everything about policies
    Inspect(InspectOne),
    /// List policies in the order in which they are looked at
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove policies
    #[command(visible_alias = "remove")]
    Rm(Remove),
}

impl Policy {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Apply(verb) => verb.run(app).await,
            Self::Create(verb) => verb.run(app).await,
            Self::Inspect(verb) => verb.run(app, Kind::Policy).await,
            Self::Ls(verb) => verb.run(app).await,
            Self::Rm(verb) => verb.run(app).await,
        }
    }
}

/// Which flows of a container.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Direction {
    /// That others begin.
    Ingress,
    /// That it begins.
    Egress,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        }
    }
}

/// Create a policy
///
/// Of all policies that fit a flow, the first by priority and name decides. What
/// none fits is let through. Without --label and --name a policy is about all
/// containers, without --peer about everybody at the other end.
///
///   sampan policy create db-clients --allow ingress --name db --peer label=app=web --port tcp/5432
///   sampan policy create db-others --deny ingress --name db --priority 200
///   sampan policy create mail-out --source 192.0.2.25 --label app=mail
#[derive(Debug, Args)]
#[command(verbatim_doc_comment, group = ArgGroup::new("action").required(true))]
pub struct Create {
    /// Let these flows of the containers through
    #[arg(long, value_name = "DIRECTION", group = "action")]
    allow: Option<Direction>,
    /// Stop these flows of the containers
    #[arg(long, value_name = "DIRECTION", group = "action")]
    deny: Option<Direction>,
    /// Only containers with this label: KEY=VALUE or KEY (may be repeated: all of them)
    #[arg(long)]
    label: Vec<String>,
    /// Only containers with this name, with * and ? (may be repeated: one of them)
    #[arg(long, value_name = "PATTERN")]
    name: Vec<String>,
    /// Only their addresses on this network
    #[arg(long)]
    network: Option<String>,
    /// Who is at the other end: label=KEY=VALUE, name=PATTERN, cidr=NET, dns=NAME or host
    /// (may be repeated: one of them)
    #[arg(long)]
    peer: Vec<String>,
    /// The destination's ports: tcp/80 or udp/1000-2000 (may be repeated: one of them)
    #[arg(short, long)]
    port: Vec<String>,
    /// The order in which policies are looked at, the smallest first
    #[arg(long, default_value_t = 100, allow_negative_numbers = true)]
    priority: i32,
    /// The address with which the containers leave the host
    #[arg(long, value_name = "ADDRESS", group = "action")]
    source: Option<std::net::IpAddr>,
    /// The policy's name
    #[arg(value_name = "POLICY")]
    policy: String,
}

impl Create {
    async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let answer = client.post("/sampan/policies", &Query::new(), Some(&self.body()?)).await?;
        out::line(answer["Name"].as_str().unwrap_or_default())
    }

    fn body(&self) -> Result<Value> {
        let (action, direction) = match (self.allow, self.deny, self.source) {
            (Some(direction), ..) => ("allow".to_owned(), direction),
            (_, Some(direction), _) => ("deny".to_owned(), direction),
            (_, _, Some(address)) => (format!("source={address}"), Direction::Egress),
            _ => bail!("one of --allow, --deny and --source is needed"),
        };
        let mut body = json!({
            "Name": self.policy,
            "Priority": self.priority,
            "Subjects": { "Labels": self.label, "Names": self.name },
            "Direction": direction.word(),
            "Ports": self.port,
            "Action": action,
        });
        if let Some(network) = &self.network {
            body["Network"] = json!(network);
        }
        if !self.peer.is_empty() {
            let peers = self.peer.iter().map(|text| peer(text)).collect::<Result<Vec<_>>>()?;
            body["Peers"] = json!(peers);
        }
        Ok(body)
    }
}

/// Reads a `--peer`.
fn peer(text: &str) -> Result<Value> {
    Ok(match text.split_once('=') {
        Some(("label", label)) => json!({ "Containers": { "Labels": [label] } }),
        Some(("name", pattern)) => json!({ "Containers": { "Names": [pattern] } }),
        Some(("cidr", net)) if net.contains('/') => json!({ "CIDR": net }),
        Some(("cidr", address)) => match address.parse::<std::net::IpAddr>() {
            Ok(v4) if v4.is_ipv4() => json!({ "CIDR": format!("{v4}/32") }),
            Ok(v6) => json!({ "CIDR": format!("{v6}/128") }),
            Err(_) => bail!("invalid peer {text:?}: an address or net is expected after cidr="),
        },
        Some(("dns", name)) => json!({ "DNS": name }),
        None if text == "host" => json!({ "Host": true }),
        _ => bail!(
            "invalid peer {text:?}: label=KEY=VALUE, name=PATTERN, cidr=NET, dns=NAME or host expected"
        ),
    })
}

/// `policy apply`
#[derive(Debug, Args)]
pub struct Apply {
    /// A JSON file with one policy or a list of them; - for standard input
    #[arg(short, long, value_name = "FILE")]
    file: String,
}

impl Apply {
    async fn run(self, app: &App) -> Result<()> {
        let text = if self.file == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("read standard input")?;
            text
        } else {
            std::fs::read_to_string(&self.file).with_context(|| format!("read {}", self.file))?
        };
        let whole: Value =
            serde_json::from_str(&text).with_context(|| format!("{} is not JSON", self.file))?;
        let list = match whole {
            Value::Array(list) => list,
            one => vec![one],
        };
        let names = list.iter().map(wanted_name).collect::<Result<Vec<_>>>()?;
        let body = Value::Array(list.into_iter().map(as_said).collect());
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let body = full(body.to_string().into());
        let client = app.client().await?;
        client.send(Method::PUT, "/sampan/policies", &Query::new(), headers, body).await?;
        names.iter().try_for_each(|name| out::line(name))
    }
}

fn wanted_name(policy: &Value) -> Result<String> {
    match policy["Name"].as_str() {
        Some(name) => Ok(name.to_owned()),
        None => bail!("a policy without a Name can't be applied"),
    }
}

/// A policy without what the daemon adds when it shows one, so that what was
/// shown can be applied.
fn as_said(mut policy: Value) -> Value {
    if let Some(fields) = policy.as_object_mut() {
        for shown in ["Created", "Containers", "Counters"] {
            fields.remove(shown);
        }
    }
    policy
}

/// `policy ls`
#[derive(Debug, Args)]
pub struct List {
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    async fn run(self, app: &App) -> Result<()> {
        let answer = app.client().await?.get("/sampan/policies", &Query::new()).await?;
        let list = answer.as_array().cloned().unwrap_or_default();
        if self.quiet && self.format.is_none() {
            return list.iter().filter_map(|p| p["Name"].as_str()).try_for_each(out::line);
        }
        let column = |field, heading| Column { field, heading };
        let columns = vec![
            column("Name", "NAME"),
            column("Priority", "PRIORITY"),
            column("Action", "ACTION"),
            column("Direction", "DIRECTION"),
            column("Subjects", "CONTAINERS"),
            column("Peers", "PEERS"),
            column("Ports", "PORTS"),
            column("Packets", "PACKETS"),
            column("Bytes", "BYTES"),
        ];
        let rows = list.iter().map(row).collect();
        out::text(&Table { columns, rows }.render(&self.format.unwrap_or_default())?)
    }
}

fn row(policy: &Value) -> Map<String, Value> {
    let peers = match policy["Peers"].as_array() {
        None => "any".to_owned(),
        Some(peers) => peers.iter().map(shown_peer).collect::<Vec<_>>().join(", "),
    };
    let ports = words(&policy["Ports"]);
    let network = policy["Network"].as_str();
    let subjects = selected(&policy["Subjects"]);
    let row = json!({
        "Name": policy["Name"],
        "Priority": policy["Priority"].to_string(),
        "Action": policy["Action"],
        "Direction": policy["Direction"],
        "Network": network.unwrap_or_default(),
        "Subjects": network.map_or(subjects.clone(), |n| format!("{subjects} on {n}")),
        "Peers": peers,
        "Ports": if ports.is_empty() { "any".to_owned() } else { ports.join(", ") },
        "Packets": policy["Counters"]["Packets"].to_string(),
        "Bytes": policy["Counters"]["Bytes"].to_string(),
        "CreatedAt": policy["Created"],
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn words(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

fn selected(selector: &Value) -> String {
    let labels = words(&selector["Labels"]).into_iter().map(|l| format!("label={l}"));
    let names = words(&selector["Names"]).join("|");
    let names = (!names.is_empty()).then(|| format!("name={names}"));
    let all: Vec<String> = labels.chain(names).collect();
    if all.is_empty() { "all".to_owned() } else { all.join(" ") }
}

fn shown_peer(peer: &Value) -> String {
    let text = |kind: &str| peer[kind].as_str();
    match (peer.get("Containers"), text("CIDR"), text("DNS")) {
        (Some(selector), ..) => selected(selector),
        (_, Some(net), _) => net.to_owned(),
        (_, _, Some(name)) => name.to_owned(),
        _ => "host".to_owned(),
    }
}

/// `policy rm`
#[derive(Debug, Args)]
pub struct Remove {
    /// Don't fail when there is no such policy
    #[arg(short, long)]
    force: bool,
    /// The policies
    #[arg(required = true, value_name = "POLICY")]
    policies: Vec<String>,
}

impl Remove {
    async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let mut failures = Failures::default();
        for policy in &self.policies {
            let path = format!("/sampan/policies/{}", name(policy));
            let query = Query::new();
            let removed =
                client.send(Method::DELETE, &path, &query, HeaderMap::new(), nothing()).await;
            match removed {
                Ok(_) => out::line(policy)?,
                Err(e) if self.force && is_not_found(&e) => out::line(policy)?,
                Err(e) => failures.add(&e),
            }
        }
        failures.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_read_by_their_kind() {
        for (text, wanted) in [
            ("label=app=web", json!({ "Containers": { "Labels": ["app=web"] } })),
            ("name=db-*", json!({ "Containers": { "Names": ["db-*"] } })),
            ("cidr=10.0.0.0/8", json!({ "CIDR": "10.0.0.0/8" })),
            ("cidr=10.0.0.1", json!({ "CIDR": "10.0.0.1/32" })),
            ("cidr=fd00::1", json!({ "CIDR": "fd00::1/128" })),
            ("dns=*.example.org", json!({ "DNS": "*.example.org" })),
            ("host", json!({ "Host": true })),
        ] {
            assert_eq!(peer(text).unwrap(), wanted, "{text}");
        }
        for text in ["web", "cidr=x", "host=1", "tag=x"] {
            assert!(peer(text).unwrap_err().to_string().contains(text), "{text}");
        }
    }

    #[test]
    fn a_row_says_what_the_policy_does() {
        let policy = json!({
            "Name": "db", "Priority": 10, "Action": "deny", "Direction": "ingress",
            "Network": "back",
            "Subjects": { "Labels": ["app=db"], "Names": ["a*", "b"] },
            "Peers": [{ "Containers": {} }, { "CIDR": "10.0.0.0/8" }, { "Host": true }],
            "Counters": { "Packets": 3, "Bytes": 180 },
        });
        let row = row(&policy);
        assert_eq!(row["Subjects"], "label=app=db name=a*|b on back");
        assert_eq!(row["Peers"], "all, 10.0.0.0/8, host");
        assert_eq!((&row["Ports"], &row["Packets"]), (&json!("any"), &json!("3")));
    }
}
