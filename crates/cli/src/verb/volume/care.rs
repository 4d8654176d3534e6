//! `volume snapshot`, `clone`, `restore`, `rename`, `resize`: looking after
//! volumes, which docker's command can't.

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use http::{HeaderMap, Method, header};
use serde_json::{Map, Value, json};

use super::backup::FromBackup;
use crate::app::App;
use crate::client::{Client, full, nothing, reader};
use crate::failure::Failures;
use crate::out;
use crate::progress::{self, Target};
use crate::query::{Query, name};
use crate::table::{Column, Table};
use crate::time;
use crate::verb::images::options;
use crate::verb::ps::labels;

/// Keep what a volume holds now, list and remove what was kept
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    override_usage = "sampan volume snapshot [OPTIONS] VOLUME [SNAPSHOT]\n       \
                      sampan volume snapshot ls [VOLUME]\n       \
                      sampan volume snapshot rm VOLUME@SNAPSHOT..."
)]
pub struct Snapshot {
    #[command(subcommand)]
    verb: Option<SnapshotVerb>,
    #[command(flatten)]
    create: SnapshotCreate,
}

#[derive(Debug, Subcommand)]
enum SnapshotVerb {
    /// Keep what a volume holds now
    Create(SnapshotCreate),
    /// List snapshots
    #[command(visible_alias = "list")]
    Ls(SnapshotList),
    /// Remove snapshots
    #[command(visible_alias = "remove")]
    Rm(SnapshotRemove),
}

impl Snapshot {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        match self.verb {
            None => self.create.run(app).await,
            Some(SnapshotVerb::Create(verb)) => verb.run(app).await,
            Some(SnapshotVerb::Ls(verb)) => verb.run(app).await,
            Some(SnapshotVerb::Rm(verb)) => verb.run(app).await,
        }
    }
}

/// Who writes to the volume while it is copied.
#[derive(Debug, Args)]
struct Freeze {
    /// Hold still the containers that write: pause them, or run the commands
    /// of their labels sampan.volume.freeze.pre and .post
    #[arg(long)]
    freeze: bool,
}

#[derive(Debug, Args)]
struct SnapshotCreate {
    #[command(flatten)]
    freeze: Freeze,
    /// Set metadata: KEY[=VALUE]
    #[arg(long)]
    label: Vec<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The volume
    #[arg(required = true, value_name = "VOLUME")]
    volume: Option<String>,
    /// The snapshot's name; made of the time when there is none
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Option<String>,
}

impl SnapshotCreate {
    async fn run(self, app: &App) -> Result<()> {
        let given = self.volume.unwrap_or_default();
        let (volume, at) = split(&given);
        if at.is_some() && self.snapshot.is_some() {
            bail!("the snapshot is named twice: {given} and {}", self.snapshot.unwrap_or_default());
        }
        let body = json!({
            "Name": self.snapshot.as_deref().or(at).unwrap_or_default(),
            "Labels": options(&self.label),
            "Freeze": self.freeze.freeze,
        });
        let path = format!("/sampan/volumes/{}/snapshots", name(volume));
        let made = long(&app.client().await?, &path, &body, self.quiet).await?;
        out::line(&format!("{volume}@{}", made["Name"].as_str().unwrap_or_default()))
    }
}

#[derive(Debug, Args)]
struct SnapshotList {
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Print only names
    #[arg(short, long)]
    quiet: bool,
    /// The volume; all of them when none is named
    #[arg(value_name = "VOLUME")]
    volume: Option<String>,
}

impl SnapshotList {
    async fn run(self, app: &App) -> Result<()> {
        let path = match &self.volume {
            Some(volume) => format!("/sampan/volumes/{}/snapshots", name(volume)),
            None => "/sampan/volumes/snapshots".to_owned(),
        };
        let answer = app.client().await?.get(&path, &Query::new()).await?;
        let all = answer.as_array().map(Vec::as_slice).unwrap_or_default();
        if self.quiet && self.format.is_none() {
            return all.iter().map(full_name).try_for_each(|name| out::line(&name));
        }
        let columns = vec![
            Column { field: "Volume", heading: "VOLUME" },
            Column { field: "Name", heading: "SNAPSHOT" },
            Column { field: "CreatedSince", heading: "CREATED" },
        ];
        let rows = all.iter().map(row).collect();
        out::text(&Table { columns, rows }.render(&self.format.unwrap_or_default())?)
    }
}

fn full_name(snapshot: &Value) -> String {
    let text = |key: &str| snapshot[key].as_str().unwrap_or_default();
    format!("{}@{}", text("Volume"), text("Name"))
}

