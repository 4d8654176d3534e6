//! Verbs that change a container's state and print its name: `stop`,
//! `restart`, `kill`, `pause`, `unpause`, `rm`, `rename`, `wait`, `update`.

use anyhow::Result;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder,
    RestartContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use clap::Args;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use crate::app::App;
use crate::client::{Client, plain};
use crate::create::{LimitFlags, Ports, limits, restart_policy};
use crate::failure::Failures;
use crate::out;
use crate::query::{Query, name};
use crate::session::Exit;

/// How many containers are worked on at once.
const AT_ONCE: usize = 50;

/// Does one thing to each object, many at once, and prints the objects' names
/// in their order.
async fn each<F>(objects: &[String], work: impl Fn(String) -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let mut failures = Failures::default();
    let works = objects.iter().map(|object| {
        let done = work(name(object));
        async move { (object, done.await) }
    });
    let mut done = stream::iter(works).buffered(AT_ONCE);
    while let Some((object, result)) = done.next().await {
        match result {
            Ok(()) => out::line(object)?,
            Err(e) => failures.add(&e),
        }
    }
    failures.end()
}

/// Stop running containers
#[derive(Debug, Args)]
pub struct Stop {
    /// The signal to send first
    #[arg(short, long)]
    signal: Option<String>,
    /// Seconds to wait before killing; -1 to wait for ever
    #[arg(short, long, visible_alias = "time", value_name = "SECONDS", allow_hyphen_values = true)]
    timeout: Option<i32>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Stop {
    /// Stops the containers.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let mut options = StopContainerOptionsBuilder::default();
        if let Some(signal) = &self.signal {
            options = options.signal(signal);
        }
        if let Some(timeout) = self.timeout {
            options = options.t(timeout);
        }
        let (docker, options) = (client.docker(), options.build());
        each(&self.containers, |c| {
            let options = options.clone();
            async move { docker.stop_container(&c, Some(options)).await.map_err(plain) }
        })
        .await
    }

    /// Stops and starts the containers.
    pub async fn restart(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let mut options = RestartContainerOptionsBuilder::default();
        if let Some(signal) = &self.signal {
            options = options.signal(signal);
        }
        if let Some(timeout) = self.timeout {
            options = options.t(timeout);
        }
        let (docker, options) = (client.docker(), options.build());
        each(&self.containers, |c| {
            let options = options.clone();
            async move { docker.restart_container(&c, Some(options)).await.map_err(plain) }
        })
        .await
    }
}

/// Send a signal to running containers
#[derive(Debug, Args)]
pub struct Kill {
    /// The signal
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Kill {
    /// Sends the signal.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let options = KillContainerOptionsBuilder::default().signal(&self.signal).build();
        let docker = client.docker();
        each(&self.containers, |c| {
            let options = options.clone();
            async move { docker.kill_container(&c, Some(options)).await.map_err(plain) }
        })
        .await
    }
}

/// Containers and nothing else.
#[derive(Debug, Args)]
pub struct Containers {
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Containers {
    /// Freezes the containers.
    pub async fn pause(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let docker = client.docker();
        each(&self.containers, |c| async move { docker.pause_container(&c).await.map_err(plain) })
            .await
    }

    /// Thaws the containers.
    pub async fn unpause(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let docker = client.docker();
        each(&self.containers, |c| async move { docker.unpause_container(&c).await.map_err(plain) })
            .await
    }

    /// Prints the containers' exit codes when they end.
    pub async fn wait(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let mut failures = Failures::default();
        for container in &self.containers {
            let waiting = Exit::of(&client, container, "not-running").await;
            let code = match waiting {
                Ok(exit) => exit.code().await,
                Err(e) => Err(e),
            };
            match code {
                Ok(code) => out::line(&code.to_string())?,
                Err(e) => failures.add(&e),
            }
        }
        failures.end()
    }
}

/// Remove containers
#[derive(Debug, Args)]
pub struct Remove {
    /// Kill running ones
    #[arg(short, long)]
    force: bool,
    /// Remove the link instead of the container
    #[arg(short, long)]
    link: bool,
    /// Remove the containers' anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Remove {
    /// Removes the containers.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let options = RemoveContainerOptionsBuilder::default();
        let options = options.force(self.force).link(self.link).v(self.volumes).build();
        let (docker, is_forced) = (client.docker(), self.force);
        let mut failures = Failures::default();
        let removed =
            self.containers.iter().map(|container| {
                let options = options.clone();
                async move {
                    (container, docker.remove_container(&name(container), Some(options)).await)
                }
            });
        let mut removed = stream::iter(removed).buffered(AT_ONCE);
        while let Some((container, result)) = removed.next().await {
            match result.map_err(plain) {
                Ok(()) => out::line(container)?,
                // With force, what is gone already is said but no failure.
                Err(e) if is_forced && crate::failure::is_not_found(&e) => {
                    out::note(&crate::failure::text(&e));
                }
                Err(e) => failures.add(&e),
            }
        }
        failures.end()
    }
}

/// Rename a container
#[derive(Debug, Args)]
pub struct Rename {
    /// The container
    container: String,
    /// Its new name
    new_name: String,
}

impl Rename {
    /// Renames the container.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let options = RenameContainerOptionsBuilder::default().name(&self.new_name).build();
        client.docker().rename_container(&name(&self.container), options).await.map_err(plain)
    }
}

/// Change the limits and the restart policy of containers
#[derive(Debug, Args)]
pub struct Update {
    /// Restart policy: no, always, unless-stopped, on-failure[:MAX]
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    #[command(flatten)]
    limits: LimitFlags,
    /// Publish a port, also while the container runs
    #[arg(long, value_name = "[[ADDRESS:]HOST:]CONTAINER[/PROTO]")]
    publish_add: Vec<String>,
    /// Take a published port back: CONTAINER for all places, HOST:CONTAINER for one
    #[arg(long, value_name = "[[ADDRESS:]HOST:]CONTAINER[/PROTO]")]
    publish_rm: Vec<String>,
    /// The containers
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

impl Update {
    /// Updates the containers.
    pub async fn run(self, app: &App) -> Result<()> {
        let mut body = json!({});
        limits(&self.limits, &mut body)?;
        if let Some(policy) = &self.restart {
            body["RestartPolicy"] = restart_policy(policy)?;
        }
        let (add, remove) = (Ports::parse(&self.publish_add)?, Ports::parse(&self.publish_rm)?);
        let ports = json!({"Add": add.bindings, "Remove": remove.bindings});
        let publishes = !add.bindings.is_empty() || !remove.bindings.is_empty();
        if body == json!({}) && !publishes {
            anyhow::bail!("you must provide one or more flags when using this command");
        }
        let client = app.client().await?;
        let mut failures = Failures::default();
        for container in &self.containers {
            let mut done = Ok(());
            if body != json!({}) {
                done = update(&client, container, &body).await;
            }
            if publishes && done.is_ok() {
                done = publish(&client, container, &ports).await;
            }
            match done {
                Ok(()) => out::line(container)?,
                Err(e) => failures.add(&e),
            }
        }
        failures.end()
    }
}

async fn publish(client: &Client, container: &str, ports: &Value) -> Result<()> {
    let path = format!("/sampan/containers/{}/ports", name(container));
    client.post(&path, &Query::new(), Some(ports)).await?;
    Ok(())
}

async fn update(client: &Client, container: &str, body: &Value) -> Result<()> {
    let path = format!("/containers/{}/update", name(container));
    let answer = client.post(&path, &Query::new(), Some(body)).await?;
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        out::note(warning);
    }
    Ok(())
}
