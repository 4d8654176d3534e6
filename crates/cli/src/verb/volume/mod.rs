//! `volume`.

mod backup;
mod care;
mod transfer;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::images::options;
use super::inspect::{InspectOne, Kind};
use super::prune::reclaimed;
use super::ps::labels;
use crate::app::App;
use crate::client::{Client, plain};
use crate::failure::{Failures, is_not_found};
use crate::out;
use crate::query::{Query, name, parse_filter};
use crate::table::{Column, Table};
use crate::units::{decimal_size, exact_size};

/// Manage volumes
#[derive(Debug, Subcommand)]
pub enum Volume {
    Backup(backup::Backup),
    Clone(care::Clone),
    /// Create a volume
    Create(Create),
    /// Show everything about volumes
    Inspect(InspectOne),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(List),
    /// Remove volumes that no container uses
    Prune(Prune),
    Receive(transfer::Receive),
    Rename(care::Rename),
    Resize(care::Resize),
    Restore(care::Restore),
    /// Remove volumes
    #[command(visible_alias = "remove")]
    Rm(Remove),
    Send(transfer::Send),
    Snapshot(care::Snapshot),
}

impl Volume {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        match self {
            Self::Backup(verb) => verb.run(app).await,
            Self::Clone(verb) => verb.run(app).await,
            Self::Create(verb) => verb.run(app).await,
            Self::Inspect(verb) => verb.run(app, Kind::Volume).await,
            Self::Ls(verb) => verb.run(app).await,
            Self::Prune(verb) => verb.run(app).await,
            Self::Receive(verb) => verb.run(app).await,
            Self::Rename(verb) => verb.run(app).await,
            Self::Resize(verb) => verb.run(app).await,
            Self::Restore(verb) => verb.run(app).await,
            Self::Rm(verb) => verb.run(app).await,
            Self::Send(verb) => verb.run(app).await,
            Self::Snapshot(verb) => verb.run(app).await,
        }
    }
}

