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
            .flag("size", self.size || names_size(&format))
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

/// Whether a template needs sizes, which take the daemon a look at every file:
/// it names the field, or prints whole rows.
fn names_size(format: &str) -> bool {
    let whole = format.split("json .").skip(1).any(|rest| rest.starts_with(['}', ' ', '|']));
    whole || format.contains(".Size")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A row of the list, with every field that templates may name.
pub fn row(container: &Value, is_short: bool) -> Map<String, Value> {
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

/// A published or exposed port; no address: exposed.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Port<'a> {
    private: u64,
    ip: &'a str,
    public: u64,
    kind: &'a str,
}

/// Neighbouring ports of one address and kind, published under their own numbers.
struct Group<'a> {
    ip: &'a str,
    kind: &'a str,
    first: u64,
    last: u64,
}

impl std::fmt::Display for Group<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let range = if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{}-{}", self.first, self.last)
        };
        match self.ip {
            "" => write!(f, "{range}/{}", self.kind),
            ip => write!(f, "{}:{range}->{range}/{}", host(ip), self.kind),
        }
    }
}

fn host(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

/// `0.0.0.0:80-81->80-81/tcp, 443/tcp`: as docker shows them, neighbours
/// joined to ranges, ports that are published under another number last.
fn ports(list: &[Value]) -> String {
    let mut ports: Vec<Port<'_>> = list
        .iter()
        .map(|p| Port {
            private: p["PrivatePort"].as_u64().unwrap_or_default(),
            ip: text(&p["IP"]),
            public: p["PublicPort"].as_u64().unwrap_or_default(),
            kind: text(&p["Type"]),
        })
        .collect();
    ports.sort();
    let (mut closed, mut open, mut moved) = (Vec::new(), Vec::<Group<'_>>::new(), Vec::new());
    for port in ports {
        if !port.ip.is_empty() && port.public != port.private {
            let Port { private, ip, public, kind } = port;
            moved.push(format!("{}:{public}->{private}/{kind}", host(ip)));
            continue;
        }
        let mut same = open.iter_mut().filter(|g| g.ip == port.ip && g.kind == port.kind);
        let new = Group { ip: port.ip, kind: port.kind, first: port.private, last: port.private };
        match same.next() {
            Some(group) if group.last + 1 == port.private => group.last = port.private,
            Some(group) => closed.push(std::mem::replace(group, new).to_string()),
            None => open.push(new),
        }
    }
    closed.extend(open.iter().map(Group::to_string));
    closed.extend(moved);
    closed.join(", ")
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
    fn sizes_are_asked_for_when_they_are_shown() {
        for format in ["{{.Size}}", "{{json .}}", "table {{.ID}}\\t{{.Size}}", "{{ json . }}"] {
            assert!(names_size(format), "{format}");
        }
        for format in ["", "json", "{{.ID}}", "{{json .Labels}}"] {
            assert!(!names_size(format), "{format}");
        }
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
