//! The images that are here: `images`, `tag`, `rmi`, `history`, `commit`,
//! `image prune`.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::client::Client;
use crate::create;
use crate::failure::{Failures, is_not_found, text as words};
use crate::query::{Query, name, parse_filter};
use crate::reference::Reference;
use crate::table::{Column, Table};
use crate::units::{decimal_size, exact_size};
use crate::{out, time};

const NONE: &str = "<none>";

/// List images
#[derive(Debug, Args)]
pub struct Images {
    /// Show intermediate images too
    #[arg(short, long)]
    all: bool,
    /// Show digests
    #[arg(long)]
    digests: bool,
    /// Show only what matches: dangling=…, label=…, reference=… (may be repeated)
    #[arg(short, long, value_parser = parse_filter)]
    filter: Vec<String>,
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Don't shorten ids
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// Only this repository or image
    #[arg(value_name = "REPOSITORY[:TAG]")]
    matching: Option<String>,
}

impl Images {
    /// Prints the list.
    pub async fn run(self, app: &App) -> Result<()> {
        let format = self.format.clone().or_else(|| app.config.format("imagesFormat"));
        let format = format.unwrap_or_default();
        let mut filters = self.filter.clone();
        filters.extend(self.matching.iter().map(|m| format!("reference={m}")));
        let query = Query::new().flag("all", self.all).filters(&filters);
        let client = app.client().await?;
        let list = client.get("/images/json", &query).await?;
        let with_digests = self.digests || format.contains(".Digest");
        let list = list.as_array().map_or(&[][..], Vec::as_slice);
        let rows: Vec<_> =
            list.iter().flat_map(|i| rows(i, !self.no_trunc, with_digests)).collect();
        if self.quiet && self.format.is_none() {
            return rows.iter().try_for_each(|row| out::line(text(&row["ID"])));
        }
        let mut columns = vec![
            Column { field: "Repository", heading: "REPOSITORY" },
            Column { field: "Tag", heading: "TAG" },
            Column { field: "ID", heading: "IMAGE ID" },
            Column { field: "CreatedSince", heading: "CREATED" },
            Column { field: "Size", heading: "SIZE" },
        ];
        if self.digests {
            columns.insert(2, Column { field: "Digest", heading: "DIGEST" });
        }
        out::text(&Table { columns, rows }.render(&format)?)
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A row for each of an image's names, or one for none.
fn rows(image: &Value, is_short: bool, with_digests: bool) -> Vec<Map<String, Value>> {
    let list = |key: &str| -> Vec<&str> {
        let names = image[key].as_array().into_iter().flatten().map(text);
        names.filter(|n| !n.starts_with(NONE)).collect()
    };
    let (tags, digests) = (list("RepoTags"), list("RepoDigests"));
    let digests: Vec<(String, &str)> = digests
        .iter()
        .filter_map(|d| d.split_once('@'))
        .map(|(repository, digest)| (repository.to_owned(), digest))
        .collect();
    let mut names: Vec<(String, String, String)> = Vec::new();
    for tag in tags {
        let reference = Reference::parse(tag);
        let repository = reference.familiar_name();
        let own: Vec<_> = digests.iter().filter(|(r, _)| *r == repository).collect();
        if with_digests && !own.is_empty() {
            let named = own.iter();
            names.extend(named.map(|(r, d)| (r.clone(), reference.tag.clone(), (*d).to_owned())));
        } else {
            names.push((repository, reference.tag, NONE.to_owned()));
        }
    }
    if names.is_empty() {
        let repository = digests.first().map_or(NONE, |(r, _)| r);
        let digest = digests.first().map_or(NONE, |(_, d)| *d);
        names.push((repository.to_owned(), NONE.to_owned(), digest.to_owned()));
    }
    names.into_iter().map(|(r, t, d)| row(image, r, t, d, is_short)).collect()
}

/// A row of the list, with every field that templates may name.
pub fn row(
    image: &Value,
    repository: String,
    tag: String,
    digest: String,
    is_short: bool,
) -> Map<String, Value> {
    let created = image["Created"].as_i64().unwrap_or_default();
    let size = decimal_size(image["Size"].as_f64().unwrap_or_default());
    let count = |key: &str| match image[key].as_i64() {
        Some(n) if n >= 0 => n.to_string(),
        _ => "N/A".to_owned(),
    };
    let shared = image["SharedSize"].as_f64().filter(|n| *n >= 0.0);
    let own = shared.map(|s| exact_size(image["Size"].as_f64().unwrap_or_default() - s));
    let id = text(&image["Id"]);
    let row = json!({
        "Repository": repository,
        "Tag": tag,
        "Digest": digest,
        "ID": if is_short { out::short_id(id) } else { id },
        "CreatedSince": time::since(created),
        "CreatedAt": time::go_style(created),
        "Size": size,
        "VirtualSize": exact_size(image["Size"].as_f64().unwrap_or_default()),
        "Containers": count("Containers"),
        "SharedSize": shared.map_or_else(|| "N/A".to_owned(), exact_size),
        "UniqueSize": own.unwrap_or_else(|| "N/A".to_owned()),
    });
    match row {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Give an image another name
#[derive(Debug, Args)]
pub struct Tag {
    /// The image
    #[arg(value_name = "SOURCE[:TAG]")]
    source: String,
    /// Its new name
    #[arg(value_name = "TARGET[:TAG]")]
    target: String,
}

impl Tag {
    /// Tags the image.
    pub async fn run(self, app: &App) -> Result<()> {
        let target = Reference::parse(&self.target).or_latest();
        let query = Query::new().set("repo", target.familiar_name()).set("tag", target.tag);
        let client = app.client().await?;
        client.post(&format!("/images/{}/tag", name(&self.source)), &query, None).await.map(drop)
    }
}

/// Remove images
#[derive(Debug, Args)]
pub struct RemoveImages {
    /// Remove even images of stopped containers, and all of an image's names
    #[arg(short, long)]
    force: bool,
    /// Keep parents without a name
    #[arg(long)]
    no_prune: bool,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl RemoveImages {
    /// Removes the images.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let query = Query::new().flag("force", self.force).flag("noprune", self.no_prune);
        let mut failures = Failures::default();
        for image in &self.images {
            match remove(&client, image, &query).await {
                Ok(lines) => lines.iter().try_for_each(|l| out::line(l))?,
                Err(e) if self.force && is_not_found(&e) => out::note(&words(&e)),
                Err(e) => failures.add(&e),
            }
        }
        failures.end()
    }
}

async fn remove(client: &Client, image: &str, query: &Query) -> Result<Vec<String>> {
    let path = format!("/images/{}", name(image));
    let headers = http::HeaderMap::new();
    let nothing = crate::client::nothing();
    let answer = client.send(http::Method::DELETE, &path, query, headers, nothing).await?;
    let mut body = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut crate::client::reader(answer), &mut body).await?;
    let list: Value = serde_json::from_slice(&body)?;
    Ok(removed(&list))
}

/// `Untagged: NAME` and `Deleted: ID`.
pub fn removed(list: &Value) -> Vec<String> {
    let line = |item: &Value| match (item["Deleted"].as_str(), item["Untagged"].as_str()) {
        (Some(id), _) if !id.is_empty() => Some(format!("Deleted: {id}")),
        (_, Some(name)) if !name.is_empty() => Some(format!("Untagged: {name}")),
        _ => None,
    };
    list.as_array().into_iter().flatten().filter_map(line).collect()
}

/// Show how an image came to be
#[derive(Debug, Args)]
pub struct History {
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Print sizes and times for people
    #[arg(short = 'H', long, default_value_t = true, action = clap::ArgAction::Set,
        num_args = 0..=1, require_equals = true, default_missing_value = "true",
        value_name = "BOOL", hide_possible_values = true)]
    human: bool,
    /// Don't shorten anything
    #[arg(long)]
    no_trunc: bool,
    /// Print only ids
    #[arg(short, long)]
    quiet: bool,
    /// The image
    image: String,
}

impl History {
    /// Prints the history.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let path = format!("/images/{}/history", name(&self.image));
        let list = client.get(&path, &Query::new()).await?;
        let rows = list.as_array().into_iter().flatten().map(|e| self.row(e)).collect();
        let columns = vec![
            Column { field: "ID", heading: "IMAGE" },
            Column { field: "CreatedSince", heading: "CREATED" },
            Column { field: "CreatedBy", heading: "CREATED BY" },
            Column { field: "Size", heading: "SIZE" },
            Column { field: "Comment", heading: "COMMENT" },
        ];
        let table = Table { columns, rows };
        if self.quiet {
            return table.rows.iter().try_for_each(|row| out::line(text(&row["ID"])));
        }
        out::text(&table.render(self.format.as_deref().unwrap_or_default())?)
    }

