//! `version`, `info`, `system df`, `system dial-stdio`.

use anyhow::Result;
use clap::Args;
use serde_json::{Map, Value, json};
use tokio::io::AsyncWriteExt;

use crate::app::App;
use crate::failure::{FAILED, exit_with, text as words};
use crate::out;
use crate::query::Query;
use crate::table::{Column, Table};
use crate::template::{Missing, Template};
use crate::time;
use crate::units::{binary_size, exact_size};

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Show the versions of this command and of the daemon
#[derive(Debug, Args)]
pub struct Version {
    /// How to print: json or TEMPLATE
    #[arg(short, long)]
    format: Option<String>,
}

impl Version {
    /// Prints the versions.
    pub async fn run(self, app: &App) -> Result<()> {
        let mut versions = json!({
            "Client": {
                "Platform": {"Name": "Sampan"},
                "Version": env!("CARGO_PKG_VERSION"),
                "ApiVersion": "1.53",
                "DefaultAPIVersion": "1.53",
                "Os": std::env::consts::OS,
                "Arch": arch(),
                "Context": "default",
            },
            "Server": null,
        });
        let server = async {
            let client = app.client().await?;
            let server = client.get("/version", &Query::new()).await?;
            anyhow::Ok((client.version(), server))
        };
        let server = server.await.map(|(api, server)| {
            versions["Client"]["ApiVersion"] = api.into();
            versions["Server"] = server;
        });
        match self.format.as_deref() {
            Some("json") => out::line(&versions.to_string())?,
            Some(format) => {
                let template = Template::parse(format, Missing::NoValue)?;
                let rendered = template.render(&versions);
                server
                    .as_ref()
                    .map_or(Ok(()), |()| out::line(rendered.as_ref().map_or("", |t| t)))?;
                rendered?;
            }
            None => out::text(&version_text(&versions))?,
        }
        server.map_err(|e| exit_with(FAILED, words(&e)))
    }
}

/// The processor's name as Go writes it.
fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn version_text(versions: &Value) -> String {
    let field = |indent: &str, label: &str, value: &str| {
        format!("{indent}{:<1$} {value}\n", format!("{label}:"), 19 - indent.len())
    };
    let client = &versions["Client"];
    let mut out = format!("Client: {}\n", text(&client["Platform"]["Name"]));
    out += &field(" ", "Version", text(&client["Version"]));
    out += &field(" ", "API version", text(&client["ApiVersion"]));
    out += &field(" ", "OS/Arch", &format!("{}/{}", text(&client["Os"]), text(&client["Arch"])));
    out += &field(" ", "Context", text(&client["Context"]));
    let server = &versions["Server"];
    if server.is_null() {
        return out;
    }
    out += &format!("\nServer: {}\n", text(&server["Platform"]["Name"]));
    for component in server["Components"].as_array().into_iter().flatten() {
        let details = &component["Details"];
        out += &format!(" {}:\n", text(&component["Name"]));
        out += &field("  ", "Version", text(&component["Version"]));
        if !text(&details["ApiVersion"]).is_empty() {
            let least = text(&details["MinAPIVersion"]);
            let api = format!("{} (minimum version {least})", text(&details["ApiVersion"]));
            out += &field("  ", "API version", &api);
        }
        for (label, key) in [("Git commit", "GitCommit"), ("Built", "BuildTime")] {
            let value = text(&details[key]);
            if !value.is_empty() {
                let value = if key == "BuildTime" { time::ansi_c(value) } else { value.to_owned() };
                out += &field("  ", label, &value);
            }
        }
        if !text(&details["Os"]).is_empty() {
            let platform = format!("{}/{}", text(&details["Os"]), text(&details["Arch"]));
            out += &field("  ", "OS/Arch", &platform);
        }
    }
    out
}

/// Show how the daemon is doing
#[derive(Debug, Args)]
pub struct Info {
    /// How to print: json or TEMPLATE
    #[arg(short, long)]
    format: Option<String>,
}

impl Info {
    /// Prints the daemon's state.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let mut info = client.get("/info", &Query::new()).await?;
        info["ClientInfo"] = json!({
            "Debug": app.is_debug(),
            "Context": "default",
            "Version": env!("CARGO_PKG_VERSION"),
            "Os": std::env::consts::OS,
            "Arch": arch(),
        });
        match self.format.as_deref() {
            Some("json") => out::line(&info.to_string()),
            Some(format) => out::line(&Template::parse(format, Missing::NoValue)?.render(&info)?),
            None => {
                out::text(&info_text(&info))?;
                for warning in info["Warnings"].as_array().into_iter().flatten() {
                    out::note(text(warning));
                }
                Ok(())
            }
        }
    }
}

