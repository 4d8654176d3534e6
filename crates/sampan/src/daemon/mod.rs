//! `sampan daemon`: settings, wiring, signals.
//!
//! Be aware:
//! - The daemon owns no container. SIGTERM and SIGINT end it with 0 and leave
//!   everything running; the next start adopts it.

mod check;
mod config;
mod from_file;
mod logging;
mod pidfile;
mod settings;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, FromArgMatches};
use sampan_api::{Address, TcpSecurity, TlsFiles};
use sampan_engine::Engine;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use settings::Settings;

/// Where the daemon listens when no address is named.
const DEFAULT_HOST: &str = "unix:///run/sampan.sock";

/// The daemon's command line.
#[derive(Debug, Args)]
struct CommandLine {
    /// The configuration file [default: /etc/sampan/daemon.json, when it exists]
    #[arg(long, value_name = "FILE")]
    config_file: Option<PathBuf>,
    /// Check the settings and exit
    #[arg(long)]
    validate: bool,
    #[command(flatten)]
    settings: Settings,
}

/// How long threads that block are waited for at the end.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// How much free memory the allocator may keep at the end of an arena, in bytes.
const KEPT_FREE: i32 = 128 << 10;

/// Runs the daemon with the arguments of its process; the first is its name.
pub fn main(args: Vec<OsString>) -> ExitCode {
    sampan_sys::allocator::keep_free_at_most(KEPT_FREE);
    match try_main(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The log may not be set up yet, so the reason goes out plainly.
            report(&format!("sampan daemon: {}", explain(&error)));
            ExitCode::FAILURE
        }
    }
}

/// The error with those of its causes that its text does not have already.
fn explain(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[allow(clippy::print_stderr)]
fn report(message: &str) {
    eprintln!("{message}");
}

fn try_main(args: Vec<OsString>) -> Result<()> {
    let called = args.first().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let name = if called == "dockerd" { "dockerd" } else { "sampan daemon" };
    let command = CommandLine::augment_args(clap::Command::new("sampan daemon"))
        .bin_name(name)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Run the container engine");
    let matches = command.get_matches_from(args);
    let line = CommandLine::from_arg_matches(&matches)?;
    let settings = line.settings.with_file(line.config_file.as_deref())?;
    check::settings(&settings)?;
    logging::check(&settings)?;
    let engine_config = config::engine(&settings)?;
    engine_config.check()?;
    let addresses = addresses(&settings)?;
    let security = tcp_security(&settings);
    if line.validate {
        report("configuration OK");
        return Ok(());
    }
    logging::init(&settings)?;
    let _pidfile = settings.pidfile.as_deref().map(pidfile::Pidfile::write).transpose()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("sampan")
        .build()
        .context("start the runtime")?;
    let ended = runtime.block_on(run(&settings, engine_config, &addresses, security.as_ref()));
    // A thread may hang in the kernel, on a share whose server is silent. What
    // matters is durable by now, or is taken up by the next daemon.
    runtime.shutdown_timeout(LAST_WAIT);
    ended
}

async fn run(
    settings: &Settings,
    config: sampan_engine::EngineConfig,
    addresses: &[Address],
    security: Option<&TcpSecurity>,
) -> Result<()> {
    let grace = Duration::from_secs(u64::from(config.shutdown_timeout));
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that closes must not take the daemon along.
    let _hangup = signal(SignalKind::hangup())?;

    // Bound first, so that a second daemon is refused before it touches anything.
    let listeners =
        sampan_api::bind(addresses, security, settings.group.as_deref()).await.context("listen")?;
    let engine = Engine::open(config).await.context("open the engine")?;
    let stop = CancellationToken::new();
    let metrics = metrics(settings, &engine, &stop).await?;
    let serving = tokio::spawn(sampan_api::serve(listeners, engine.clone(), stop.clone()));
    tracing::info!(hosts = ?addresses, version = env!("CARGO_PKG_VERSION"), "ready");

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: ending; containers stay running"),
        _ = interrupt.recv() => tracing::info!("SIGINT: ending; containers stay running"),
    }
    stop.cancel();
    let ended = tokio::time::timeout(grace, async {
        let _ = serving.await;
        if let Some(metrics) = metrics {
            let _ = metrics.await;
        }
        engine.shutdown().await;
    });
    if ended.await.is_err() {
        tracing::warn!(?grace, "requests were still going on at the end");
    }
    Ok(())
}

/// Serves metrics where `--metrics-addr` says.
async fn metrics(
    settings: &Settings,
    engine: &Engine,
    stop: &CancellationToken,
) -> Result<Option<tokio::task::JoinHandle<()>>> {
    let Some(address) = check::metrics_address(settings)? else { return Ok(None) };
    let (address, serving) =
        sampan_api::serve_metrics(address, engine.clone(), stop.clone()).await?;
    tracing::info!(%address, "metrics are served");
    Ok(Some(tokio::spawn(serving)))
}

fn addresses(settings: &Settings) -> Result<Vec<Address>> {
    let default = [DEFAULT_HOST.to_owned()];
    let hosts = if settings.hosts.is_empty() { &default[..] } else { &settings.hosts };
    hosts.iter().map(|h| h.parse().with_context(|| format!("host {h:?}"))).collect()
}

/// How TCP is to be secured; `None` when nothing was said.
fn tcp_security(settings: &Settings) -> Option<TcpSecurity> {
    match (&settings.tlscacert, &settings.tlscert, &settings.tlskey) {
        (Some(ca), Some(cert), Some(key)) => {
            let files = TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() };
            Some(TcpSecurity::Mutual(files))
        }
        _ if settings.tls == Some(false) => Some(TcpSecurity::Plain),
        _ => None,
    }
}
