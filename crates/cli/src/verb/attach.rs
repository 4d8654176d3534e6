//! `attach`, `exec`, and `start` with its streams.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::app::App;
use crate::client::Client;
use crate::create::environment_of;
use crate::failure::{Failures, exit};
use crate::query::{Query, name};
use crate::session::{self, Exit};
use crate::stream::{self, End, Streams};
use crate::{out, terminal};

/// Attach to a running container
#[derive(Debug, Args)]
pub struct Attach {
    /// The keys that detach from the container, as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Don't attach standard input
    #[arg(long)]
    no_stdin: bool,
    /// Hand signals on to the container
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1,
        require_equals = true, default_missing_value = "true", value_name = "BOOL", hide_possible_values = true)]
    sig_proxy: bool,
    /// The container
    container: String,
}

impl Attach {
    /// Shows the container's output and ends with its exit code.
    pub async fn run(self, app: &App) -> Result<()> {
        let (keys_text, keys) = session::detach_keys(app, self.detach_keys.as_deref())?;
        let client = app.client().await?;
        let container = inspect(&client, &self.container).await?;
        for (field, refusal) in [
            ("Paused", "cannot attach to a paused container, unpause it first"),
            ("Restarting", "cannot attach to a restarting container, wait until it is running"),
        ] {
            if container["State"][field] == true {
                bail!(refusal);
            }
        }
        if container["State"]["Running"] != true {
            bail!("cannot attach to a stopped container, start it first");
        }
        let tty = container["Config"]["Tty"] == true;
        let stdin = !self.no_stdin && container["Config"]["OpenStdin"] == true;
        terminal::check(stdin, tty)?;
        let streams = Streams { stdin, stdout: true, stderr: true, tty };
        let exited = Exit::of(&client, &self.container, "not-running").await?;
        let _signals =
            (self.sig_proxy && !tty).then(|| session::proxy_signals(&client, &self.container));
        let keys_text = keys_text.as_deref();
        let connection = session::attach(&client, &self.container, streams, keys_text).await?;
        let path = format!("/containers/{}", name(&self.container));
        let _size = tty.then(|| session::follow_size(&client, path));
        finish(stream::join(connection, streams, keys).await?)?;
        end_with(exited.code().await?)
    }
}

async fn inspect(client: &Client, container: &str) -> Result<Value> {
    client.get(&format!("/containers/{}/json", name(container)), &Query::new()).await
}

fn finish(end: End) -> Result<()> {
    match end {
        End::Output => Ok(()),
        End::Detached => bail!("read escape sequence"),
    }
}

fn end_with(code: i64) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(exit(code)) }
}

/// Run a command in a running container
#[derive(Debug, Args)]
#[command(override_usage = "sampan exec [OPTIONS] CONTAINER COMMAND [ARG...]")]
pub struct Exec {
    /// Run in the background
    #[arg(short, long)]
    detach: bool,
    /// The keys that detach from the command, as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Set an environment variable: NAME=VALUE, or NAME to take it over
    #[arg(short, long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// Read environment variables from a file
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command every privilege
    #[arg(long)]
    privileged: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// The user: NAME|UID[:GROUP|GID]
    #[arg(short, long)]
    user: Option<String>,
    /// The working directory
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// The container, then the command and its arguments
    #[arg(required = true, num_args = 2.., trailing_var_arg = true,
        value_name = "CONTAINER COMMAND [ARG...]")]
    words: Vec<String>,
}

