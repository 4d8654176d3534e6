//! `network check`, `network stats`, `network trace`: looking after networks,
//! which docker's command can't.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::client::Client;
use crate::failure::exit;
use crate::out;
use crate::query::{Query, name};
use crate::table::{Column, Table};
use crate::units::decimal_size;

/// How often the statistics are asked for: the kernel counts, it does not tell.
const TICK: Duration = Duration::from_secs(1);

/// Say what is wrong with networks; fails when anything is
#[derive(Debug, Args)]
pub struct Check {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The network; all of them when none is named
    #[arg(value_name = "NETWORK")]
    network: Option<String>,
}

impl Check {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let query = Query::new().opt("network", self.network.as_ref());
        let found = client.get("/sampan/networks/check", &query).await?;
        if self.json {
            out::line(&found.to_string())?;
        } else {
            out::text(&check_text(&found))?;
        }
        if found["Ok"] == true { Ok(()) } else { Err(exit(1)) }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn check_text(found: &Value) -> String {
    let findings = found["Findings"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut lines = String::new();
    for finding in findings {
        let network = text(&finding["Network"]);
        let of = if network.is_empty() { String::new() } else { format!("network {network}: ") };
        let container = text(&finding["Name"]);
        let who =
            if container.is_empty() { String::new() } else { format!("container {container}: ") };
        let (severity, message) = (text(&finding["Severity"]), text(&finding["Message"]));
        lines.push_str(&format!("{severity}: {of}{who}{message}\n"));
    }
    if findings.is_empty() {
        let count = found["Networks"].as_array().map_or(0, Vec::len);
        let what = if count == 1 { "network is" } else { "networks are" };
        lines.push_str(
            &format!("{count} {what} as they shall be\n").replace("is as they", "is as it"),
        );
    }
    lines
}

/// Move a bridge network to other subnets; its containers get new addresses
#[derive(Debug, Args)]
pub struct Migrate {
    /// The subnet, one for each address family; free ones when none is named
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<String>,
    /// The network
    #[arg(value_name = "NETWORK")]
    network: String,
}

impl Migrate {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let path = format!("/sampan/networks/{}/migrate", name(&self.network));
        let body = json!({ "Subnets": self.subnet });
        let moved = client.post(&path, &Query::new(), Some(&body)).await?;
        for subnet in moved["Subnets"].as_array().into_iter().flatten() {
            out::line(text(subnet))?;
        }
        Ok(())
    }
}

/// Show what passes the endpoints of networks
#[derive(Debug, Args)]
pub struct Stats {
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Print JSON, an object for each endpoint
    #[arg(long, conflicts_with = "format")]
    json: bool,
    /// Print once and end
    #[arg(long)]
    no_stream: bool,
    /// The network; all of them when none is named
    #[arg(value_name = "NETWORK")]
    network: Option<String>,
}

const COLUMNS: [Column; 11] = [
    Column { field: "Network", heading: "NETWORK" },
    Column { field: "Name", heading: "CONTAINER" },
    Column { field: "Interface", heading: "INTERFACE" },
    Column { field: "Packets", heading: "PACKETS RX / TX" },
    Column { field: "Bytes", heading: "BYTES RX / TX" },
    Column { field: "Dropped", heading: "DROPPED" },
    Column { field: "Errors", heading: "ERRORS" },
    Column { field: "Denied", heading: "DENIED" },
    Column { field: "Connections", heading: "TCP" },
    Column { field: "Retransmits", heading: "RESENT" },
    Column { field: "RTT", heading: "RTT P50 / P99" },
];

impl Stats {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        // Once is enough where nobody watches.
        if self.no_stream || self.json || !out::is_terminal() {
            return out::text(&self.render(&client).await?);
        }
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let text = self.render(&client).await?;
            // From the corner, each line cleared to its end, then the rest.
            out::text(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))?;
        }
    }

    async fn render(&self, client: &Client) -> Result<String> {
        let path = match &self.network {
            Some(network) => format!("/sampan/networks/{}/stats", name(network)),
            None => "/sampan/networks/stats".to_owned(),
        };
        let stats = client.get(&path, &Query::new()).await?;
        let all = stats.as_array().map(Vec::as_slice).unwrap_or_default();
        if self.json {
            return Ok(all.iter().map(|one| format!("{one}\n")).collect());
        }
        let rows = all.iter().map(row).collect();
        let format = self.format.clone().unwrap_or_default();
        Ok(Table { columns: COLUMNS.to_vec(), rows }.render(&format)?)
    }
}

