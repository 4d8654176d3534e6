//! `stats`: what containers use, once or again and again.
//!
//! Be aware:
//! - One stream a container keeps the newest sample; a tick prints them all.
//!   The tick is of the screen, the samples arrive by themselves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::io::AsyncBufReadExt;
use tokio::task::JoinSet;

use crate::app::App;
use crate::client::Client;
use crate::failure;
use crate::out;
use crate::query::{Query, name};
use crate::table::{Column, Table};
use crate::units::{binary_size, decimal_size};

/// How often the screen is drawn.
const TICK: Duration = Duration::from_millis(500);

const COLUMNS: [Column; 8] = [
    Column { field: "ID", heading: "CONTAINER ID" },
    Column { field: "Name", heading: "NAME" },
    Column { field: "CPUPerc", heading: "CPU %" },
    Column { field: "MemUsage", heading: "MEM USAGE / LIMIT" },
    Column { field: "MemPerc", heading: "MEM %" },
    Column { field: "NetIO", heading: "NET I/O" },
    Column { field: "BlockIO", heading: "BLOCK I/O" },
    Column { field: "PIDs", heading: "PIDS" },
];

/// Show what containers use: processor, memory, network, disk
#[derive(Debug, Args)]
pub struct Stats {
    /// Show all containers, not only running ones
    #[arg(short, long)]
    all: bool,
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Print once and end
    #[arg(long)]
    no_stream: bool,
    /// Don't shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// The containers; all running ones when none is named
    #[arg(value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// The newest sample of each container, in the order of the user; null before
/// the first. Locked by the readers for one insertion and by the printer for
/// one copy.
type Samples = Arc<Mutex<BTreeMap<usize, (String, Value)>>>;

impl Stats {
    /// Prints the statistics.
    pub async fn run(self, app: &App) -> Result<()> {
        let format = self.format.clone().or_else(|| app.config.format("statsFormat"));
        let format = format.unwrap_or_default();
        let client = app.client().await?;
        let samples = Samples::default();
        let mut readers = JoinSet::new();
        let names = if self.containers.is_empty() {
            list(&client, self.all).await?
        } else {
            self.containers.clone()
        };
        for (i, container) in names.iter().enumerate() {
            follow(&client, &samples, &mut readers, i, container.clone(), !self.no_stream);
        }
        if self.no_stream {
            while let Some(done) = readers.join_next().await {
                done??;
            }
            return out::text(&self.render(&samples, &format)?);
        }
        self.watch(&client, &samples, readers, names.len(), &format).await
    }

    /// Draws until nothing is left to show; without names also what starts.
    async fn watch(
        &self,
        client: &Client,
        samples: &Samples,
        mut readers: JoinSet<Result<()>>,
        mut next: usize,
        format: &str,
    ) -> Result<()> {
        let is_open = self.containers.is_empty();
        let filters = ["type=container".to_owned(), "event=start".to_owned()];
        let events = client.get_stream("/events", &Query::new().filters(&filters)).await?;
        let mut events = events.lines();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                _ = tick.tick() => self.draw(samples, format)?,
                Some(done) = readers.join_next(), if !readers.is_empty() => {
                    if !is_open {
                        done??;
                        if readers.is_empty() {
                            return self.draw(samples, format);
                        }
                    }
                }
                event = events.next_line(), if is_open => {
                    let Some(event) = event? else { return Ok(()) };
                    let event: Value = serde_json::from_str(&event).unwrap_or_default();
                    if let Some(id) = event["Actor"]["ID"].as_str() {
                        follow(client, samples, &mut readers, next, id.to_owned(), true);
                        next += 1;
                    }
                }
            }
        }
    }

    fn draw(&self, samples: &Samples, format: &str) -> Result<()> {
        let text = self.render(samples, format)?;
        if !out::is_terminal() {
            return out::text(&text);
        }
        // From the corner, each line cleared to its end, then the rest.
        out::text(&format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")))
    }

    fn render(&self, samples: &Samples, format: &str) -> Result<String> {
        let samples = samples.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let rows = samples.values().map(|(named, s)| row(named, s, !self.no_trunc)).collect();
        Ok(Table { columns: COLUMNS.to_vec(), rows }.render(format)?)
    }
}

async fn list(client: &Client, all: bool) -> Result<Vec<String>> {
    let list = client.get("/containers/json", &Query::new().flag("all", all)).await?;
    let ids = list.as_array().into_iter().flatten().filter_map(|c| c["Id"].as_str());
    Ok(ids.map(str::to_owned).collect())
}

