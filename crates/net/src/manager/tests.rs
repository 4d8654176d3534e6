use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::IpNet;
use sampan_types::ContainerId;

use super::*;
use crate::config::{BridgeConfig, Subnet};
use crate::driver::{AttachRequest, BoxFuture, DetachRequest, ObservedEndpoint};
use crate::firewall::NoFirewall;
use crate::names::NoNames;
use crate::ports::{Protocol, PublishedPort};

/// A driver that makes nothing: it proves that the seam is complete.
struct NoDriver;

fn pretended(request: &AttachRequest) -> Attachment {
    let mut attachment = Attachment::blank(&request.endpoint);
    attachment.interface = request.interface.clone();
    attachment.host_interface = Some("pretended".to_owned());
    attachment.mac = request.endpoint.mac;
    attachment.addresses = request.endpoint.addresses.iter().map(|a| IpNet::from(*a)).collect();
    attachment.mtu = 1500;
    attachment
}

impl Driver for NoDriver {
    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>> {
        Box::pin(async move { Ok(pretended(&request)) })
    }

    fn restore(
        &self,
        request: AttachRequest,
        _found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>> {
        Box::pin(async move { Ok((pretended(&request), false)) })
    }

    fn detach(&self, _request: DetachRequest) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async { Ok(()) })
    }
}

fn network(name: &str, driver: DriverConfig) -> NetworkSpec {
    NetworkSpec { id: NetworkId::random(), name: name.to_owned(), driver }
}

fn bridge(name: &str, gateway: &str) -> NetworkSpec {
    let gateway: IpNet = gateway.parse().unwrap();
    let subnet = Subnet { net: gateway.trunc(), gateway: gateway.addr() };
    network(name, DriverConfig::Bridge(BridgeConfig::new(name, subnet)))
}

fn sandbox(networks: &[(&NetworkSpec, &str)]) -> SandboxSpec {
    let endpoint = |(network, address): &(&NetworkSpec, &str)| {
        let addresses = address.parse().into_iter().collect();
        EndpointSpec::new(EndpointId::random(), network.id.clone(), addresses)
    };
    let endpoints = networks.iter().map(endpoint).collect();
    let mut spec = SandboxSpec::new(SandboxId::random(), ContainerId::random(), endpoints);
    spec.ports.push(PublishedPort {
        protocol: Protocol::Tcp,
        host_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        host_port: 8080,
        container_port: 80,
    });
    spec
}

async fn open(dir: &std::path::Path, list: &[&NetworkSpec]) -> Networks {
    let mut config = NetConfig::new("sampan-test", dir);
    config.ip_forward = false;
    config.networks = list.iter().map(|n| (*n).clone()).collect();
    let reaper = Reaper::start(dead_group("sampan-test")).unwrap();
    let worker = Worker::start().unwrap();
    let drivers = Drivers {
        bridge: Box::new(NoDriver),
        linkless: Box::new(NoDriver),
        macvlan: Box::new(NoDriver),
        ipvlan: Box::new(NoDriver),
        remote: Box::new(NoDriver),
        cni: Box::new(NoDriver),
    };
    let (firewall, names) = (Box::new(NoFirewall), Box::new(NoNames));
    Networks::open_with(config, (worker, reaper), drivers, firewall, names).await.unwrap()
}

#[tokio::test]
async fn the_hosts_network_needs_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (host, red) = (network("host", DriverConfig::Host), bridge("red", "10.0.0.1/24"));
    let networks = open(dir.path(), &[&host, &red]).await;
    let spec = sandbox(&[(&host, "")]);
    let made = networks.join(spec.clone()).await.unwrap();
    assert_eq!(made.netns, None);
    assert_eq!(networks.sandbox(&spec.sandbox), Some(made));
    networks.leave(&spec.sandbox).await.unwrap();
    assert_eq!(networks.sandbox(&spec.sandbox), None);
    let both = networks.join(sandbox(&[(&host, ""), (&red, "10.0.0.2")])).await;
    assert!(both.unwrap_err().to_string().contains("not supported"));
}

#[tokio::test]
async fn wrong_requests_are_refused_before_anything_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (red, blue) = (bridge("red", "10.0.0.1/24"), bridge("blue", "10.1.0.1/24"));
    let networks = open(dir.path(), &[&red]).await;
    let unknown = networks.join(sandbox(&[(&blue, "10.1.0.2")])).await.unwrap_err();
    assert!(matches!(unknown, NetError::NoNetwork(_)));
    let outside = networks.join(sandbox(&[(&red, "10.1.0.2")])).await.unwrap_err();
    assert!(matches!(outside, NetError::InvalidEndpoint { .. }), "{outside}");
    for wrong in [
        bridge("red", "10.2.0.1/24"),
        bridge("green", "10.0.0.1/16"),
        bridge("much-too-long-a-name", "10.3.0.1/24"),
        bridge("six", "fd00::1/127"),
        bridge("small", "10.3.0.1/31"),
    ] {
        let refused = networks.create_network(wrong.clone()).await;
        assert!(refused.is_err(), "{wrong:?}");
    }
    networks.create_network(blue.clone()).await.unwrap();
    assert_eq!(networks.network(&blue.id), Some(blue.clone()));
    networks.delete_network(&blue.id).await.unwrap();
    networks.delete_network(&blue.id).await.unwrap();
    assert_eq!(networks.network(&blue.id), None);
}

#[tokio::test]
async fn ports_lead_to_the_first_network_that_leads_out() {
    let inner = {
        let mut spec = bridge("inner", "10.0.0.1/24");
        if let DriverConfig::Bridge(config) = &mut spec.driver {
            config.internal = true;
        }
        spec
    };
    let red = bridge("red", "10.1.0.1/24");
    let spec = sandbox(&[(&inner, "10.0.0.2"), (&red, "10.1.0.2")]);
    let attached = |networks: &[&NetworkSpec]| {
        let attach = |network: &&NetworkSpec| {
            let endpoint = spec.endpoints.iter().find(|e| e.network == network.id).unwrap();
            let mut attachment = Attachment::blank(endpoint);
            attachment.addresses = endpoint.addresses.iter().map(|a| IpNet::from(*a)).collect();
            (Arc::new((*network).clone()), attachment)
        };
        networks.iter().map(attach).collect::<Vec<_>>()
    };
    let forwards = plan::forwards(&spec, &attached(&[&inner, &red]));
    assert_eq!(forwards.len(), 1);
    let target = forwards.iter().next().map(|f| f.target);
    assert_eq!(target, Some(SocketAddr::from((Ipv4Addr::new(10, 1, 0, 2), 80))));
    assert!(plan::forwards(&spec, &attached(&[&inner])).is_empty());
}
