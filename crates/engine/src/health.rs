//! Health checks: a probe in the container every so often, and the verdict.
//!
//! Be aware: one task per container that has a check. It ends with the run,
//! rests while the container is paused, and goes on after the daemon's restart.

use std::sync::Arc;
use std::time::Duration;

use sampan_types::Timestamp;
use sampan_types::docker::{ContainerConfig, HealthConfig};

use crate::Engine;
use crate::container::Container;
use crate::container::state::{Health, HealthResult, HealthStatus, Status};
use crate::exec_once::Ended;
use crate::metrics::Outcome;

/// How many probes are remembered.
const LOG: usize = 5;
/// How much of a probe's output is kept.
const OUTPUT: usize = 4096;
const INTERVAL: Duration = Duration::from_secs(30);
const START_INTERVAL: Duration = Duration::from_secs(5);
const TIMEOUT: Duration = Duration::from_secs(30);
const RETRIES: u32 = 3;

/// A health check with its defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    command: Vec<String>,
    interval: Duration,
    timeout: Duration,
    start_period: Duration,
    start_interval: Duration,
    retries: u32,
}

fn or(nanos: Option<i64>, default: Duration) -> Duration {
    match nanos.and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0) {
        Some(n) => Duration::from_nanos(n),
        None => default,
    }
}

impl Check {
    /// The check of a configuration; `None` when it has none.
    fn of(config: &ContainerConfig) -> Option<Self> {
        let check: &HealthConfig = config.healthcheck.as_ref()?;
        let (kind, words) = check.test.as_deref()?.split_first()?;
        let command = match kind.as_str() {
            "CMD" => words.to_vec(),
            "CMD-SHELL" => {
                let shell = config.shell.clone().filter(|s| !s.is_empty());
                let mut all = shell.unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
                all.extend_from_slice(words);
                all
            }
            _ => return None,
        };
        if command.is_empty() {
            return None;
        }
        let retries = check.retries.and_then(|r| u32::try_from(r).ok()).filter(|r| *r > 0);
        Some(Self {
            command,
            interval: or(check.interval, INTERVAL),
            timeout: or(check.timeout, TIMEOUT),
            start_period: or(check.start_period, Duration::ZERO),
            start_interval: or(check.start_interval, START_INTERVAL),
            retries: retries.unwrap_or(RETRIES),
        })
    }

    /// How long to wait before the next probe of a container that has been
    /// running for `ran`.
    fn wait(&self, status: HealthStatus, ran: Duration) -> Duration {
        if status == HealthStatus::Starting && ran < self.start_period {
            self.start_interval
        } else {
            self.interval
        }
    }
}

/// Adds a probe's result; failures in the start period of a container that
/// was never healthy do not count.
fn judge(health: &mut Health, result: HealthResult, retries: u32, in_start_period: bool) {
    if result.exit_code == 0 {
        health.failing_streak = 0;
        health.status = HealthStatus::Healthy;
    } else if !(health.status == HealthStatus::Starting && in_start_period) {
        health.failing_streak += 1;
        if health.failing_streak >= retries {
            health.status = HealthStatus::Unhealthy;
        }
    }
    if health.log.len() >= LOG {
        let surplus = health.log.len() + 1 - LOG;
        health.log.drain(..surplus);
    }
    health.log.push(result);
}

/// Whether a container has a health check.
#[must_use]
pub fn is_checked(config: &ContainerConfig) -> bool {
    Check::of(config).is_some()
}

/// Begins the checks of a container's run.
pub(crate) fn begin(engine: &Engine, c: &Arc<Container>) {
    let Some(check) = Check::of(&c.record().config) else { return };
    let token = c.begin_health();
    let (task, c) = (engine.clone(), Arc::clone(c));
    engine.inner.tasks.spawn(async move {
        tokio::select! {
            () = watch(&task, &c, &check) => {}
            () = token.cancelled() => {}
            () = task.inner.stop.cancelled() => {}
        }
    });
}

async fn watch(engine: &Engine, c: &Arc<Container>, check: &Check) {
    loop {
        let state = &c.record().state;
        let status = state.health.as_ref().map_or(HealthStatus::Starting, |h| h.status);
        let ran = Timestamp::now().since(state.started);
        tokio::time::sleep(check.wait(status, ran)).await;
        let mut live = c.subscribe();
        let runs = live.wait_for(|l| l.record.state.status == Status::Running).await.is_ok();
        if !runs {
            return;
        }
        let result = probe(engine, c, check).await;
        note(engine, c, check, result);
    }
}

