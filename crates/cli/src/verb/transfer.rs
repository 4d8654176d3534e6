//! Images in and out: `pull`, `push`, `load`, `save`, `import`, `export`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWriteExt};

use crate::app::App;
use crate::client::{Client, headers, nothing, reader, streamed};
use crate::out;
use crate::progress::{self, Target};
use crate::query::{Query, name};
use crate::reference::Reference;

const AUTH: HeaderName = HeaderName::from_static("x-registry-auth");

fn auth(app: &App, domain: &str) -> Result<HeaderMap> {
    Ok(headers(AUTH, HeaderValue::from_str(&app.config.auth_header(domain)?)?))
}

/// Download an image from a registry
#[derive(Debug, Args)]
pub struct Pull {
    /// Download every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// The platform of the image: os/arch[/variant]
    #[arg(long, env = "DOCKER_DEFAULT_PLATFORM")]
    platform: Option<String>,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    image: String,
}

impl Pull {
    /// Pulls the image.
    pub async fn run(self, app: &App) -> Result<()> {
        let named = Reference::parse(&self.image);
        if self.all_tags && !(named.tag.is_empty() && named.digest.is_empty()) {
            bail!("tag can't be used with --all-tags/-a");
        }
        let has_no_tag = named.tag.is_empty() && named.digest.is_empty();
        if has_no_tag && !self.all_tags && !self.quiet {
            out::line("Using default tag: latest")?;
        }
        let image = if self.all_tags { named } else { named.or_latest() };
        let target = if self.quiet { Target::Quiet } else { Target::Stdout };
        let client = app.client().await?;
        pull(app, &client, &image, self.platform.as_deref(), target).await?;
        out::line(&image.full())
    }
}

/// Pulls for `run` and `create`, whose output is something else.
pub async fn pull_for_run(
    app: &App,
    client: &Client,
    image: &str,
    platform: Option<&str>,
    quiet: bool,
) -> Result<()> {
    let image = Reference::parse(image).or_latest();
    let target = if quiet { Target::Quiet } else { Target::Stderr };
    pull(app, client, &image, platform, target).await
}

async fn pull(
    app: &App,
    client: &Client,
    image: &Reference,
    platform: Option<&str>,
    target: Target,
) -> Result<()> {
    let tag = if image.digest.is_empty() { &image.tag } else { &image.digest };
    let query = Query::new()
        .set("fromImage", image.familiar_name())
        .set("tag", tag)
        .opt("platform", platform);
    let auth = auth(app, &image.domain)?;
    let answer = client.send(Method::POST, "/images/create", &query, auth, nothing()).await?;
    progress::show(reader(answer), target).await.map(drop)
}

/// Upload an image to a registry
#[derive(Debug, Args)]
pub struct Push {
    /// Upload every tag of the repository
    #[arg(short, long)]
    all_tags: bool,
    /// Upload only this platform: os/arch[/variant]
    #[arg(long)]
    platform: Option<String>,
    /// Print only the image's name
    #[arg(short, long)]
    quiet: bool,
    /// The image
    #[arg(value_name = "NAME[:TAG]")]
    image: String,
}

impl Push {
    /// Pushes the image.
    pub async fn run(self, app: &App) -> Result<()> {
        let named = Reference::parse(&self.image);
        if self.all_tags && !named.tag.is_empty() {
            bail!("tag can't be used with --all-tags/-a");
        }
        if named.tag.is_empty() && !self.all_tags && !self.quiet {
            out::line("Using default tag: latest")?;
        }
        let image = if self.all_tags { named } else { named.or_latest() };
        let platform = self.platform.as_deref().map(platform_json).transpose()?;
        let query = Query::new()
            .opt("tag", Some(&image.tag).filter(|t| !t.is_empty()))
            .opt("platform", platform);
        let client = app.client().await?;
        let path = format!("/images/{}/push", name(&image.familiar_name()));
        let auth = auth(app, &image.domain)?;
        let answer = client.send(Method::POST, &path, &query, auth, nothing()).await?;
        let target = if self.quiet { Target::Quiet } else { Target::Stdout };
        progress::show(reader(answer), target).await?;
        if self.quiet { out::line(&image.full()) } else { Ok(()) }
    }
}

/// `os/arch[/variant]` as the API's JSON.
pub fn platform_json(text: &str) -> Result<String> {
    let parts: Vec<&str> = text.split('/').collect();
    let json = match parts.as_slice() {
        [os, arch] => serde_json::json!({"os": os, "architecture": arch}),
        [os, arch, variant] => {
            serde_json::json!({"os": os, "architecture": arch, "variant": variant})
        }
        _ => bail!("invalid platform {text:?}: os/arch[/variant] is expected"),
    };
    Ok(json.to_string())
}

/// Load images from a tar archive
#[derive(Debug, Args)]
pub struct Load {
    /// Read this file instead of standard input
    #[arg(short, long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Load only this platform: os/arch[/variant]
    #[arg(long)]
    platform: Option<String>,
    /// Show no progress
    #[arg(short, long)]
    quiet: bool,
}

