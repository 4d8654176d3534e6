//! Telling of what the networks' watcher restored: an event and a count for
//! each repair.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use sampan_net::{Networks, Repair};
use sampan_types::EventType;
use tokio::sync::broadcast::error::RecvError;

use crate::Engine;

/// The actor of repairs that are of no network: rules, forwarding.
const HOST: &str = "host";

/// The metric of events that were lost.
#[derive(Debug)]
struct Overruns(Networks);

impl Collector for Overruns {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counter = ConstCounter::new(self.0.overruns());
        let help = "How often events of the kernel were lost and everything was compared";
        let kind = counter.metric_type();
        counter.encode(encoder.encode_descriptor("network_event_overruns", help, None, kind)?)
    }
}

impl Engine {
    /// Lets the networks' manager watch the kernel from now on. Without it,
    /// what somebody else removes is restored at the next start.
    pub(crate) async fn watch_networks(&self) {
        let mut repairs = self.networks().repairs();
        if let Err(error) = self.networks().watch().await {
            tracing::error!(%error, "networks are not watched: what somebody removes is not restored");
            return;
        }
        let overruns = Box::new(Overruns(self.networks().clone()));
        self.metrics().register(|registry| registry.register_collector(overruns));
        let (engine, stop) = (self.clone(), self.inner.stop.clone());
        self.inner.tasks.spawn(async move {
            loop {
                let received = tokio::select! {
                    () = stop.cancelled() => return,
                    received = repairs.recv() => received,
                };
                match received {
                    Ok(repair) => engine.tell_repair(&repair),
                    Err(RecvError::Lagged(lost)) => {
                        tracing::warn!(lost, "repairs of networks were not told of");
                    }
                    Err(RecvError::Closed) => return,
                }
            }
        });
    }

    /// Publishes and counts a repair.
    pub(crate) fn tell_repair(&self, repair: &Repair) {
        self.metrics().repaired(repair.kind.as_str());
        let network = repair.network.as_ref();
        let name = network.and_then(|id| self.network_table().get(id)).map(|n| n.name.to_string());
        let id = network.map_or_else(|| HOST.to_owned(), ToString::to_string);
        let container = repair.sandbox.as_ref().and_then(|sandbox| {
            let containers = self.containers();
            let owner =
                containers.iter().find(|c| c.record().networking.sandbox.as_ref() == Some(sandbox));
            owner.map(|c| c.id().to_string())
        });
        let attributes = [
            ("name", Some(name.unwrap_or_else(|| id.clone()))),
            ("kind", Some(repair.kind.as_str().to_owned())),
            ("what", Some(repair.what.clone())),
            ("container", container),
        ];
        let attributes = attributes.into_iter().filter_map(|(key, value)| Some((key, value?)));
        self.event_bus().publish(EventType::Network, "repair", &id, attributes);
    }
}
