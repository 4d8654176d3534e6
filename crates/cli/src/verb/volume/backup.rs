//! `volume backup`, `volume restore --from`: backups of volumes.
//!
//! Be aware: a passphrase comes from a file or the environment, never from
//! the command line, which everybody on the host can read.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::care::long;
use crate::app::App;
use crate::failure::exit;
use crate::out;
use crate::query::{Query, name};
use crate::table::{Column, Table};
use crate::units::decimal_size;

/// How a repository is opened.
#[derive(Debug, Args)]
pub struct Keys {
    /// A file of this host with the passphrase of the repository
    #[arg(long, value_name = "FILE", env = "SAMPAN_BACKUP_PASSWORD_FILE")]
    password_file: Option<PathBuf>,
    /// A file of the daemon's host with the passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "password_file")]
    key_file: Option<PathBuf>,
    /// A file of the daemon's host with the keys of S3, as AWS has it
    #[arg(long, value_name = "FILE")]
    s3_keys_file: Option<PathBuf>,
    /// A directory of the daemon's host with ca.pem, cert.pem and key.pem, for
    /// a repository of another daemon
    #[arg(long, value_name = "DIR")]
    tls_dir: Option<PathBuf>,
}

/// The passphrase, when no file is named.
const PASSWORD: &str = "SAMPAN_BACKUP_PASSWORD";

impl Keys {
    /// The body that every request for a repository has.
    fn body(&self, repository: &str) -> Result<Map<String, Value>> {
        let mut body = Map::new();
        body.insert("Repository".to_owned(), json!(absolute(repository)?));
        let secret = match &self.password_file {
            Some(file) => {
                let text = std::fs::read_to_string(file).with_context(|| {
                    format!("can't read the passphrase from {}", file.display())
                })?;
                Some(text.trim_end_matches(['\n', '\r']).to_owned())
            }
            None if self.key_file.is_some() => None,
            None => std::env::var(PASSWORD).ok(),
        };
        match (secret, &self.key_file) {
            (Some(secret), _) if secret.is_empty() => bail!("the passphrase is empty"),
            (Some(secret), _) => drop(body.insert("Secret".to_owned(), json!(secret))),
            (None, Some(file)) => drop(body.insert("KeyFile".to_owned(), json!(file))),
            (None, None) => bail!(
                "no passphrase is given: use --password-file, --key-file or the variable {PASSWORD}"
            ),
        }
        if let Some(file) = &self.s3_keys_file {
            body.insert("S3KeysFile".to_owned(), json!(file));
        }
        if let Some(dir) = &self.tls_dir {
            body.insert("TlsDir".to_owned(), json!(dir));
        }
        Ok(body)
    }
}

/// A directory is the daemon's: a relative one would be another there.
fn absolute(repository: &str) -> Result<&str> {
    let addresses = ["/", "s3:", "sampan:", "rest:"];
    if addresses.iter().any(|begin| repository.starts_with(begin)) {
        return Ok(repository);
    }
    bail!(
        "repository {repository}: write an absolute path of the daemon's host, or an address: \
         sampan://HOST/VOLUME, s3:…, rest:…"
    )
}

/// Back a volume up; the repository is made by the first backup
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Backup {
    #[command(subcommand)]
    look: Option<Look>,
    /// The volume
    #[arg(value_name = "VOLUME", required = true)]
    volume: Option<String>,
    /// The repository: /DIRECTORY, s3://BUCKET/PREFIX or s3:https://HOST/BUCKET/PREFIX
    #[arg(value_name = "REPOSITORY", required = true)]
    to: Option<String>,
    /// Which backups of the volume stay, e.g. 7d,4w,12m; all of them without it
    #[arg(long, value_name = "RULES")]
    keep: Option<String>,
    /// Hold the containers that use the volume while a clone of it is taken
    #[arg(long)]
    freeze: bool,
    /// Print only the backup's id
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    keys: Keys,
}

/// `volume backup ls` and `check`
#[derive(Debug, Subcommand)]
enum Look {
    /// List the backups in a repository
    Ls(List),
    /// Read a repository whole and say what is damaged; fails when anything is
    Check(Check),
}

impl Backup {
    /// Does it.
    pub async fn run(self, app: &App) -> Result<()> {
        match &self.look {
            Some(Look::Ls(list)) => return list.run(app).await,
            Some(Look::Check(check)) => return check.run(app).await,
            None => {}
        }
        let (Some(volume), Some(to)) = (&self.volume, &self.to) else {
            bail!("the volume and the repository are missing");
        };
        let mut body = self.keys.body(to)?;
        body.insert("Freeze".to_owned(), json!(self.freeze));
        if let Some(keep) = &self.keep {
            body.insert("Keep".to_owned(), json!(keep));
        }
        let client = app.client().await?;
        let path = format!("/sampan/volumes/{}/backup", name(volume));
        let made = long(&client, &path, &Value::Object(body), self.quiet).await?;
        for note in made["Notes"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            out::note(note);
        }
        if !self.quiet {
            let number = |key: &str| made[key].as_u64().unwrap_or_default();
            out::line(&format!(
                "{} files, {}; {} changed, {} sent",
                number("Files"),
                size(&made["Size"]),
                number("Changed"),
                size(&made["Sent"]),
            ))?;
        }
        out::line(made["Id"].as_str().unwrap_or_default())?;
        // What could not be read is in no backup: scripts must see that.
        if made["Unreadable"].as_u64().is_some_and(|n| n > 0) { Err(exit(3)) } else { Ok(()) }
    }
}