impl Exec {
    /// Runs the command and ends with its exit code.
    pub async fn run(self, app: &App) -> Result<()> {
        let (keys_text, keys) = session::detach_keys(app, self.detach_keys.as_deref())?;
        let (container, command) = self.words.split_first().context("a container is expected")?;
        let stdin = self.interactive && !self.detach;
        terminal::check(stdin, self.tty)?;
        let streams = Streams { stdin, stdout: !self.detach, stderr: !self.detach, tty: self.tty };
        let client = app.client().await?;
        let mut body = json!({
            "AttachStdin": streams.stdin,
            "AttachStdout": streams.stdout,
            "AttachStderr": streams.stderr,
            "Tty": self.tty,
            "Privileged": self.privileged,
            "User": self.user.clone().unwrap_or_default(),
            "WorkingDir": self.workdir.clone().unwrap_or_default(),
            "Env": environment_of(&self.env, &self.env_file)?,
            "DetachKeys": keys_text.unwrap_or_default(),
            "Cmd": command,
        });
        let size = if self.tty { terminal::size() } else { None };
        if let Some((rows, columns)) = size {
            body["ConsoleSize"] = json!([rows, columns]);
        }
        let path = format!("/containers/{}/exec", name(container));
        let created = client.post(&path, &Query::new(), Some(&body)).await?;
        let id = created["Id"].as_str().context("the daemon's answer has no Id")?;
        self.start(&client, id, streams, size, keys).await
    }

    async fn start(
        &self,
        client: &Client,
        id: &str,
        streams: Streams,
        size: Option<(u16, u16)>,
        keys: Vec<u8>,
    ) -> Result<()> {
        let mut body = json!({"Detach": self.detach, "Tty": self.tty});
        if let Some((rows, columns)) = size {
            body["ConsoleSize"] = json!([rows, columns]);
        }
        let path = format!("/exec/{id}/start");
        if self.detach {
            return client.post(&path, &Query::new(), Some(&body)).await.map(drop);
        }
        let connection = client.hijack(&path, &Query::new(), Some(&body)).await?;
        let _size = self.tty.then(|| session::follow_size(client, format!("/exec/{id}")));
        finish(stream::join(connection, streams, keys).await?)?;
        let ended = client.get(&format!("/exec/{id}/json"), &Query::new()).await?;
        end_with(ended["ExitCode"].as_i64().unwrap_or_default())
    }
}

/// Start stopped containers
#[derive(Debug, Args)]
pub struct Start {
    /// Show the container's output and hand signals on
    #[arg(short, long)]
    attach: bool,
    /// Attach standard input
    #[arg(short, long)]
    interactive: bool,
    /// The keys that detach from the container, as ctrl-p,ctrl-q
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Start {
    /// Starts the containers; attached, ends with the exit code.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        if self.attach || self.interactive {
            return match self.containers.as_slice() {
                [container] => self.attached(app, &client, container).await,
                _ => bail!("you cannot start and attach multiple containers at once"),
            };
        }
        let (mut failures, mut failed) = (Failures::default(), Vec::new());
        for container in &self.containers {
            match start(&client, container).await {
                Ok(()) => out::line(container)?,
                Err(e) => {
                    failures.add(&e);
                    failed.push(container.as_str());
                }
            }
        }
        if !failed.is_empty() {
            out::note(&format!("Error: failed to start containers: {}", failed.join(", ")));
        }
        failures.end()
    }

    async fn attached(&self, app: &App, client: &Client, container: &str) -> Result<()> {
        let (keys_text, keys) = session::detach_keys(app, self.detach_keys.as_deref())?;
        let found = inspect(client, container).await?;
        let tty = found["Config"]["Tty"] == true;
        let stdin = self.interactive && found["Config"]["OpenStdin"] == true;
        terminal::check(stdin, tty)?;
        let streams = Streams { stdin, stdout: true, stderr: true, tty };
        let _signals = (!tty).then(|| session::proxy_signals(client, container));
        let connection = session::attach(client, container, streams, keys_text.as_deref()).await?;
        let is_temporary = found["HostConfig"]["AutoRemove"] == true;
        let condition = if is_temporary { "removed" } else { "next-exit" };
        // By id: the name may be gone when the container is removed.
        let id = found["Id"].as_str().unwrap_or(container);
        let exited = Exit::of(client, id, condition).await?;
        start(client, container).await?;
        let path = format!("/containers/{}", name(id));
        let _size = tty.then(|| session::follow_size(client, path));
        if stream::join(connection, streams, keys).await? == End::Detached {
            return Ok(());
        }
        end_with(exited.code().await?)
    }
}

async fn start(client: &Client, container: &str) -> Result<()> {
    let none = None::<bollard::query_parameters::StartContainerOptions>;
    client.docker().start_container(&name(container), none).await.map_err(crate::client::plain)
}
