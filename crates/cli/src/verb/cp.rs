//! `cp`: files between a container and here, as tar archives.
//!
//! Be aware:
//! - The rules are docker's: a destination that is a directory takes the
//!   source in; one that doesn't exist becomes the source's new name; a
//!   source that ends in `/.` means what is in it.
//! - What a container sends is not trusted: it is unpacked below the
//!   destination only, and into a directory of its own when its name changes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::Value;
use tokio_util::io::SyncIoBridge;

use super::transfer;
use crate::app::App;
use crate::client::{Client, headers, nothing, reader, streamed};
use crate::failure::is_not_found;
use crate::out;
use crate::query::{Query, name};
use crate::units::exact_size;

/// Go's bits of a file's mode.
const GO_DIRECTORY: u64 = 1 << 31;
const GO_LINK: u64 = 1 << 27;

/// Copy files between a container and here
///
/// One of the two is CONTAINER:PATH. A - instead of a path means a tar archive on
/// standard input or output.
#[derive(Debug, Args)]
#[command(
    override_usage = "sampan cp [OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n       sampan cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH"
)]
pub struct Copy {
    /// Keep the owners of files
    #[arg(short, long)]
    archive: bool,
    /// Follow a link at SOURCE
    #[arg(short = 'L', long)]
    follow_link: bool,
    /// Say nothing
    #[arg(short, long)]
    quiet: bool,
    /// What to copy
    source: String,
    /// Where to
    destination: String,
}

impl Copy {
    /// Copies.
    pub async fn run(self, app: &App) -> Result<()> {
        match (split(&self.source), split(&self.destination)) {
            (Some((container, path)), None) => {
                let client = app.client().await?;
                self.fetch(&client, container, path).await
            }
            (None, Some((container, path))) => {
                let client = app.client().await?;
                self.put_into(&client, container, path).await
            }
            (Some(_), Some(_)) => bail!("copying between containers is not supported"),
            (None, None) => bail!("must specify at least one container source"),
        }
    }

    async fn fetch(&self, client: &Client, container: &str, path: &str) -> Result<()> {
        let mut path = path.to_owned();
        if self.follow_link {
            path = resolved(client, container, &path).await?;
        }
        let query = Query::new().set("path", &path);
        let url = archive_path(container);
        let answer = client.send(Method::GET, &url, &query, HeaderMap::new(), nothing()).await?;
        let stat = stat_of(answer.headers())?;
        if self.destination == "-" {
            return transfer::write(reader(answer), None).await;
        }
        let destination = PathBuf::from(&self.destination);
        let plan = Plan::new(&path, stat.is_directory, &destination)?;
        let input = SyncIoBridge::new(reader(answer));
        let keep_owners = self.archive;
        let size = tokio::task::spawn_blocking(move || plan.unpack(input, keep_owners)).await??;
        self.report(size, &self.destination);
        Ok(())
    }

    async fn put_into(&self, client: &Client, container: &str, path: &str) -> Result<()> {
        let mut target = path.to_owned();
        let mut found = stat(client, container, &target).await?;
        if found.as_ref().is_some_and(|s| !s.link.is_empty()) {
            target = resolved(client, container, &target).await?;
            found = stat(client, container, &target).await?;
        }
        let query =
            Query::new().set("noOverwriteDirNonDir", "true").flag("copyUIDGID", self.archive);
        if self.source == "-" {
            if found.is_some_and(|s| !s.is_directory) {
                bail!("destination \"{container}:{path}\" must be a directory");
            }
            let query = query.set("path", &target);
            return put(client, container, &query, tokio::io::stdin()).await;
        }
        let source = Source::new(Path::new(&self.source), self.follow_link)?;
        let (directory, renamed) = place(&source, &target, found.map(|s| s.is_directory))?;
        let (here, there) = tokio::io::duplex(256 * 1024);
        let there = SyncIoBridge::new(there);
        let packer = tokio::task::spawn_blocking(move || source.pack(&renamed, there));
        let query = query.set("path", &directory);
        put(client, container, &query, here).await?;
        let size = packer.await??;
        self.report(size, &self.destination);
        Ok(())
    }

    fn report(&self, size: u64, to: &str) {
        if !self.quiet && out::is_terminal() {
            out::note(&format!("Successfully copied {} to {to}", exact_size(size as f64)));
        }
    }
}

/// `CONTAINER:PATH`; a path that begins with `/` or `.` is one here.
fn split(text: &str) -> Option<(&str, &str)> {
    if text.starts_with('/') || text.starts_with('.') {
        return None;
    }
    text.split_once(':').filter(|(container, _)| !container.is_empty())
}

fn archive_path(container: &str) -> String {
    format!("/containers/{}/archive", name(container))
}

/// What the daemon says about a path in a container.
struct Stat {
    is_directory: bool,
    /// Where a link leads.
    link: String,
}