fn row(snapshot: &Value) -> Map<String, Value> {
    let created = snapshot["CreatedAt"].as_str().unwrap_or_default();
    let row = json!({
        "Volume": snapshot["Volume"],
        "Name": snapshot["Name"],
        "FullName": full_name(snapshot),
        "CreatedAt": created,
        "CreatedSince": time::unix(created).map_or_else(|| "N/A".to_owned(), time::since),
        "Labels": labels(&snapshot["Labels"]),
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

#[derive(Debug, Args)]
struct SnapshotRemove {
    /// The snapshots: VOLUME@SNAPSHOT
    #[arg(required = true, value_name = "VOLUME@SNAPSHOT")]
    snapshots: Vec<String>,
}

impl SnapshotRemove {
    async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let mut failures = Failures::default();
        for given in &self.snapshots {
            let removed = match split(given) {
                (volume, Some(snapshot)) => remove(&client, volume, snapshot).await,
                (_, None) => Err(anyhow::anyhow!("{given}: name the snapshot as VOLUME@SNAPSHOT")),
            };
            match removed {
                Ok(()) => out::line(given)?,
                Err(e) => failures.add(&e),
            }
        }
        failures.end()
    }
}

async fn remove(client: &Client, volume: &str, snapshot: &str) -> Result<()> {
    let path = format!("/sampan/volumes/{}/snapshots/{}", name(volume), name(snapshot));
    client.send(Method::DELETE, &path, &Query::new(), HeaderMap::new(), nothing()).await?;
    Ok(())
}

/// Make a volume with the content of another one, or of a snapshot
#[derive(Debug, Args)]
pub struct Clone {
    #[command(flatten)]
    freeze: Freeze,
    /// Set metadata, besides that of the source: KEY[=VALUE]
    #[arg(long)]
    label: Vec<String>,
    /// An option of the driver, besides those of the source: size=10g
    #[arg(short, long, value_name = "OPTION")]
    opt: Vec<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The volume, or a snapshot of it
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    from: String,
    /// The new volume's name
    #[arg(value_name = "NEW")]
    to: String,
}

impl Clone {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        let (volume, snapshot) = split(&self.from);
        let body = json!({
            "Name": self.to,
            "Snapshot": snapshot.unwrap_or_default(),
            "Labels": options(&self.label),
            "DriverOpts": options(&self.opt),
            "Freeze": self.freeze.freeze,
        });
        let path = format!("/sampan/volumes/{}/clone", name(volume));
        let made = long(&app.client().await?, &path, &body, self.quiet).await?;
        out::line(made["Name"].as_str().unwrap_or_default())
    }
}

/// Give a volume the content that it had when a snapshot or a backup was made
#[derive(Debug, Args)]
pub struct Restore {
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
    /// The snapshot, for which the volume gives up what it holds now; with --from, the volume
    #[arg(value_name = "VOLUME[@SNAPSHOT]")]
    snapshot: String,
    #[command(flatten)]
    backup: FromBackup,
}

impl Restore {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        if self.backup.is_given() {
            return self.backup.run(app, &self.snapshot, self.quiet).await;
        }
        let (volume, Some(snapshot)) = split(&self.snapshot) else {
            bail!(
                "name the snapshot: {0}@SNAPSHOT; `sampan volume snapshot ls {0}` lists them; or \
                 a backup: --from REPOSITORY",
                self.snapshot
            );
        };
        let path = format!("/sampan/volumes/{}/rollback", name(volume));
        let body = json!({ "Snapshot": snapshot });
        long(&app.client().await?, &path, &body, self.quiet).await?;
        out::line(volume)
    }
}

/// Give a volume another name; stopped containers that refer to it follow
#[derive(Debug, Args)]
pub struct Rename {
    /// The volume
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Its new name
    #[arg(value_name = "NEW")]
    to: String,
}

impl Rename {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        let path = format!("/sampan/volumes/{}/rename", name(&self.volume));
        let body = json!({ "Name": self.to });
        let renamed = app.client().await?.post(&path, &Query::new(), Some(&body)).await?;
        out::line(renamed["Name"].as_str().unwrap_or_default())
    }
}

/// Change how much a volume may hold, also while it is used
#[derive(Debug, Args)]
pub struct Resize {
    /// The volume
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// How much: 10g; 0 for no bound
    #[arg(value_name = "SIZE")]
    size: String,
}

impl Resize {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        let path = format!("/sampan/volumes/{}/resize", name(&self.volume));
        let body = json!({ "Size": self.size });
        app.client().await?.post(&path, &Query::new(), Some(&body)).await?;
        out::line(&self.volume)
    }
}

/// `VOLUME@SNAPSHOT` in two.
#[must_use]
pub fn split(text: &str) -> (&str, Option<&str>) {
    match text.split_once('@') {
        Some((volume, snapshot)) => (volume, Some(snapshot)),
        None => (text, None),
    }
}

/// Posts what takes its time, shows its progress, gives what came of it.
pub(super) async fn long(client: &Client, path: &str, body: &Value, quiet: bool) -> Result<Value> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    let payload = full(body.to_string().into());
    let answer = client.send(Method::POST, path, &Query::new(), headers, payload).await?;
    // The result is for scripts: progress goes to the other side.
    let target = if quiet { Target::Quiet } else { Target::Stderr };
    let results = progress::show(reader(answer), target).await?;
    Ok(results.into_iter().next_back().unwrap_or(Value::Null))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_named_behind_an_at() {
        assert_eq!(split("data@one"), ("data", Some("one")));
        assert_eq!(split("data"), ("data", None));
    }
}
