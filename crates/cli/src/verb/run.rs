//! `run` and `create`.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use super::transfer;
use crate::app::App;
use crate::client::Client;
use crate::create::{self, CreateFlags};
use crate::failure::{self, Exit as Ended, REFUSED, exit, exit_with};
use crate::query::{Query, name};
use crate::reference::Reference;
use crate::session::{self, Exit};
use crate::stream::{self, End, Streams};
use crate::{out, terminal};

/// Create a container and run it
///
/// The container gets a file system from IMAGE and runs COMMAND, or what the image
/// says. Unless -d is given, its output is shown here and the exit code is the
/// container's. The code is 125 when the daemon refuses, 126 when the command can't
/// be executed, and 127 when there is no such command.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "sampan run [OPTIONS] IMAGE [COMMAND] [ARG...]"
)]
pub struct Run {
    /// Run in the background and print the container's id
    #[arg(short, long)]
    detach: bool,
    /// Hand signals on to the container
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    sig_proxy: bool,
    /// The keys that detach from the container, as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    #[command(flatten)]
    create: CreateFlags,
    /// The image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG...]")]
    words: Vec<String>,
}

/// Create a container without starting it
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    override_usage = "sampan create [OPTIONS] IMAGE [COMMAND] [ARG...]"
)]
pub struct Create {
    #[command(flatten)]
    create: CreateFlags,
    /// The image, then the command and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "IMAGE [COMMAND] [ARG...]")]
    words: Vec<String>,
}

impl Create {
    /// Creates the container and prints its id.
    pub async fn run(self, app: &App) -> Result<()> {
        let attempt = async {
            let attached = attached(&self.create)?;
            let client = app.client().await?;
            create_container(app, &client, &self.create, &self.words, &attached).await
        };
        match attempt.await {
            Ok(id) => out::line(&id),
            Err(e) => Err(refused("create", &e, REFUSED)),
        }
    }
}

impl Run {
    /// Runs the container and ends with its exit code.
    pub async fn run(self, app: &App) -> Result<()> {
        let result = self.attempt(app).await;
        result.map_err(|e| if e.is::<Ended>() { e } else { refused("run", &e, REFUSED) })
    }

    async fn attempt(&self, app: &App) -> Result<()> {
        let (keys_text, keys) = session::detach_keys(app, self.detach_keys.as_deref())?;
        let attached = match (self.detach, self.create.attach.is_empty()) {
            (true, false) => {
                let text = "conflicting options: cannot specify both --attach and --detach";
                return Err(exit_with(failure::FAILED, text));
            }
            (true, true) => Vec::new(),
            (false, _) => attached(&self.create)?,
        };
        let restarts = self.create.restart.as_deref().unwrap_or("no") != "no";
        if self.create.rm && restarts {
            bail!("conflicting options: cannot specify both --restart and --rm");
        }
        let streams = Streams {
            stdin: attached.contains(&"stdin"),
            stdout: attached.contains(&"stdout"),
            stderr: attached.contains(&"stderr"),
            tty: self.create.tty,
        };
        terminal::check(streams.stdin, streams.tty)
            .map_err(|e| exit_with(failure::FAILED, e.to_string()))?;
        let client = app.client().await?;
        let id = create_container(app, &client, &self.create, &self.words, &attached).await?;
        if !streams.stdout && !streams.stderr {
            out::line(&id)?;
        }
        let is_attached = streams.stdin || streams.stdout || streams.stderr;
        let _signals = (self.sig_proxy && !self.detach && !streams.tty)
            .then(|| session::proxy_signals(&client, &id));
        if !is_attached {
            return start(&client, &id).await.map_err(|e| start_failure(&e));
        }
        let connection = session::attach(&client, &id, streams, keys_text.as_deref()).await?;
        let condition = if self.create.rm { "removed" } else { "next-exit" };
        let exited = Exit::of(&client, &id, condition).await?;
        if let Err(e) = start(&client, &id).await {
            if self.create.rm {
                // The daemon removes it; nothing may be left when we end.
                let _ = exited.code().await;
            }
            return Err(start_failure(&e));
        }
        let path = format!("/containers/{}", name(&id));
        let _size = streams.tty.then(|| session::follow_size(&client, path));
        if stream::join(connection, streams, keys).await? == End::Detached {
            return Ok(());
        }
        match exited.code().await? {
            0 => Ok(()),
            code => Err(exit(code)),
        }
    }
}

/// The streams of `-a`, or docker's choice.
fn attached(flags: &CreateFlags) -> Result<Vec<&'static str>> {
    if flags.attach.is_empty() {
        let stdin = flags.interactive.then_some("stdin");
        return Ok(stdin.into_iter().chain(["stdout", "stderr"]).collect());
    }
    let stream = |text: &String| match text.to_ascii_lowercase().as_str() {
        "stdin" => Ok("stdin"),
        "stdout" => Ok("stdout"),
        "stderr" => Ok("stderr"),
        _ => bail!("invalid stream {text:?} for --attach: stdin, stdout or stderr"),
    };
    flags.attach.iter().map(stream).collect()
}

