//! Counters of what the engine does, for Prometheus.

use std::sync::Arc;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::container::index::Index;
use crate::container::state::Status;

/// The label of counters that are kept per outcome.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Outcome {
    /// `ok` or `error`; for health: the status.
    pub result: &'static str,
}

/// The label of the gauge of containers.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// `running`, `exited` …
    pub state: &'static str,
}

/// The label of the counter of repairs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RepairLabel {
    /// What was repaired: `firewall`, `network`, `endpoint` …
    pub kind: &'static str,
}

/// The engine's metrics. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<std::sync::Mutex<Registry>>,
    /// Starts of containers, by outcome.
    pub starts: Family<Outcome, Counter>,
    /// How long successful starts took, in seconds.
    pub start_seconds: Histogram,
    /// Ends of containers' processes.
    pub exits: Counter,
    /// Starts by a restart policy.
    pub restarts: Counter,
    /// Health probes, by what they found.
    pub health_checks: Family<Outcome, Counter>,
    /// Exec processes that were started.
    pub execs: Counter,
    /// Backups of volumes, by outcome.
    pub backups: Family<Outcome, Counter>,
    /// What somebody removed or changed of the networks and was restored.
    pub repairs: Family<RepairLabel, Counter>,
    states: Family<StateLabel, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sampan");
        let buckets = [0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0];
        let starts = Family::default();
        let start_seconds = Histogram::new(buckets);
        let (exits, restarts, execs) = (Counter::default(), Counter::default(), Counter::default());
        let (health_checks, states) = (Family::default(), Family::default());
        let (repairs, backups) = (Family::default(), Family::default());
        registry.register("container_starts", "Starts of containers", starts.clone());
        registry.register(
            "container_start_seconds",
            "Duration of successful starts",
            start_seconds.clone(),
        );
        registry.register("container_exits", "Ends of containers' processes", exits.clone());
        registry.register("container_restarts", "Starts by a restart policy", restarts.clone());
        registry.register("health_checks", "Health probes by result", health_checks.clone());
        registry.register(
            "network_repairs",
            "What somebody removed of the networks and was restored, by kind",
            repairs.clone(),
        );
        registry.register("volume_backups", "Backups of volumes by result", backups.clone());
        registry.register("execs", "Exec processes started", execs.clone());
        registry.register("containers", "Containers by state", states.clone());
        Self {
            registry: Arc::new(std::sync::Mutex::new(registry)),
            starts,
            start_seconds,
            exits,
            restarts,
            health_checks,
            execs,
            backups,
            repairs,
            states,
        }
    }
}

impl Metrics {
    /// Counts a start.
    pub fn started(&self, result: &'static str) {
        self.starts.get_or_create(&Outcome { result }).inc();
    }

    /// Counts a backup of a volume.
    pub fn backed_up(&self, result: &'static str) {
        self.backups.get_or_create(&Outcome { result }).inc();
    }

    /// Counts a repair of the networks.
    pub fn repaired(&self, kind: &'static str) {
        self.repairs.get_or_create(&RepairLabel { kind }).inc();
    }

    /// Lets another part of the program add its metrics.
    pub fn register(&self, f: impl FnOnce(&mut Registry)) {
        f(&mut self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    }

    /// All metrics in the text format of OpenMetrics.
    #[must_use]
    pub fn encode(&self, containers: &Index) -> String {
        for status in Status::ALL {
            let count =
                containers.all().iter().filter(|c| c.record().state.status == status).count();
            let label = StateLabel { state: status.as_str() };
            self.states.get_or_create(&label).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        let mut text = String::new();
        let registry = self.registry.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(e) = prometheus_client::encoding::text::encode(&mut text, &registry) {
            tracing::error!(error = %e, "metrics cannot be encoded");
        }
        text
    }
}