fn row(stats: &Value) -> Map<String, Value> {
    let number = |field: &str| stats[field].as_u64().unwrap_or(0);
    let pair =
        |what: &str| format!("{} / {}", number(&format!("Rx{what}")), number(&format!("Tx{what}")));
    let size = |field: &str| decimal_size(number(field) as f64);
    let time = |field: &str| match stats[field].as_u64() {
        None => "-".to_owned(),
        Some(micros) if micros < 10_000 => format!("{micros}µs"),
        Some(micros) => format!("{}ms", micros / 1000),
    };
    let row = json!({
        "Network": stats["Network"],
        "ID": out::short_id(text(&stats["Container"])),
        "Name": stats["Name"],
        "Interface": stats["Interface"],
        "Packets": pair("Packets"),
        "Bytes": format!("{} / {}", size("RxBytes"), size("TxBytes")),
        "Dropped": pair("Dropped"),
        "Errors": pair("Errors"),
        "Denied": number("DeniedPackets").to_string(),
        "Connections": number("Connections").to_string(),
        "Retransmits": number("Retransmits").to_string(),
        "RTT": format!("{} / {}", time("RttP50Micros"), time("RttP99Micros")),
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Say where a packet would go, and what would stop it; fails when something
/// does
#[derive(Debug, Args)]
pub struct Trace {
    /// The port that it is sent to: 80, 80/tcp, 53/udp
    #[arg(short, long)]
    port: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Who sends: a container, `host`, or an address
    #[arg(value_name = "FROM")]
    from: String,
    /// To whom: a container, `host`, or an address
    #[arg(value_name = "TO")]
    to: String,
}

impl Trace {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let ends = Query::new().set("from", &self.from).set("to", &self.to);
        let trace =
            client.get("/sampan/networks/trace", &ends.opt("port", self.port.as_ref())).await?;
        if self.json {
            out::line(&trace.to_string())?;
        } else {
            out::text(&trace_text(&trace))?;
        }
        if trace["Arrives"] == true { Ok(()) } else { Err(exit(1)) }
    }
}

fn trace_text(trace: &Value) -> String {
    let with = |name: &str, address: &Value| {
        let address = text(address);
        if address.is_empty() || address == name {
            name.to_owned()
        } else {
            format!("{name} ({address})")
        }
    };
    let (from, to) = (text(&trace["From"]), text(&trace["To"]));
    let port = text(&trace["Port"]);
    let port = if port.is_empty() { String::new() } else { format!(", port {port}") };
    let (from, to) = (with(from, &trace["Source"]), with(to, &trace["Destination"]));
    let mut lines = format!("{from} to {to}{port}\n");
    let hops = trace["Hops"].as_array().map(Vec::as_slice).unwrap_or_default();
    let cells: Vec<Vec<String>> = hops
        .iter()
        .enumerate()
        .map(|(number, hop)| {
            let of = |field: &str| text(&hop[field]).to_owned();
            vec![format!("{:>2}", number + 1), of("Place"), of("Verdict"), of("What")]
        })
        .collect();
    lines.push_str(&crate::table::align(&cells, 2));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_lines() {
        let found = json!({"Ok": false, "Networks": ["shop"], "Findings": [
            {"Severity": "error", "Network": "shop", "Name": "web", "Message": "eth0 is missing"},
            {"Severity": "warning", "Network": "", "Name": "", "Message": "so it is"},
        ]});
        let text = check_text(&found);
        assert_eq!(
            text,
            "error: network shop: container web: eth0 is missing\nwarning: so it is\n"
        );
        let fine = json!({"Ok": true, "Networks": ["shop"], "Findings": []});
        assert_eq!(check_text(&fine), "1 network is as it shall be\n");
    }

    #[test]
    fn a_trace_is_a_line_for_each_hop() {
        let trace = json!({
            "From": "web", "To": "10.0.0.9", "Source": "172.18.0.2", "Destination": "10.0.0.9",
            "Port": "80/tcp", "Arrives": false,
            "Hops": [{"Place": "host", "Verdict": "stops", "What": "there is no route"}],
        });
        let text = trace_text(&trace);
        assert!(text.starts_with("web (172.18.0.2) to 10.0.0.9, port 80/tcp\n"), "{text}");
        assert!(text.contains(" 1   host   stops   there is no route"), "{text}");
    }
}