async fn start(client: &Client, id: &str) -> Result<()> {
    client.post(&format!("/containers/{}/start", name(id)), &Query::new(), None).await.map(drop)
}

/// The message and the code of a container that can't be started: docker's
/// command reads them off the daemon's words.
fn start_failure(error: &anyhow::Error) -> anyhow::Error {
    refused("run", error, start_code(&failure::text(error)))
}

fn start_code(message: &str) -> u8 {
    let has = |words: &[&str]| words.iter().any(|w| message.to_lowercase().contains(w));
    if has(&["executable file not found", "no such file or directory"]) {
        127
    } else if has(&["permission denied", "is a directory"]) {
        126
    } else {
        REFUSED
    }
}

fn refused(verb: &str, error: &anyhow::Error, code: u8) -> anyhow::Error {
    let text = failure::text(error);
    exit_with(code, format!("sampan: {text}\n\nRun 'sampan {verb} --help' for more information"))
}

/// Creates the container, pulling its image when that is wanted.
async fn create_container(
    app: &App,
    client: &Client,
    flags: &CreateFlags,
    words: &[String],
    attached: &[&str],
) -> Result<String> {
    let (image, command) = words.split_first().context("an image is expected")?;
    let mut body = create::body(flags, image, command, attached)?;
    if let Some((rows, columns)) = terminal::size() {
        body["HostConfig"]["ConsoleSize"] = serde_json::json!([rows, columns]);
    }
    let mut id_file = flags.cidfile.as_deref().map(IdFile::create).transpose()?;
    let query =
        Query::new().opt("name", flags.name.as_ref()).opt("platform", flags.platform.as_ref());
    let pull =
        || transfer::pull_for_run(app, client, image, flags.platform.as_deref(), flags.quiet);
    if flags.pull == "always" {
        pull().await?;
    }
    let answer = match client.post("/containers/create", &query, Some(&body)).await {
        Err(e) if flags.pull == "missing" && is_missing_image(&e) => {
            let wanted = Reference::parse(image).or_latest().familiar();
            if !flags.quiet {
                out::note(&format!("Unable to find image '{wanted}' locally"));
            }
            pull().await?;
            client.post("/containers/create", &query, Some(&body)).await?
        }
        other => other?,
    };
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out::note(&format!("WARNING: {warning}"));
    }
    let id = answer["Id"].as_str().context("the daemon's answer has no Id")?.to_owned();
    if let Some(file) = &mut id_file {
        file.write(&id)?;
    }
    Ok(id)
}

fn is_missing_image(error: &anyhow::Error) -> bool {
    failure::is_not_found(error) && failure::text(error).to_lowercase().contains("no such image")
}

/// The file of `--cidfile`; removed again when nothing was written to it.
struct IdFile {
    path: PathBuf,
    is_written: bool,
}

impl IdFile {
    fn create(path: &Path) -> Result<Self> {
        let mut options = std::fs::OpenOptions::new();
        match options.write(true).create_new(true).open(path) {
            Ok(_) => Ok(Self { path: path.to_owned(), is_written: false }),
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => bail!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            ),
            Err(e) => Err(e).with_context(|| {
                format!("failed to create the container ID file {}", path.display())
            }),
        }
    }

    fn write(&mut self, id: &str) -> Result<()> {
        std::fs::write(&self.path, id).with_context(|| {
            format!("failed to write the container ID to {}", self.path.display())
        })?;
        self.is_written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.is_written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_failed_starts() {
        for (message, code) in [
            ("exec: \"x\": executable file not found in $PATH", 127),
            ("stat /x: no such file or directory", 127),
            ("exec: \"/etc/passwd\": permission denied", 126),
            ("exec /tmp: is a directory", 126),
            ("port is already allocated", 125),
        ] {
            assert_eq!(start_code(message), code, "{message}");
        }
    }

    #[test]
    fn streams_to_attach() {
        let flags = |attach: &[&str], interactive| CreateFlags {
            attach: attach.iter().map(|s| (*s).to_owned()).collect(),
            interactive,
            ..CreateFlags::default()
        };
        assert_eq!(attached(&flags(&[], false)).unwrap(), ["stdout", "stderr"]);
        assert_eq!(attached(&flags(&[], true)).unwrap(), ["stdin", "stdout", "stderr"]);
        assert_eq!(attached(&flags(&["STDOUT"], true)).unwrap(), ["stdout"]);
        assert!(attached(&flags(&["x"], false)).is_err());
    }

    #[test]
    fn an_unused_id_file_goes_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cid");
        drop(IdFile::create(&path).unwrap());
        assert!(!path.exists());
        IdFile::create(&path).unwrap().write("abc").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "abc");
        assert!(IdFile::create(&path).is_err());
    }
}
