//! `ps`: the list of containers.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::out;
use crate::query::{Query, parse_filter};
use crate::table::{Column, Table};
use crate::time;
use crate::units::decimal_size;

const COLUMNS: [Column; 7] = [
    Column { field: "ID", heading: "CONTAINER ID" },
    Column { field: "Image", heading: "IMAGE" },
    Column { field: "Command", heading: "COMMAND" },
    Column { field: "RunningFor", heading: "CREATED" },
    Column { field: "Status", heading: "STATUS" },
    Column { field: "Ports", heading: "PORTS" },
    Column { field: "Names", heading: "NAMES" },
];

/// List containers
#[derive(Debug, Args)]
pub struct Ps {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    all: bool,
    /// Show only what matches: name=…, status=…, label=… (may be repeated)
    #[arg(short, long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Show the N containers created last
    #[arg(short = 'n', long, value_name = "N", allow_hyphen_values = true)]
    last: Option<i64>,
    /// Show the container created last
    #[arg(short, long)]
    latest: bool,
    /// Don't shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Show sizes
    #[arg(short, long)]
    size: bool,
}

impl Ps {
    /// Prints the list.
    pub async fn run(self, app: &App) -> Result<()> {
        let format = self.format.clone().or_else(|| app.config.format("psFormat"));
        let format = if self.quiet { None } else { format };
        let format = format.unwrap_or_default();
        let limit = if self.latest { Some(1) } else { self.last.filter(|n| *n > 0) };
        let query = Query::new()
            .flag("all", self.all || limit.is_some())
            .opt("limit", limit)
            .flag("size", self.size || format.contains(".Size"))
            .filters(&self.filter);
        let client = app.client().await?;
        let list = client.get("/containers/json", &query).await?;
        let rows = list.as_array().into_iter().flatten().map(|c| row(c, !self.no_trunc));
        let mut columns = COLUMNS.to_vec();
        if self.size {
            columns.push(Column { field: "Size", heading: "SIZE" });
        }
        let table = Table { columns, rows: rows.collect() };
        if self.quiet {
            return table.rows.iter().try_for_each(|row| out::line(text(&row["ID"])));
        }
        out::text(&table.render(&format)?)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn row(container: &Value, is_short: bool) -> Map<String, Value> {
    let created = container["Created"].as_i64().unwrap_or_default();
    let id = text(&container["Id"]);
    let command = text(&container["Command"]);
    let command = if is_short { out::ellipsis(command, 20) } else { command.to_owned() };
    let row = json!({
        "ID": if is_short { out::short_id(id) } else { id },
        "Names": names(container, is_short),
        "Image": image(container, is_short),
        "Command": quoted(&command),
        "CreatedAt": time::go_style(created),
        "RunningFor": time::since(created),
        "Ports": ports(container["Ports"].as_array().map_or(&[], Vec::as_slice)),
        "State": container["State"],
        "Status": container["Status"],
        "Size": size(container),
        "Labels": labels(&container["Labels"]),
        "Mounts": mounts(container, is_short),
        "LocalVolumes": local_volumes(container),
        "Networks": keys(&container["NetworkSettings"]["Networks"]),
        "Platform": Value::Null,
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// The names without the slash; links (with more slashes) only unshortened.
fn names(container: &Value, is_short: bool) -> String {
    let names = container["Names"].as_array().into_iter().flatten().map(text);
    let names = names.map(|n| n.strip_prefix('/').unwrap_or(n));
    names.filter(|n| !is_short || !n.contains('/')).collect::<Vec<_>>().join(",")
}

fn image(container: &Value, is_short: bool) -> String {
    let (image, id) = (text(&container["Image"]), text(&container["ImageID"]));
    match image {
        "" => "<no image>".to_owned(),
        // Without a name the daemon shows the id.
        image if is_short && !id.is_empty() && (image == id || id.ends_with(image)) => {
            out::short_id(image).to_owned()
        }
        image if is_short => image.split_once('@').map_or(image, |(name, _)| name).to_owned(),
        image => image.to_owned(),
    }
}

fn size(container: &Value) -> String {
    let bytes = |key: &str| container[key].as_f64().unwrap_or_default();
    let own = decimal_size(bytes("SizeRw"));
    let root = bytes("SizeRootFs");
    if root > 0.0 { format!("{own} (virtual {})", decimal_size(root)) } else { own }
}

/// `a=1,b=2`, sorted.
pub fn labels(labels: &Value) -> String {
    let pair = |(key, value): (&String, &Value)| format!("{key}={}", text(value));
    labels.as_object().into_iter().flatten().map(pair).collect::<Vec<_>>().join(",")
}

fn keys(map: &Value) -> String {
    map.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect::<Vec<_>>().join(",")
}

fn mounts(container: &Value, is_short: bool) -> String {
    let name = |mount: &Value| {
        let name = text(&mount["Name"]);
        let name = if name.is_empty() { text(&mount["Source"]) } else { name };
        if is_short { out::ellipsis(name, 15) } else { name.to_owned() }
    };
    let mounts = container["Mounts"].as_array().into_iter().flatten();
    mounts.map(name).collect::<Vec<_>>().join(",")
}

fn local_volumes(container: &Value) -> String {
    let mounts = container["Mounts"].as_array().into_iter().flatten();
    mounts.filter(|m| m["Driver"] == "local").count().to_string()
}

/// `0.0.0.0:8080-8081->80-81/tcp, 443/tcp`: as docker shows them, neighbours
/// joined to ranges.
fn ports(list: &[Value]) -> String {
    struct Port {
        ip: String,
        public: u64,
        private: u64,
        kind: String,
    }
    let mut ports: Vec<Port> = list
        .iter()
        .map(|p| Port {
            ip: text(&p["IP"]).to_owned(),
            public: p["PublicPort"].as_u64().unwrap_or_default(),
            private: p["PrivatePort"].as_u64().unwrap_or_default(),
            kind: text(&p["Type"]).to_owned(),
        })
        .collect();
    ports.sort_by(|a, b| {
        (a.private, &a.ip, a.public, &a.kind).cmp(&(b.private, &b.ip, b.public, &b.kind))
    });
    let show = |first: &Port, last: &Port| {
        let range = |a: u64, b: u64| if a == b { a.to_string() } else { format!("{a}-{b}") };
        let container = format!("{}/{}", range(first.private, last.private), first.kind);
        if first.ip.is_empty() {
            return container;
        }
        let address =
            if first.ip.contains(':') { format!("[{}]", first.ip) } else { first.ip.clone() };
        format!("{address}:{}->{container}", range(first.public, last.public))
    };
    // Ranges are of one address and kind; a port published elsewhere than on
    // its own number stands alone, as with docker.
    let mut groups: Vec<(usize, usize)> = Vec::new();
    let mut alone: Vec<(usize, usize)> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let is_moved = port.public != 0 && port.public != port.private;
        if is_moved {
            alone.push((i, i));
            continue;
        }
        let found = groups.iter_mut().find(|(_, last)| {
            let last = &ports[*last];
            last.ip == port.ip
                && last.kind == port.kind
                && last.private + 1 == port.private
                && (last.public == 0) == (port.public == 0)
        });
        match found {
            Some((_, last)) => *last = i,
            None => groups.push((i, i)),
        }
    }
    let mut shown: Vec<((u64, u64), String)> = groups
        .into_iter()
        .map(|(a, b)| (a, b, 1))
        .chain(alone.into_iter().map(|(a, b)| (a, b, 0)))
        .map(|(a, b, order)| ((order, a as u64), show(&ports[a], &ports[b])))
        .collect();
    shown.sort_by_key(|(order, _)| *order);
    shown.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_ports() {
        let port = |ip: &str, public: u64, private: u64| json!({"IP": ip, "PublicPort": public, "PrivatePort": private, "Type": "tcp"});
        let exposed = |private: u64| json!({"PrivatePort": private, "Type": "tcp"});
        assert_eq!(ports(&[port("0.0.0.0", 8080, 80)]), "0.0.0.0:8080->80/tcp");
        assert_eq!(
            ports(&[port("0.0.0.0", 80, 80), port("::", 80, 80)]),
            "0.0.0.0:80->80/tcp, [::]:80->80/tcp"
        );
        assert_eq!(
            ports(&[port("0.0.0.0", 80, 80), port("0.0.0.0", 81, 81)]),
            "0.0.0.0:80-81->80-81/tcp"
        );
        assert_eq!(ports(&[exposed(80), exposed(81), exposed(443)]), "80-81/tcp, 443/tcp");
    }

    #[test]
    fn a_row() {
        let row = row(
            &json!({"Id": "0123456789abcdef", "Names": ["/web", "/other/alias"],
                "Image": "busybox", "ImageID": "sha256:ff", "Command": "sh -c 'echo a long one'",
                "Created": 0, "Status": "Up", "Ports": [], "Labels": {"b": "2", "a": "1"}}),
            true,
        );
        assert_eq!(row["ID"], "0123456789ab");
        assert_eq!(row["Names"], "web");
        assert_eq!(row["Command"], "\"sh -c 'echo a long …\"");
        assert_eq!(row["Labels"], "a=1,b=2");
    }
}