fn info_text(info: &Value) -> String {
    let show = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    };
    let mut out = format!(
        "Client: Sampan\n Version:    {}\n Context:    default\n Debug Mode: {}\n\nServer:\n",
        env!("CARGO_PKG_VERSION"),
        info["ClientInfo"]["Debug"]
    );
    let mut line = |depth: usize, label: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{}{label}: {value}\n", " ".repeat(depth)));
        }
    };
    line(1, "Containers", &show(&info["Containers"]));
    for (label, key) in [
        ("Running", "ContainersRunning"),
        ("Paused", "ContainersPaused"),
        ("Stopped", "ContainersStopped"),
    ] {
        line(2, label, &show(&info[key]));
    }
    line(1, "Images", &show(&info["Images"]));
    line(1, "Server Version", &show(&info["ServerVersion"]));
    line(1, "Storage Driver", &show(&info["Driver"]));
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        line(2, text(&pair[0]), text(&pair[1]));
    }
    line(1, "Logging Driver", &show(&info["LoggingDriver"]));
    line(1, "Cgroup Driver", &show(&info["CgroupDriver"]));
    line(1, "Cgroup Version", &show(&info["CgroupVersion"]));
    let list = |value: &Value| {
        value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(" ")
    };
    let plugins = &info["Plugins"];
    out.push_str(" Plugins:\n");
    let mut line = |depth: usize, label: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!("{}{label}: {value}\n", " ".repeat(depth)));
        }
    };
    for kind in ["Volume", "Network", "Log"] {
        line(2, kind, &list(&plugins[kind]));
    }
    line(1, "Swarm", text(&info["Swarm"]["LocalNodeState"]));
    let runtimes = info["Runtimes"].as_object().into_iter().flatten();
    line(1, "Runtimes", &runtimes.map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(" "));
    line(1, "Default Runtime", &show(&info["DefaultRuntime"]));
    line(1, "Init Binary", &show(&info["InitBinary"]));
    let options: Vec<&str> =
        info["SecurityOptions"].as_array().into_iter().flatten().map(text).collect();
    if !options.is_empty() {
        out.push_str(" Security Options:\n");
        for option in options {
            let mut parts = option.split(',').map(|p| p.split_once('=').map_or(p, |(_, v)| v));
            out.push_str(&format!("  {}\n", parts.next().unwrap_or_default()));
            for part in parts {
                out.push_str(&format!("   Profile: {part}\n"));
            }
        }
    }
    let mut line = |label: &str, value: &str| {
        if !value.is_empty() {
            out.push_str(&format!(" {label}: {value}\n"));
        }
    };
    line("Kernel Version", &show(&info["KernelVersion"]));
    line("Operating System", &show(&info["OperatingSystem"]));
    line("OSType", &show(&info["OSType"]));
    line("Architecture", &show(&info["Architecture"]));
    line("CPUs", &show(&info["NCPU"]));
    line("Total Memory", &binary_size(info["MemTotal"].as_f64().unwrap_or_default()));
    line("Name", &show(&info["Name"]));
    line("ID", &show(&info["ID"]));
    line("Docker Root Dir", &show(&info["DockerRootDir"]));
    line("Debug Mode", &show(&info["Debug"]));
    line("Experimental", &show(&info["ExperimentalBuild"]));
    let registries = &info["RegistryConfig"]["InsecureRegistryCIDRs"];
    let insecure: Vec<&str> = registries.as_array().into_iter().flatten().map(text).collect();
    if !insecure.is_empty() {
        out.push_str(" Insecure Registries:\n");
        insecure.iter().for_each(|r| out.push_str(&format!("  {r}\n")));
    }
    out.push_str(&format!(" Live Restore Enabled: {}\n", info["LiveRestoreEnabled"] == true));
    out
}

/// Show how much disk space images, containers and volumes take
#[derive(Debug, Args)]
pub struct Df {
    /// How to print: table, json, 'table TEMPLATE' or TEMPLATE
    #[arg(long)]
    format: Option<String>,
    /// Show every object
    #[arg(short, long)]
    verbose: bool,
}

impl Df {
    /// Prints the table.
    pub async fn run(self, app: &App) -> Result<()> {
        let client = app.client().await?;
        let usage = client.get("/system/df", &Query::new()).await?;
        if self.verbose {
            return out::text(&super::usage::verbose(&usage, self.format.as_deref())?);
        }
        let columns = vec![
            Column { field: "Type", heading: "TYPE" },
            Column { field: "TotalCount", heading: "TOTAL" },
            Column { field: "Active", heading: "ACTIVE" },
            Column { field: "Size", heading: "SIZE" },
            Column { field: "Reclaimable", heading: "RECLAIMABLE" },
        ];
        let rows = super::usage::totals(&usage).into_iter().map(|t| t.row()).collect();
        out::text(&Table { columns, rows }.render(self.format.as_deref().unwrap_or_default())?)
    }
}

/// The disk usage of one kind of objects.
pub struct Total {
    /// `Images`.
    pub kind: &'static str,
    /// How many there are.
    pub count: usize,
    /// How many are in use.
    pub active: usize,
    /// Their bytes.
    pub size: f64,
    /// The bytes of those not in use.
    pub reclaimable: f64,
}

impl Total {
    fn row(&self) -> Map<String, Value> {
        let free = exact_size(self.reclaimable);
        let has_share = self.size > 0.0 && self.kind != "Build Cache";
        let share = (self.reclaimable * 100.0 / self.size).floor();
        let row = json!({
            "Type": self.kind,
            "TotalCount": self.count.to_string(),
            "Active": self.active.to_string(),
            "Size": exact_size(self.size),
            "Reclaimable": if has_share { format!("{free} ({share}%)") } else { free },
        });
        match row {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

/// Joins standard input and output with the daemon: what `ssh://` runs on the
/// daemon's machine.
pub async fn dial_stdio(app: &App) -> Result<()> {
    let stream = app.endpoint()?.open().await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let input = async {
        // The daemon may be done before the input ends.
        let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut to).await;
        let _ = to.shutdown().await;
        std::future::pending::<()>().await;
    };
    let output = async {
        let mut out = tokio::io::stdout();
        tokio::io::copy(&mut from, &mut out).await?;
        out.flush().await
    };
    tokio::select! {
        () = input => Ok(()),
        done = output => Ok(done?),
    }
}
