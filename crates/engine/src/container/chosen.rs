//! What a driver chose for an endpoint, where the engine chose nothing: the
//! addresses of CNI networks, the hardware address of plugins' interfaces.

use sampan_net::Attachment;

use super::Container;
use crate::Engine;
use crate::record::{ContainerRecord, EndpointLive};

impl Engine {
    /// Puts what drivers chose into a container's record and hosts file.
    pub(crate) async fn note_chosen(&self, c: &Container, made: &[Attachment]) {
        let before = c.record();
        let mut after = (*before).clone();
        let changed: Vec<EndpointLive> =
            made.iter().filter_map(|attachment| note(&mut after, attachment)).collect();
        if changed.is_empty() {
            return;
        }
        c.change(|r| r.networking = after.networking);
        if let Err(error) = self.persist(c).await {
            tracing::error!(container = c.id().short(), %error, "addresses are not written");
        }
        for live in changed {
            self.change_hosts(&before, &live, true).await;
        }
    }
}

/// The endpoint with what was chosen; none when nothing was.
fn note(record: &mut ContainerRecord, made: &Attachment) -> Option<EndpointLive> {
    let mut lives = record.networking.endpoints.values_mut().filter_map(|e| e.live.as_mut());
    let live = lives.find(|l| l.endpoint == made.endpoint)?;
    if live.address.is_some() || live.address6.is_some() || made.addresses.is_empty() {
        return None;
    }
    let find = |v4: bool| made.addresses.iter().find(|a| a.addr().is_ipv4() == v4).copied();
    let gateway = |v4: bool| made.gateways.iter().find(|g| g.is_ipv4() == v4).copied();
    (live.address, live.address6) = (find(true), find(false));
    (live.gateway, live.gateway6) = (gateway(true), gateway(false));
    live.mac = made.mac.map(|m| m.to_string());
    Some(live.clone())
}
