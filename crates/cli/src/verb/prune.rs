//! `container prune`, `image prune`, `system prune`.

use anyhow::Result;
use clap::Args;
use serde_json::Value;

use super::images::removed;
use super::{network, volume};
use crate::app::App;
use crate::client::Client;
use crate::out;
use crate::query::{Query, parse_filter};
use crate::units::exact_size;

/// The last line of every prune.
pub fn reclaimed(bytes: f64) -> String {
    format!("Total reclaimed space: {}", exact_size(bytes))
}

/// Remove all stopped containers
#[derive(Debug, Args)]
pub struct PruneContainers {
    /// Only what matches: until=…, label=… (may be repeated)
    #[arg(long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl PruneContainers {
    /// Removes them.
    pub async fn run(self, app: &App) -> Result<()> {
        let warning = "WARNING! This will remove all stopped containers.";
        if !self.force && !out::confirm(warning)? {
            return Ok(());
        }
        let space = containers(&app.client().await?, &self.filter).await?;
        out::line(&reclaimed(space))
    }
}

async fn containers(client: &Client, filters: &[String]) -> Result<f64> {
    let answer = client.post("/containers/prune", &Query::new().filters(filters), None).await?;
    let ids: Vec<&str> = answer["ContainersDeleted"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    if !ids.is_empty() {
        out::text(&format!("Deleted Containers:\n{}\n\n", ids.join("\n")))?;
    }
    Ok(answer["SpaceReclaimed"].as_f64().unwrap_or_default())
}

/// Remove images that no container uses
#[derive(Debug, Args)]
pub struct PruneImages {
    /// Remove all unused images, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only what matches: until=…, label=… (may be repeated)
    #[arg(long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
}

impl PruneImages {
    /// Removes them.
    pub async fn run(self, app: &App) -> Result<()> {
        let what = if self.all {
            "all images without at least one container associated to them"
        } else {
            "all dangling images"
        };
        if !self.force && !out::confirm(&format!("WARNING! This will remove {what}."))? {
            return Ok(());
        }
        let space = images(&app.client().await?, &self.filter, self.all).await?;
        out::line(&reclaimed(space))
    }
}

async fn images(client: &Client, filters: &[String], all: bool) -> Result<f64> {
    let mut filters = filters.to_vec();
    filters.push(format!("dangling={}", !all));
    let answer = client.post("/images/prune", &Query::new().filters(&filters), None).await?;
    // docker writes these in small letters here.
    let lines: Vec<String> = removed(&answer["ImagesDeleted"])
        .iter()
        .map(|l| l.replacen("Deleted", "deleted", 1).replacen("Untagged", "untagged", 1))
        .collect();
    if !lines.is_empty() {
        out::text(&format!("Deleted Images:\n{}\n\n", lines.join("\n")))?;
    }
    Ok(answer["SpaceReclaimed"].as_f64().unwrap_or_default())
}

/// Remove everything that nothing uses: containers, networks, images
#[derive(Debug, Args)]
pub struct PruneAll {
    /// Remove all unused images, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Only what matches: until=…, label=… (may be repeated)
    #[arg(long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// Don't ask
    #[arg(short, long)]
    force: bool,
    /// Remove anonymous volumes too
    #[arg(long)]
    volumes: bool,
}

impl PruneAll {
    /// Removes it.
    pub async fn run(self, app: &App) -> Result<()> {
        if !self.force && !out::confirm(&self.warning())? {
            return Ok(());
        }
        let client = app.client().await?;
        let mut space = containers(&client, &self.filter).await?;
        network::prune(&client, &self.filter).await?;
        if self.volumes {
            // Volumes have no time of their own.
            let filters: Vec<String> =
                self.filter.iter().filter(|f| !f.starts_with("until=")).cloned().collect();
            space += volume::prune(&client, &filters).await?;
        }
        space += images(&client, &self.filter, self.all).await?;
        out::line(&reclaimed(space))
    }

    fn warning(&self) -> String {
        let mut lines = vec![
            "WARNING! This will remove:".to_owned(),
            "  - all stopped containers".to_owned(),
            "  - all networks not used by at least one container".to_owned(),
        ];
        if self.volumes {
            lines.push("  - all anonymous volumes not used by at least one container".to_owned());
        }
        lines.push(if self.all {
            "  - all images without at least one container associated to them".to_owned()
        } else {
            "  - all dangling images".to_owned()
        });
        if !self.filter.is_empty() {
            lines.push("\n  Items to be pruned will be filtered with:".to_owned());
            lines.extend(self.filter.iter().map(|f| format!("  - {f}")));
        }
        lines.join("\n") + "\n"
    }
}