/// Keeps the newest sample of a container in `samples` until its stream ends.
fn follow(
    client: &Client,
    samples: &Samples,
    readers: &mut JoinSet<Result<()>>,
    place: usize,
    container: String,
    stream: bool,
) {
    let (client, samples) = (client.clone(), Arc::clone(samples));
    readers.spawn(async move {
        let query = Query::new().set("stream", if stream { "1" } else { "0" });
        let path = format!("/containers/{}/stats", name(&container));
        let mut lines = client.get_stream(&path, &query).await?.lines();
        loop {
            let line = lines.next_line().await;
            let mut samples = samples.lock().unwrap_or_else(PoisonError::into_inner);
            match line {
                Ok(Some(line)) if line.is_empty() => {}
                Ok(Some(line)) => {
                    let sample = serde_json::from_str(&line)?;
                    samples.insert(place, (container.clone(), sample));
                }
                Ok(None) => {
                    // One that ended leaves the screen; a single answer stays.
                    if stream {
                        samples.remove(&place);
                    }
                    return Ok(());
                }
                Err(e) => return Err(anyhow::anyhow!(failure::text(&e.into()))),
            }
        }
    });
}

fn row(named: &str, sample: &Value, is_short: bool) -> Map<String, Value> {
    let id = sample["id"].as_str().unwrap_or(named);
    let (usage, limit) = memory(sample);
    let share = if limit > 0.0 { usage / limit * 100.0 } else { 0.0 };
    let (received, sent) = network(sample);
    let (read, written) = disk(sample);
    let row = json!({
        "Container": named,
        "ID": if is_short { out::short_id(id) } else { id },
        "Name": sample["name"].as_str().unwrap_or("--").trim_start_matches('/'),
        "CPUPerc": format!("{:.2}%", processor(sample)),
        "MemUsage": format!("{} / {}", binary_size(usage), binary_size(limit)),
        "MemPerc": format!("{share:.2}%"),
        "NetIO": format!("{} / {}", decimal_size(received), decimal_size(sent)),
        "BlockIO": format!("{} / {}", decimal_size(read), decimal_size(written)),
        "PIDs": sample["pids_stats"]["current"].as_u64().unwrap_or_default().to_string(),
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_default()
}

/// The share of one processor since the sample before, in percent.
fn processor(sample: &Value) -> f64 {
    let (now, before) = (&sample["cpu_stats"], &sample["precpu_stats"]);
    let delta = |path: &str| {
        number(now.pointer(path).unwrap_or(&Value::Null))
            - number(before.pointer(path).unwrap_or(&Value::Null))
    };
    let (used, all) = (delta("/cpu_usage/total_usage"), delta("/system_cpu_usage"));
    let listed = now["cpu_usage"]["percpu_usage"].as_array().map_or(0, Vec::len);
    let online = now["online_cpus"].as_u64().filter(|n| *n > 0).unwrap_or(listed as u64);
    if used > 0.0 && all > 0.0 { used / all * online as f64 * 100.0 } else { 0.0 }
}

/// Used memory without the page cache that is free to go, and the limit.
fn memory(sample: &Value) -> (f64, f64) {
    let memory = &sample["memory_stats"];
    let usage = number(&memory["usage"]);
    let names = ["total_inactive_file", "inactive_file"];
    let cache = names.iter().filter_map(|n| memory["stats"][n].as_f64()).find(|c| *c < usage);
    (usage - cache.unwrap_or_default(), number(&memory["limit"]))
}

fn network(sample: &Value) -> (f64, f64) {
    let interfaces = sample["networks"].as_object().into_iter().flatten();
    interfaces.fold((0.0, 0.0), |(received, sent), (_, n)| {
        (received + number(&n["rx_bytes"]), sent + number(&n["tx_bytes"]))
    })
}

fn disk(sample: &Value) -> (f64, f64) {
    let entries = sample["blkio_stats"]["io_service_bytes_recursive"].as_array();
    entries.into_iter().flatten().fold((0.0, 0.0), |(read, written), e| {
        match e["op"].as_str().and_then(|op| op.chars().next()) {
            Some('r' | 'R') => (read + number(&e["value"]), written),
            Some('w' | 'W') => (read, written + number(&e["value"])),
            _ => (read, written),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample() {
        let sample = json!({
            "id": "0123456789abcdef", "name": "/web",
            "cpu_stats": {"cpu_usage": {"total_usage": 300}, "system_cpu_usage": 2000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 200}, "system_cpu_usage": 1000},
            "memory_stats": {"usage": 2_097_152, "limit": 67_108_864, "stats": {"inactive_file": 1_048_576}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 20}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "read", "value": 4096}]},
            "pids_stats": {"current": 3},
        });
        let row = row("web", &sample, true);
        assert_eq!(row["CPUPerc"], "20.00%");
        assert_eq!(row["MemUsage"], "1MiB / 64MiB");
        assert_eq!(row["MemPerc"], "1.56%");
        assert_eq!(row["NetIO"], "1kB / 20B");
        assert_eq!(row["BlockIO"], "4.1kB / 0B");
        assert_eq!(row["PIDs"], "3");
    }
}