fn size(value: &Value) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    decimal_size(value.as_u64().unwrap_or_default() as f64)
}

/// `volume backup ls`
#[derive(Debug, Args)]
struct List {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    /// Only backups of this volume
    #[arg(long, value_name = "VOLUME")]
    volume: Option<String>,
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    keys: Keys,
}

impl List {
    async fn run(&self, app: &App) -> Result<()> {
        let mut body = self.keys.body(&self.repository)?;
        if let Some(volume) = &self.volume {
            body.insert("Volume".to_owned(), json!(volume));
        }
        let client = app.client().await?;
        let body = Value::Object(body);
        let found = client.post("/sampan/backups/list", &Query::new(), Some(&body)).await?;
        let found = found.as_array().cloned().unwrap_or_default();
        if self.quiet {
            let ids = found.iter().filter_map(|b| b["Id"].as_str());
            return ids.into_iter().try_for_each(out::line);
        }
        let columns = vec![
            Column { field: "ID", heading: "BACKUP ID" },
            Column { field: "Time", heading: "TIME" },
            Column { field: "Host", heading: "HOST" },
            Column { field: "Volume", heading: "VOLUME" },
            Column { field: "Files", heading: "FILES" },
            Column { field: "Size", heading: "SIZE" },
            Column { field: "Added", heading: "ADDED" },
        ];
        let rows = found.iter().map(row).collect();
        let format = self.format.clone().unwrap_or_default();
        out::text(&Table { columns, rows }.render(&format)?)
    }
}

fn row(backup: &Value) -> Map<String, Value> {
    let text = |key: &str| backup[key].as_str().unwrap_or_default().to_owned();
    let row = json!({
        "ID": out::short_id(&text("Id")),
        "Time": text("Time"),
        "Host": text("Host"),
        "Volume": text("Volume"),
        "Files": backup["Files"].to_string(),
        "Size": size(&backup["Size"]),
        "Added": size(&backup["Added"]),
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// `volume backup check`
#[derive(Debug, Args)]
struct Check {
    /// The repository
    #[arg(value_name = "REPOSITORY")]
    repository: String,
    #[command(flatten)]
    keys: Keys,
}

impl Check {
    async fn run(&self, app: &App) -> Result<()> {
        let body = self.keys.body(&self.repository)?;
        let client = app.client().await?;
        let found = long(&client, "/sampan/backups/check", &Value::Object(body), false).await?;
        let lines = |key: &str| -> Vec<String> {
            let list = found[key].as_array().into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        for warning in lines("Warnings") {
            out::line(&format!("warning: {warning}"))?;
        }
        let errors = lines("Errors");
        for error in &errors {
            out::line(&format!("error: {error}"))?;
        }
        if errors.is_empty() { out::line("the repository is whole") } else { Err(exit(1)) }
    }
}

/// What `volume restore --from` takes beside the volume.
#[derive(Debug, Args)]
pub struct FromBackup {
    /// A repository of backups, and after # the id of one; the volume's newest without it
    #[arg(long, value_name = "REPOSITORY[#ID]")]
    from: Option<String>,
    /// Give up what the volume holds
    #[arg(long, requires = "from")]
    replace: bool,
    /// Restore the rest when something in the backup is damaged
    #[arg(long, requires = "from")]
    partial: bool,
    #[command(flatten)]
    keys: Keys,
}

impl FromBackup {
    /// Whether a backup is what shall be restored.
    pub fn is_given(&self) -> bool {
        self.from.is_some()
    }

    /// Restores `volume`.
    pub async fn run(&self, app: &App, volume: &str, quiet: bool) -> Result<()> {
        let Some(from) = &self.from else { bail!("--from is missing") };
        let (repository, id) = match from.rsplit_once('#') {
            Some((repository, id)) => (repository, Some(id)),
            None => (from.as_str(), None),
        };
        let mut body = self.keys.body(repository)?;
        if let Some(id) = id.filter(|id| *id != "latest") {
            body.insert("Id".to_owned(), json!(id));
        }
        body.insert("Replace".to_owned(), json!(self.replace));
        body.insert("Partial".to_owned(), json!(self.partial));
        let client = app.client().await?;
        let path = format!("/sampan/volumes/{}/restore-backup", name(volume));
        let done = long(&client, &path, &Value::Object(body), quiet).await?;
        let damaged = done["Damaged"].as_array().cloned().unwrap_or_default();
        for damage in damaged.iter().filter_map(Value::as_str) {
            out::note(damage);
        }
        out::line(volume)?;
        if damaged.is_empty() { Ok(()) } else { Err(exit(3)) }
    }
}
