//! `inspect`: everything the daemon knows about an object.

use anyhow::{Result, bail};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::app::App;
use crate::client::Client;
use crate::failure::{FAILED, exit_with, is_not_found, text};
use crate::query::{Query, name};
use crate::template::{Missing, Template};
use crate::{json, out};

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// A container.
    Container,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume.
    Volume,
    /// A network policy.
    #[value(skip)]
    Policy,
}

impl Kind {
    /// In the order in which a bare name is looked for.
    const ALL: [Self; 4] = [Self::Container, Self::Image, Self::Network, Self::Volume];

    fn path(self, object: &str) -> String {
        let object = name(object);
        match self {
            Self::Container => format!("/containers/{object}/json"),
            Self::Image => format!("/images/{object}/json"),
            Self::Network => format!("/networks/{object}"),
            Self::Volume => format!("/volumes/{object}"),
            Self::Policy => format!("/sampan/policies/{object}"),
        }
    }
}

/// Show everything about containers, images, networks or volumes
#[derive(Debug, Args)]
pub struct Inspect {
    /// How to print: json or TEMPLATE
    #[arg(short, long)]
    format: Option<String>,
    /// Show sizes of containers
    #[arg(short, long)]
    size: bool,
    /// Look only for objects of this kind
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<Kind>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    objects: Vec<String>,
}

/// Show everything about objects of one kind.
#[derive(Debug, Args)]
pub struct InspectOne {
    /// How to print: json or TEMPLATE
    #[arg(short, long)]
    format: Option<String>,
    /// Names or ids
    #[arg(required = true, value_name = "NAME|ID")]
    objects: Vec<String>,
}

/// Show everything about containers
#[derive(Debug, Args)]
pub struct InspectContainer {
    /// Show sizes
    #[arg(short, long)]
    size: bool,
    #[command(flatten)]
    one: InspectOne,
}

impl Inspect {
    /// Prints the objects.
    pub async fn run(self, app: &App) -> Result<()> {
        let kinds = self.kind.map_or(Kind::ALL.to_vec(), |k| vec![k]);
        show(app, &self.objects, &kinds, self.size, self.format.as_deref()).await
    }
}

impl InspectContainer {
    /// Prints the containers.
    pub async fn run(self, app: &App) -> Result<()> {
        let format = self.one.format.as_deref();
        show(app, &self.one.objects, &[Kind::Container], self.size, format).await
    }
}

impl InspectOne {
    /// Prints the objects of a kind.
    pub async fn run(self, app: &App, kind: Kind) -> Result<()> {
        show(app, &self.objects, &[kind], false, self.format.as_deref()).await
    }
}

async fn show(
    app: &App,
    objects: &[String],
    kinds: &[Kind],
    size: bool,
    format: Option<&str>,
) -> Result<()> {
    let template = match format {
        None | Some("" | "json") => None,
        Some(format) => Some(Template::parse(format, Missing::NoValue)?),
    };
    let client = app.client().await?;
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for object in objects {
        match find(&client, object, kinds, size).await {
            Ok(text) => found.push(String::from_utf8_lossy(&text).trim().to_owned()),
            Err(e) => problems.push(text(&e)),
        }
    }
    print(&found, template.as_ref(), format == Some("json"), &mut problems)?;
    if problems.is_empty() { Ok(()) } else { Err(exit_with(FAILED, problems.join("\n"))) }
}

fn print(
    found: &[String],
    template: Option<&Template>,
    is_compact: bool,
    problems: &mut Vec<String>,
) -> Result<()> {
    let Some(template) = template else {
        let list = format!("[{}]", found.join(","));
        return out::line(&if is_compact { list } else { json::indent(&list) });
    };
    if found.is_empty() {
        return out::line("");
    }
    for text in found {
        let value: Value = serde_json::from_str(text)?;
        match template.render(&value) {
            Ok(text) => out::line(&text)?,
            Err(e) => problems.push(format!("template parsing error: {e}")),
        }
    }
    Ok(())
}

async fn find(client: &Client, object: &str, kinds: &[Kind], size: bool) -> Result<Bytes> {
    for kind in kinds {
        let query = Query::new().flag("size", size && *kind == Kind::Container);
        match client.get_raw(&kind.path(object), &query).await {
            Err(e) if is_not_found(&e) && kinds.len() > 1 => {}
            other => return other,
        }
    }
    bail!("Error: No such object: {object}")
}