fn note(engine: &Engine, c: &Arc<Container>, check: &Check, result: HealthResult) {
    let label = if result.exit_code == 0 { "ok" } else { "error" };
    engine.inner.metrics.health_checks.get_or_create(&Outcome { result: label }).inc();
    let changed = c.change(|r| {
        let started = r.state.started;
        let health = r.state.health.get_or_insert_default();
        let before = health.status;
        let in_start_period = result.start.since(started) < check.start_period;
        judge(health, result, check.retries, in_start_period);
        (health.status != before).then_some(health.status)
    });
    if let Some(status) = changed {
        engine.persist_later(c);
        engine.container_event(c, &format!("health_status: {}", status.as_str()), &[]);
    }
}

/// Runs the command once; kills it when it takes too long.
async fn probe(engine: &Engine, c: &Arc<Container>, check: &Check) -> HealthResult {
    let start = Timestamp::now();
    let ended = engine.exec_once(c, check.command.clone(), check.timeout, OUTPUT).await;
    let (exit_code, output) = match ended {
        Ended::Exited { code, output } => (i64::from(code), output),
        Ended::Failed(error) => (-1, error),
        Ended::TimedOut => (-1, format!("Health check exceeded timeout ({})", show(check.timeout))),
    };
    HealthResult { start, end: Timestamp::now(), exit_code, output }
}

/// A duration as Go writes it, for whole seconds and parts of one.
fn show(d: Duration) -> String {
    if d.as_secs() >= 60 {
        let (minutes, seconds) = (d.as_secs() / 60, d.as_secs() % 60);
        return format!("{minutes}m{seconds}s");
    }
    if d.as_secs() > 0 { format!("{}s", d.as_secs_f64()) } else { format!("{}ms", d.as_millis()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(code: i64) -> HealthResult {
        let t = Timestamp::from_nanos(1);
        HealthResult { start: t, end: t, exit_code: code, output: String::new() }
    }

    #[test]
    fn as_many_failures_as_retries_make_unhealthy() {
        let mut h = Health::default();
        judge(&mut h, result(1), 2, false);
        assert_eq!((h.status, h.failing_streak), (HealthStatus::Starting, 1));
        judge(&mut h, result(-1), 2, false);
        assert_eq!(h.status, HealthStatus::Unhealthy);
        judge(&mut h, result(0), 2, false);
        assert_eq!((h.status, h.failing_streak), (HealthStatus::Healthy, 0));
        judge(&mut h, result(1), 2, true);
        assert_eq!(h.failing_streak, 1);
        for _ in 0..9 {
            judge(&mut h, result(0), 2, false);
        }
        assert_eq!(h.log.len(), LOG);
    }

    #[test]
    fn the_start_period_forgives() {
        let mut h = Health::default();
        for _ in 0..9 {
            judge(&mut h, result(1), 1, true);
        }
        assert_eq!((h.status, h.failing_streak), (HealthStatus::Starting, 0));
        judge(&mut h, result(1), 1, false);
        assert_eq!(h.status, HealthStatus::Unhealthy);
    }

    #[test]
    fn checks_are_read() {
        let config = |test: &[&str]| ContainerConfig {
            healthcheck: Some(HealthConfig {
                test: Some(test.iter().map(|t| (*t).to_owned()).collect()),
                start_period: Some(10_000_000_000),
                ..Default::default()
            }),
            ..Default::default()
        };
        let c = Check::of(&config(&["CMD-SHELL", "exit 1"])).unwrap();
        assert_eq!(c.command, ["/bin/sh", "-c", "exit 1"]);
        assert_eq!(c.wait(HealthStatus::Starting, Duration::from_secs(3)), START_INTERVAL);
        assert_eq!(c.wait(HealthStatus::Starting, Duration::from_secs(10)), INTERVAL);
        assert_eq!(c.wait(HealthStatus::Healthy, Duration::from_secs(3)), INTERVAL);
        assert!(!is_checked(&config(&["NONE"])));
        assert!(!is_checked(&ContainerConfig::default()));
        assert_eq!(show(Duration::from_secs(90)), "1m30s");
        assert_eq!(show(Duration::from_millis(1500)), "1.5s");
        assert_eq!(show(Duration::from_millis(200)), "200ms");
    }
}