impl Load {
    /// Loads the images.
    pub async fn run(self, app: &App) -> Result<()> {
        let input: Box<dyn AsyncRead + Send + Unpin> = match &self.input {
            Some(path) => Box::new(open(path).await?),
            None if crate::terminal::stdin_is_terminal() => {
                bail!("requested load from stdin, but stdin is empty");
            }
            None => Box::new(tokio::io::stdin()),
        };
        let platform = self.platform.as_deref().map(platform_json).transpose()?;
        let is_quiet = self.quiet || !out::is_terminal();
        let query = Query::new().flag("quiet", is_quiet).opt("platform", platform);
        let client = app.client().await?;
        let tar = HeaderValue::from_static("application/x-tar");
        let headers = headers(header::CONTENT_TYPE, tar);
        let body = streamed(input);
        let answer = client.send(Method::POST, "/images/load", &query, headers, body).await?;
        progress::show(reader(answer), Target::Stdout).await.map(drop)
    }
}

/// Opens a file to be read.
pub async fn open(path: &Path) -> Result<tokio::fs::File> {
    tokio::fs::File::open(path).await.with_context(|| format!("open {}", path.display()))
}

/// Save images to a tar archive
#[derive(Debug, Args)]
pub struct Save {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Save only this platform: os/arch[/variant]
    #[arg(long)]
    platform: Option<String>,
    /// The images
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

impl Save {
    /// Saves the images.
    pub async fn run(self, app: &App) -> Result<()> {
        refuse_terminal("save", self.output.as_deref())?;
        let platform = self.platform.as_deref().map(platform_json).transpose()?;
        let query = Query::new();
        let query = self.images.iter().fold(query, |q, image| q.set("names", image));
        let client = app.client().await?;
        let archive = client.get_stream("/images/get", &query.opt("platform", platform)).await?;
        write(archive, self.output.as_deref()).await
    }
}

/// Save a container's file system to a tar archive
#[derive(Debug, Args)]
pub struct Export {
    /// Write to this file instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The container
    container: String,
}

impl Export {
    /// Exports the file system.
    pub async fn run(self, app: &App) -> Result<()> {
        refuse_terminal("export", self.output.as_deref())?;
        let client = app.client().await?;
        let path = format!("/containers/{}/export", name(&self.container));
        let archive = client.get_stream(&path, &Query::new()).await?;
        write(archive, self.output.as_deref()).await
    }
}

/// Binary content is nothing for a terminal.
pub fn refuse_terminal(verb: &str, output: Option<&Path>) -> Result<()> {
    if output.is_none() && out::is_terminal() {
        bail!("cowardly refusing to {verb} to a terminal. Use the -o flag or redirect");
    }
    Ok(())
}

/// Copies to standard output, or to a file that takes its name when complete.
pub async fn write(from: impl AsyncBufRead, to: Option<&Path>) -> Result<()> {
    tokio::pin!(from);
    let Some(path) = to else {
        let mut out = tokio::io::stdout();
        tokio::io::copy_buf(&mut from, &mut out).await?;
        return Ok(out.flush().await?);
    };
    let failed = || format!("write {}", path.display());
    // A device or a pipe is written to as it is.
    let is_special = tokio::fs::metadata(path).await.is_ok_and(|m| !m.is_file());
    let mut name = path.file_name().with_context(failed)?.to_owned();
    name.push(format!(".{}", std::process::id()));
    let target = if is_special { path.to_owned() } else { path.with_file_name(name) };
    let copied = async {
        let mut file = tokio::fs::File::create(&target).await?;
        tokio::io::copy_buf(&mut from, &mut file).await?;
        file.flush().await
    };
    let copied = copied.await;
    if is_special {
        return copied.with_context(failed);
    }
    match copied {
        Ok(()) => tokio::fs::rename(&target, path).await.with_context(failed),
        Err(e) => {
            let _ = tokio::fs::remove_file(&target).await;
            Err(e).with_context(failed)
        }
    }
}

/// Make an image from a tar archive of a file system
#[derive(Debug, Args)]
#[command(override_usage = "sampan import [OPTIONS] FILE|URL|- [REPOSITORY[:TAG]]")]
pub struct Import {
    /// Apply an instruction of a Dockerfile, as 'CMD ["sh"]'
    #[arg(short, long, value_name = "INSTRUCTION")]
    change: Vec<String>,
    /// The message of the image's history
    #[arg(short, long)]
    message: Option<String>,
    /// The platform of the image: os/arch[/variant]
    #[arg(long)]
    platform: Option<String>,
    /// The archive; - for standard input
    #[arg(value_name = "FILE|URL|-")]
    source: String,
    /// The image's name
    #[arg(value_name = "REPOSITORY[:TAG]")]
    image: Option<String>,
}

impl Import {
    /// Imports the archive.
    pub async fn run(self, app: &App) -> Result<()> {
        let is_url = self.source.starts_with("http://") || self.source.starts_with("https://");
        let body = match self.source.as_str() {
            "-" => streamed(tokio::io::stdin()),
            _ if is_url => nothing(),
            path => streamed(open(Path::new(path)).await?),
        };
        let query = Query::new()
            .set("fromSrc", if is_url { self.source.as_str() } else { "-" })
            .opt("repo", self.image.as_ref())
            .opt("message", self.message.as_ref())
            .opt("platform", self.platform.as_ref());
        let query = self.change.iter().fold(query, |q, change| q.set("changes", change));
        let client = app.client().await?;
        let headers = HeaderMap::new();
        let answer = client.send(Method::POST, "/images/create", &query, headers, body).await?;
        progress::show(reader(answer), Target::Stdout).await.map(drop)
    }
}