    fn row(&self, entry: &Value) -> Map<String, Value> {
        let id = text(&entry["Id"]);
        let created = entry["Created"].as_i64().unwrap_or_default();
        let size = entry["Size"].as_f64().unwrap_or_default();
        let by = text(&entry["CreatedBy"]).replace('\t', " ");
        let at = time::rfc3339(created);
        let since = match created {
            i64::MIN..=0 => "N/A".to_owned(),
            _ if self.human => time::since(created),
            _ => at.clone(),
        };
        let row = json!({
            "ID": if self.no_trunc { id } else { out::short_id(id) },
            "CreatedSince": since,
            "CreatedAt": at,
            "CreatedBy": if self.no_trunc { by } else { out::ellipsis(&by, 45) },
            "Size": if self.human { decimal_size(size) } else { size.to_string() },
            "Comment": text(&entry["Comment"]),
        });
        match row {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// Make an image from a container
#[derive(Debug, Args)]
pub struct Commit {
    /// The author, as "Ann <ann@example.org>"
    #[arg(short, long)]
    author: Option<String>,
    /// Apply an instruction of a Dockerfile, as 'CMD ["sh"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The message of the image's history
    #[arg(short, long)]
    message: Option<String>,
    /// Pause the container meanwhile
    #[arg(short, long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    pause: bool,
    /// The container
    container: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<String>,
}

impl Commit {
    /// Makes the image and prints its id.
    pub async fn run(self, app: &App) -> Result<()> {
        let image = self.image.as_ref().map(|i| Reference::parse(i).or_latest());
        let query = Query::new()
            .set("container", &self.container)
            .opt("repo", image.as_ref().map(Reference::familiar_name))
            .opt("tag", image.as_ref().map(|i| &i.tag))
            .opt("comment", self.message.as_ref())
            .opt("author", self.author.as_ref())
            .set("pause", if self.pause { "1" } else { "0" });
        let query = self.change.iter().fold(query, |q, change| q.set("changes", change));
        let client = app.client().await?;
        let answer = client.post("/commit", &query, Some(&json!({}))).await?;
        out::line(text(&answer["Id"]))
    }
}

/// `name=value` options as an object.
pub fn options(list: &[String]) -> Value {
    create::pairs(list)
}
