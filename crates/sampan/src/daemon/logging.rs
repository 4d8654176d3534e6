//! The daemon's own log, on standard error.

use anyhow::{Result, bail};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use super::settings::Settings;

/// Sets up the log for the whole process. `SAMPAN_LOG` (in the syntax of
/// tracing's filters) refines the level for single modules.
pub fn init(settings: &Settings) -> Result<()> {
    let level = match (settings.debug, settings.log_level.as_deref()) {
        (Some(true), _) | (_, Some("debug" | "trace")) => LevelFilter::DEBUG,
        (_, None | Some("info")) => LevelFilter::INFO,
        (_, Some("warn" | "warning")) => LevelFilter::WARN,
        (_, Some("error" | "fatal" | "panic")) => LevelFilter::ERROR,
        (_, Some(other)) => bail!("log-level {other}: use debug, info, warn or error"),
    };
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var("SAMPAN_LOG")
        .from_env_lossy();
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match settings.log_format.as_deref() {
        None | Some("text") => layer
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .with_target(false)
            .boxed(),
        Some("json") => layer.json().flatten_event(true).boxed(),
        Some(other) => bail!("log-format {other}: use text or json"),
    };
    tracing_subscriber::registry().with(filter).with(layer).try_init()?;
    Ok(())
}
