//! The daemon's own log, on standard error.

use anyhow::{Result, bail};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::settings::Settings;

/// Checks the settings of the log.
pub fn check(settings: &Settings) -> Result<()> {
    level(settings)?;
    match settings.log_format.as_deref() {
        None | Some("text" | "json") => Ok(()),
        Some(other) => bail!("log-format {other}: use text or json"),
    }
}

fn level(settings: &Settings) -> Result<LevelFilter> {
    let level = match settings.log_level.as_deref() {
        Some("debug" | "trace") => LevelFilter::DEBUG,
        None | Some("info") => LevelFilter::INFO,
        Some("warn" | "warning") => LevelFilter::WARN,
        Some("error" | "fatal" | "panic") => LevelFilter::ERROR,
        Some(other) => bail!("log-level {other}: use debug, info, warn or error"),
    };
    Ok(if settings.debug == Some(true) { LevelFilter::DEBUG } else { level })
}

/// Sets up the log for the whole process. `SAMPAN_LOG` (in the syntax of
/// tracing's filters) refines the level for single modules.
pub fn init(settings: &Settings) -> Result<()> {
    let filter = EnvFilter::builder()
        .with_default_directive(level(settings)?.into())
        .with_env_var("SAMPAN_LOG")
        .from_env_lossy();
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = if settings.log_format.as_deref() == Some("json") {
        layer.json().flatten_event(true).boxed()
    } else {
        layer
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false)
            .boxed()
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init()?;
    Ok(())
}
