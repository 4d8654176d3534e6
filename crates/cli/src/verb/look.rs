//! Looking at one container: `top`, `port`, `diff`, `logs`.

use anyhow::{Result, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use crate::app::App;
use crate::client::plain;
use crate::query::{Query, name};
use crate::stream::{self, Streams};
use crate::table::align;
use crate::{out, time};

/// The narrowest column of `top`.
const TOP_WIDTH: usize = 20;

/// Show a container's processes
#[derive(Debug, Args)]
#[command(override_usage = "sampan top CONTAINER [ps OPTIONS]")]
pub struct Top {
    /// The container, then options of ps
    #[arg(required = true, trailing_var_arg = true, value_name = "CONTAINER [ps OPTIONS]")]
    words: Vec<String>,
}

impl Top {
    /// Prints the processes.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let (container, options) = self.words.split_first().unwrap_or((&self.words[0], &[]));
        let options = Some(options.join(" ")).filter(|o| !o.is_empty());
        let query = Query::new().opt("ps_args", options);
        let answer = client.get(&format!("/containers/{}/top", name(container)), &query).await?;
        let cells = |row: &Value| -> Vec<String> {
            let cells = row.as_array().into_iter().flatten().filter_map(Value::as_str);
            cells.map(str::to_owned).collect()
        };
        let mut rows = vec![cells(&answer["Titles"])];
        rows.extend(answer["Processes"].as_array().into_iter().flatten().map(cells));
        out::text(&align(&rows, TOP_WIDTH))
    }
}

/// Show where a container's ports are published
#[derive(Debug, Args)]
pub struct Port {
    /// The container
    container: String,
    /// Only this port
    #[arg(value_name = "PORT[/PROTOCOL]")]
    port: Option<String>,
}

impl Port {
    /// Prints the ports.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let path = format!("/containers/{}/json", name(&self.container));
        let container = client.get(&path, &Query::new()).await?;
        let ports = &container["NetworkSettings"]["Ports"];
        let bindings = |port: &Value| -> Vec<String> {
            let binding = |b: &Value| {
                let word = |key: &str| b[key].as_str().unwrap_or_default().to_owned();
                let (ip, port) = (word("HostIp"), word("HostPort"));
                if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
            };
            port.as_array().into_iter().flatten().map(binding).collect()
        };
        let Some(wanted) = &self.port else {
            let mut all: Vec<(u16, &String, String)> = Vec::new();
            for (port, list) in ports.as_object().into_iter().flatten() {
                let number = port.split('/').next().and_then(|n| n.parse().ok()).unwrap_or(0);
                all.extend(bindings(list).into_iter().map(|b| (number, port, b)));
            }
            all.sort();
            return all.iter().try_for_each(|(_, port, b)| out::line(&format!("{port} -> {b}")));
        };
        let key = if wanted.contains('/') { wanted.clone() } else { format!("{wanted}/tcp") };
        let found = bindings(&ports[&key]);
        if found.is_empty() {
            bail!("Error: No public port '{wanted}' published for {}", self.container);
        }
        found.iter().try_for_each(|b| out::line(b))
    }
}

/// Show what a container changed in its file system
#[derive(Debug, Args)]
pub struct Diff {
    /// The container
    container: String,
}

impl Diff {
    /// Prints the changes: A added, C changed, D deleted.
    pub async fn run(self, app: &App) -> Result<()> {
        use bollard::models::ChangeType;
        let client = app.client().await?;
        let changes = client.docker().container_changes(&name(&self.container)).await;
        for change in changes.map_err(plain)?.unwrap_or_default() {
            let kind = match change.kind {
                ChangeType::_0 => 'C',
                ChangeType::_1 => 'A',
                ChangeType::_2 => 'D',
            };
            out::line(&format!("{kind} {}", change.path))?;
        }
        Ok(())
    }
}

/// Show a container's output
#[derive(Debug, Args)]
pub struct Logs {
    /// Show the details of the log driver's options
    #[arg(long)]
    details: bool,
    /// Go on as more is written
    #[arg(short, long)]
    follow: bool,
    /// Only from this time: 42m ago, or 2025-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only the last N lines, or all
    #[arg(short = 'n', long, value_name = "N", default_value = "all", allow_hyphen_values = true)]
    tail: String,
    /// Show when each line was written
    #[arg(short, long)]
    timestamps: bool,
    /// Only until this time: 42m ago, or 2025-01-31T12:00:00Z
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// The container
    container: String,
}

impl Logs {
    /// Prints the output.
    pub async fn run(self, app: &App) -> Result<()> {
        let now = Timestamp::now();
        let moment =
            |text: &Option<String>| text.as_ref().map(|t| time::for_api(t, now)).transpose();
        let query = Query::new()
            .set("stdout", "1")
            .set("stderr", "1")
            .opt("since", moment(&self.since)?)
            .opt("until", moment(&self.until)?)
            .flag("timestamps", self.timestamps)
            .flag("follow", self.follow)
            .flag("details", self.details)
            .set("tail", &self.tail);
        let client = app.client().await?;
        let path = format!("/containers/{}", name(&self.container));
        let container = client.get(&format!("{path}/json"), &Query::new()).await?;
        let tty = container["Config"]["Tty"] == true;
        let mut output = client.get_stream(&format!("{path}/logs"), &query).await?;
        let streams = Streams { stdin: false, stdout: true, stderr: true, tty };
        stream::print(&mut output, streams).await
    }
}