/// `volume create`
#[derive(Debug, Args)]
pub struct Create {
    /// The driver
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Set metadata: KEY[=VALUE]
    #[arg(long)]
    label: Vec<String>,
    /// The volume's name
    #[arg(long, hide = true)]
    name: Option<String>,
    /// An option of the driver: KEY=VALUE
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
    /// The volume's name; the daemon finds one when there is none
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

impl Create {
    async fn run(self, app: &App) -> Result<()> {
        if self.name.is_some() && self.volume.is_some() {
            bail!(
                "conflicting options: cannot specify a volume-name through both --name and as a positional arg"
            );
        }
        let body = json!({
            "Name": self.volume.or(self.name).unwrap_or_default(),
            "Driver": self.driver,
            "DriverOpts": options(&self.opt),
            "Labels": options(&self.label),
        });
        let client = app.client().await?;
        let volume = client.post("/volumes/create", &Query::new(), Some(&body)).await?;
        out::line(volume["Name"].as_str().unwrap_or_default())
    }
}

/// `volume ls`
#[derive(Debug, Args)]
pub struct List {
    /// Show only what matches: dangling=…, driver=…, label=…, name=… (may be repeated)
    #[arg(short, long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
}

impl List {
    async fn run(self, app: &App) -> Result<()> {
        let format = self.format.clone().or_else(|| app.config.format("volumesFormat"));
        let client = app.client().await?;
        let answer = client.get("/volumes", &Query::new().filters(&self.filter)).await?;
        let mut list = answer["Volumes"].as_array().cloned().unwrap_or_default();
        list.sort_by_key(|v| v["Name"].as_str().unwrap_or_default().to_owned());
        if self.quiet && self.format.is_none() {
            let names = list.iter().filter_map(|v| v["Name"].as_str());
            return names.into_iter().try_for_each(out::line);
        }
        let columns = vec![
            Column { field: "Driver", heading: "DRIVER" },
            Column { field: "Name", heading: "VOLUME NAME" },
        ];
        let rows = list.iter().map(row).collect();
        out::text(&Table { columns, rows }.render(&format.unwrap_or_default())?)
    }
}

/// A row of the list, with every field that templates may name. Who refers to
/// it and how big it is only `system df` tells.
pub fn row(volume: &Value) -> Map<String, Value> {
    let usage = &volume["UsageData"];
    let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "N/A".to_owned());
    let row = json!({
        "Name": volume["Name"],
        "Driver": volume["Driver"],
        "Scope": volume["Scope"],
        "Mountpoint": volume["Mountpoint"],
        "Labels": labels(&volume["Labels"]),
        "Availability": "N/A",
        "Group": "N/A",
        "Links": or_unknown(usage["RefCount"].as_i64().map(|n| n.to_string())),
        "Size": or_unknown(usage["Size"].as_f64().map(exact_size)),
        "Status": "N/A",
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `volume rm`
#[derive(Debug, Args)]
pub struct Remove {
    /// Don't fail when there is no such volume
    #[arg(short, long)]
    force: bool,
    /// The volumes
    #[arg(required = true, value_name = "VOLUME")]
    volumes: Vec<String>,
}

impl Remove {
    async fn run(self, app: &App) -> Result<()> {
        use bollard::query_parameters::{RemoveVolumeOptions, RemoveVolumeOptionsBuilder};
        let client = app.client().await?;
        let options: RemoveVolumeOptions =
            RemoveVolumeOptionsBuilder::default().force(self.force).build();
        let mut failures = Failures::default();
        for volume in &self.volumes {
            let removed = client.docker().remove_volume(&name(volume), Some(options.clone())).await;
            match removed.map_err(plain) {
                Ok(()) => out::line(volume)?,
                Err(e) if self.force && is_not_found(&e) => out::line(volume)?,
                Err(e) => failures.add(&e),
            }
        }
        failures.end()
    }
}

/// `volume prune`
#[derive(Debug, Args)]
pub struct Prune {
    /// Remove all unused volumes, not only anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Only what matches: label=… (may be repeated)
    #[arg(long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl Prune {
    async fn run(self, app: &App) -> Result<()> {
        let mut filters = self.filter.clone();
        if self.all {
            filters.push("all=true".to_owned());
        }
        if self.dry_run {
            return would_prune(&app.client().await?, &filters).await;
        }
        let what = if self.all { "all local volumes" } else { "anonymous local volumes" };
        let warning =
            format!("WARNING! This will remove {what} not used by at least one container.");
        if !self.force && !out::confirm(&warning)? {
            return Ok(());
        }
        let space = prune(&app.client().await?, &filters).await?;
        out::line(&reclaimed(space))
    }
}

/// Prints what pruning would remove, and how much that is.
async fn would_prune(client: &Client, filters: &[String]) -> Result<()> {
    let found = client.get("/sampan/volumes/prunable", &Query::new().filters(filters)).await?;
    let size = |value: &Value| decimal_size(value.as_f64().unwrap_or_default());
    let columns = vec![
        Column { field: "Name", heading: "WOULD BE REMOVED" },
        Column { field: "Size", heading: "SIZE" },
    ];
    let volumes = found["Volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |v: &Value| {
        Map::from_iter([
            ("Name".to_owned(), v["Name"].clone()),
            ("Size".to_owned(), Value::String(size(&v["Size"]))),
        ])
    };
    if !volumes.is_empty() {
        let rows = volumes.iter().map(row).collect();
        out::text(&(Table { columns, rows }.render("")? + "\n"))?;
    }
    out::line(&format!("Would be reclaimed: {}", size(&found["SpaceReclaimed"])))
}

/// Removes unused volumes, prints their names, returns the bytes.
pub async fn prune(client: &Client, filters: &[String]) -> Result<f64> {
    let answer = client.post("/volumes/prune", &Query::new().filters(filters), None).await?;
    let names: Vec<&str> = answer["VolumesDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !names.is_empty() {
        out::text(&format!("Deleted Volumes:\n{}\n\n", names.join("\n")))?;
    }
    Ok(answer["SpaceReclaimed"].as_f64().unwrap_or_default())
}