fn stat_of(headers: &HeaderMap) -> Result<Stat> {
    let header = headers.get("x-docker-container-path-stat");
    let header = header.context("the daemon's answer has no description of the path")?;
    let json: Value = serde_json::from_slice(&STANDARD.decode(header.as_bytes())?)?;
    let mode = json["mode"].as_u64().unwrap_or_default();
    let link = json["linkTarget"].as_str().unwrap_or_default().to_owned();
    let is_link = mode & GO_LINK != 0;
    Ok(Stat {
        is_directory: mode & GO_DIRECTORY != 0,
        link: if is_link { link } else { String::new() },
    })
}

/// `None` when there is nothing at the path.
async fn stat(client: &Client, container: &str, path: &str) -> Result<Option<Stat>> {
    let query = Query::new().set("path", path);
    let url = archive_path(container);
    match client.send(Method::HEAD, &url, &query, HeaderMap::new(), nothing()).await {
        Ok(answer) => stat_of(answer.headers()).map(Some),
        Err(e) if is_not_found(&e) => {
            // An answer to HEAD has no text: a GET tells a path from a container.
            let container_url = format!("/containers/{}/json", name(container));
            client.get(&container_url, &Query::new()).await?;
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Where a link leads to; the path itself when it is none.
async fn resolved(client: &Client, container: &str, path: &str) -> Result<String> {
    let Some(stat) = stat(client, container, path).await? else { return Ok(path.to_owned()) };
    if stat.link.is_empty() || stat.link.starts_with('/') {
        return Ok(if stat.link.is_empty() { path.to_owned() } else { stat.link });
    }
    let parent = path.trim_end_matches('/').rsplit_once('/').map_or("", |(parent, _)| parent);
    Ok(format!("{parent}/{}", stat.link))
}

async fn put(
    client: &Client,
    container: &str,
    query: &Query,
    input: impl tokio::io::AsyncRead + Send + 'static,
) -> Result<()> {
    let tar = headers(header::CONTENT_TYPE, HeaderValue::from_static("application/x-tar"));
    let url = archive_path(container);
    client.send(Method::PUT, &url, query, tar, streamed(input)).await.map(drop)
}

/// Where and as what something is put into a container: the directory and the
/// new name. `exists`: whether the destination is there, and is a directory.
fn place(source: &Source, target: &str, exists: Option<bool>) -> Result<(String, String)> {
    let trimmed = target.trim_end_matches('/');
    let (parent, base) = trimmed.rsplit_once('/').unwrap_or(("", trimmed));
    let parent = if parent.is_empty() { "/" } else { parent };
    match exists {
        Some(true) => {
            let directory = if trimmed.is_empty() { "/" } else { trimmed };
            Ok((directory.to_owned(), source.name.clone()))
        }
        Some(false) if source.is_directory => bail!("cannot copy directory"),
        None if !source.is_directory && target.ends_with('/') => {
            bail!("destination directory \"{target}\" doesn't exist")
        }
        _ => Ok((parent.to_owned(), base.to_owned())),
    }
}

/// A file or directory here that goes into a container.
struct Source {
    path: PathBuf,
    /// Its name in the archive; `.` for what is in it.
    name: String,
    is_directory: bool,
}

impl Source {
    fn new(path: &Path, follow: bool) -> Result<Self> {
        let text = path.to_string_lossy().into_owned();
        let failed = || format!("copy {text}");
        let is_content = text.ends_with("/.") || text == ".";
        let follows = follow || text.ends_with('/') || is_content;
        let absolute = std::path::absolute(path).with_context(failed)?;
        let metadata = if follows { absolute.metadata() } else { absolute.symlink_metadata() };
        let metadata = metadata.with_context(failed)?;
        let name = absolute.file_name().map_or_else(String::new, |n| n.to_string_lossy().into());
        let path = if follows { absolute.canonicalize().with_context(failed)? } else { absolute };
        let name = if is_content { ".".to_owned() } else { name };
        Ok(Self { path, name, is_directory: metadata.is_dir() })
    }

    /// Writes the archive; returns its bytes.
    fn pack(&self, renamed: &str, to: impl std::io::Write) -> Result<u64> {
        let to = Counting { to, count: 0 };
        let mut archive = tar::Builder::new(std::io::BufWriter::with_capacity(64 * 1024, to));
        archive.follow_symlinks(false);
        let failed = || format!("copy {}", self.path.display());
        if self.is_directory {
            archive.append_dir_all(renamed, &self.path).with_context(failed)?;
        } else {
            archive.append_path_with_name(&self.path, renamed).with_context(failed)?;
        }
        let out = archive.into_inner()?.into_inner().map_err(|e| e.into_error())?;
        Ok(out.count)
    }
}

/// Counts what goes through.
struct Counting<W> {
    to: W,
    count: u64,
}

impl<W: std::io::Write> std::io::Write for Counting<W> {
    fn write(&mut self, piece: &[u8]) -> std::io::Result<usize> {
        let written = self.to.write(piece)?;
        self.count += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.to.flush()
    }
}

/// Where an archive from a container goes.
enum Plan {
    /// Into a directory.
    Into(PathBuf),
    /// To a path, under a new name.
    As(PathBuf),
}

impl Plan {
    fn new(source: &str, source_is_directory: bool, destination: &Path) -> Result<Self> {
        let ends_with_slash = destination.to_string_lossy().ends_with('/');
        let is_content = source.ends_with("/.");
        match destination.metadata() {
            Ok(found) if found.is_dir() => Ok(Self::Into(destination.to_owned())),
            Ok(_) if source_is_directory => bail!("cannot copy directory"),
            Ok(_) => Ok(Self::As(destination.to_owned())),
            Err(_) if ends_with_slash && !source_is_directory => {
                bail!("destination directory \"{}\" doesn't exist", destination.display())
            }
            Err(_) if is_content => {
                let failed = || format!("create {}", destination.display());
                std::fs::create_dir(destination).with_context(failed)?;
                Ok(Self::Into(destination.to_owned()))
            }
            Err(_) => Ok(Self::As(destination.to_owned())),
        }
    }

    /// Unpacks; returns the bytes of files.
    fn unpack(&self, input: impl std::io::Read, keep_owners: bool) -> Result<u64> {
        match self {
            Self::Into(directory) => unpack(input, directory, keep_owners),
            Self::As(path) => {
                let absolute = std::path::absolute(path)?;
                let parent = absolute.parent().context("the destination has no directory")?;
                if !parent.is_dir() {
                    bail!("invalid output path: directory \"{}\" does not exist", parent.display());
                }
                let aside = parent.join(format!(".sampan-cp-{}", std::process::id()));
                std::fs::create_dir(&aside).with_context(|| format!("write {}", path.display()))?;
                let size = unpack(input, &aside, keep_owners).and_then(|size| {
                    let first =
                        std::fs::read_dir(&aside)?.next().context("the archive is empty")??;
                    std::fs::rename(first.path(), &absolute)
                        .with_context(|| format!("write {}", path.display()))?;
                    Ok(size)
                });
                let _ = std::fs::remove_dir_all(&aside);
                size
            }
        }
    }
}

fn unpack(input: impl std::io::Read, directory: &Path, keep_owners: bool) -> Result<u64> {
    let mut archive = tar::Archive::new(input);
    archive.set_preserve_permissions(true);
    archive.set_preserve_ownerships(keep_owners);
    archive.set_overwrite(true);
    let mut size = 0;
    for entry in archive.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let failed = || format!("copy {}", path.display());
        size += entry.size();
        if !entry.unpack_in(directory).with_context(failed)? {
            bail!("copy {}: it lies outside of the archive", path.display());
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_side_is_the_container() {
        assert_eq!(split("c:/x"), Some(("c", "/x")));
        assert_eq!(split("/c:/x"), None);
        assert_eq!(split("./c:x"), None);
        assert_eq!(split("-"), None);
    }

    #[test]
    fn where_it_goes() {
        let file = Source { path: "/a/f".into(), name: "f".into(), is_directory: false };
        let dir = Source { path: "/a/d".into(), name: "d".into(), is_directory: true };
        let at = |s: &Source, t: &str, e| place(s, t, e).unwrap();
        assert_eq!(at(&file, "/tmp", Some(true)), ("/tmp".into(), "f".into()));
        assert_eq!(at(&file, "/", Some(true)), ("/".into(), "f".into()));
        assert_eq!(at(&file, "/tmp/g", None), ("/tmp".into(), "g".into()));
        assert_eq!(at(&dir, "/tmp/e", None), ("/tmp".into(), "e".into()));
        assert_eq!(at(&file, "/g", Some(false)), ("/".into(), "g".into()));
        assert!(place(&dir, "/f", Some(false)).is_err());
        assert!(place(&file, "/no/", None).is_err());
    }

    #[test]
    fn archives_go_there_and_back() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::fs::write(dir.path().join("d/f"), "hello").unwrap();
        let source = Source::new(&dir.path().join("d"), false).unwrap();
        let mut archive = Vec::new();
        source.pack("renamed", &mut archive).unwrap();
        let plan = Plan::new("/x/renamed", true, &dir.path().join("new")).unwrap();
        plan.unpack(archive.as_slice(), false).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("new/f")).unwrap(), "hello");
        let into = Plan::new("/x/renamed", true, &dir.path().join("new")).unwrap();
        into.unpack(archive.as_slice(), false).unwrap();
        assert!(dir.path().join("new/renamed/f").exists());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "something is left");
    }
}
