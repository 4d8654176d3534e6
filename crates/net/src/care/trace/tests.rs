use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use sampan_sys::netlink::Way;
use sampan_sys::nft::OtherChain;
use sampan_types::{EndpointId, NetworkId, SandboxId};

use super::decide::decide;
use super::facts::{Instance, Kernel, Known};
use super::{Place, Trace, TraceRequest, Verdict};
use crate::config::{
    Attachment, BridgeConfig, DriverConfig, EndpointSpec, GatewayMode, NetworkSpec, Subnet,
};
use crate::error::NetError;
use crate::firewall::{Forward, LinkRule};
use crate::policy::{Action, Direction, Peer, PolicyRule};
use crate::ports::Protocol;

/// `RTN_UNICAST`, `RTN_LOCAL`.
const UNICAST: u8 = 1;
const LOCAL: u8 = 2;
const UPLINK: u32 = 1;

/// Two networks, 10.1.0.0/16 and 10.2.0.0/16, with a sandbox .0.2 on each, and
/// .0.3 on the first. The host is 192.0.2.1 on its uplink.
struct Fake {
    instance: Instance,
    listeners: HashMap<Option<PathBuf>, Vec<SocketAddr>>,
    no_way_back: bool,
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn network(number: u8) -> NetworkSpec {
    let net = format!("10.{number}.0.0/16").parse().unwrap();
    let subnet = Subnet { net, gateway: ip(&format!("10.{number}.0.1")) };
    NetworkSpec {
        id: NetworkId::random(),
        name: format!("net{number}"),
        driver: DriverConfig::Bridge(BridgeConfig::new(format!("br{number}"), subnet)),
    }
}

fn known(network: &NetworkSpec, address: &str) -> Known {
    let id = network.id.clone();
    let spec = EndpointSpec::new(EndpointId::random(), id, vec![ip(address)]);
    let gateway = address.rsplit_once('.').unwrap().0.to_owned() + ".1";
    let attachment = Attachment {
        interface: Some("eth0".to_owned()),
        host_interface: Some("veth0".to_owned()),
        addresses: vec![format!("{address}/16").parse().unwrap()],
        gateways: vec![ip(&gateway)],
        ..Attachment::blank(&spec)
    };
    let netns = Some(PathBuf::from(format!("/netns/{address}")));
    Known { sandbox: SandboxId::random(), netns, attachments: vec![attachment] }
}

impl Fake {
    fn new() -> Self {
        let (one, two) = (network(1), network(2));
        let sandboxes =
            vec![known(&one, "10.1.0.2"), known(&one, "10.1.0.3"), known(&two, "10.2.0.2")];
        let networks = [one, two].map(|n| (n.id.clone(), Arc::new(n)));
        let instance = Instance {
            networks: networks.into(),
            sandboxes,
            forwarding: true,
            ..Instance::default()
        };
        Self { instance, listeners: HashMap::new(), no_way_back: false }
    }

    fn change(&mut self, number: u8, change: impl FnOnce(&mut BridgeConfig)) {
        let name = format!("net{number}");
        let network = self.instance.networks.values_mut().find(|n| n.name == name).unwrap();
        if let DriverConfig::Bridge(config) = &mut Arc::make_mut(network).driver {
            change(config);
        }
    }

    fn listen(&mut self, at: usize, address: &str) {
        let netns = self.instance.sandboxes[at].netns.clone();
        self.listeners.entry(netns).or_default().push(address.parse().unwrap());
    }

    fn publish(&mut self, routed: bool) {
        self.instance.forwards.push(Forward {
            protocol: Protocol::Tcp,
            host_ip: ip("0.0.0.0"),
            host_port: 8080,
            target: "10.1.0.2:80".parse().unwrap(),
            routed,
            owner: Arc::from("0123456789ab"),
        });
    }

    fn place(&self, at: usize) -> Place {
        Place::Sandbox(self.instance.sandboxes[at].sandbox.clone())
    }

    fn trace(&self, from: Place, to: Place, port: u16) -> Trace {
        let port = Some((Protocol::Tcp, port));
        decide(self, &TraceRequest { from, to, port }).unwrap()
    }
}

impl Kernel for Fake {
    fn way(
        &self,
        netns: Option<&PathBuf>,
        to: IpAddr,
        _from: Option<IpAddr>,
        _enters_by: Option<&str>,
    ) -> Result<Option<Way>, NetError> {
        let IpAddr::V4(v4) = to else { return Ok(None) };
        let [first, second, ..] = v4.octets();
        let way = |kind, link, gateway, source: Option<IpAddr>| {
            Ok(Some(Way { kind, link: Some(link), gateway, source, table: 254 }))
        };
        let Some(path) = netns else {
            return match (first, second) {
                (10, 1 | 2) => way(UNICAST, 10 + u32::from(second), None, None),
                (127, _) | (192, _) => way(LOCAL, UPLINK, None, Some(to)),
                _ => way(UNICAST, UPLINK, Some(ip("192.0.2.254")), Some(ip("192.0.2.1"))),
            };
        };
        if self.no_way_back && path.ends_with("10.1.0.2") {
            return Ok(None);
        }
        let own: IpAddr = path.file_name().unwrap().to_str().unwrap().parse().unwrap();
        let IpAddr::V4(mine) = own else { return Ok(None) };
        let near = mine.octets()[..2] == v4.octets()[..2];
        let gateway = ip(&format!("10.{}.0.1", mine.octets()[1]));
        way(UNICAST, 2, (!near).then_some(gateway), Some(own))
    }

    fn listeners(
        &self,
        netns: Option<&PathBuf>,
        _protocol: Protocol,
    ) -> Result<Vec<SocketAddr>, NetError> {
        Ok(self.listeners.get(&netns.cloned()).cloned().unwrap_or_default())
    }

    fn link(&self, netns: Option<&PathBuf>, index: u32) -> Result<Option<String>, NetError> {
        Ok(Some(match (netns, index) {
            (Some(_), _) => "eth0".to_owned(),
            (None, UPLINK) => "uplink0".to_owned(),
            (None, bridge) => format!("br{}", bridge - 10),
        }))
    }

    fn known(&self) -> &Instance {
        &self.instance
    }
}

#[track_caller]
fn ends(trace: &Trace, verdict: Verdict, text: &str) {
    let last = trace.hops.last().unwrap();
    assert!(last.verdict == verdict && last.what.contains(text), "{trace:#?}");
}

#[test]
fn neighbours_meet_on_their_bridge() {
    let mut fake = Fake::new();
    let trace = |fake: &Fake| fake.trace(fake.place(1), fake.place(0), 80);
    ends(&trace(&fake), Verdict::Stops, "nothing in the container listens on port 80/tcp");
    fake.listen(0, "127.0.0.1:80");
    ends(&trace(&fake), Verdict::Stops, "listens at 127.0.0.1:80/tcp only, not at 10.1.0.2");
    fake.listen(0, "[::]:80");
    ends(&trace(&fake), Verdict::Arrives, "listens at [::]:80");
    fake.no_way_back = true;
    ends(&trace(&fake), Verdict::Stops, "has no route back to 10.1.0.3");
    fake.change(1, |c| c.icc = false);
    ends(&trace(&fake), Verdict::Stops, "keeps its containers apart");
    fake.no_way_back = false;
    fake.instance.links.insert(LinkRule {
        protocol: Protocol::Tcp,
        source: "10.1.0.3".parse().unwrap(),
        target: "10.1.0.2:80".parse().unwrap(),
        owner: "c".into(),
    });
    ends(&trace(&fake), Verdict::Arrives, "listens at [::]:80");
}

#[test]
fn another_network_is_entered_by_what_its_mode_lets_in() {
    let mut fake = Fake::new();
    fake.listen(0, "0.0.0.0:80");
    let trace = |fake: &Fake| fake.trace(fake.place(2), fake.place(0), 80);
    ends(&trace(&fake), Verdict::Stops, "published ports only");
    fake.change(1, |c| c.gateway_mode_ipv4 = GatewayMode::Routed);
    ends(&trace(&fake), Verdict::Stops, "published ports only");
    fake.publish(true);
    ends(&trace(&fake), Verdict::Arrives, "listens");
    fake.change(1, |c| c.gateway_mode_ipv4 = GatewayMode::NatUnprotected);
    fake.instance.forwards.clear();
    ends(&trace(&fake), Verdict::Arrives, "listens");
    fake.change(2, |c| c.internal = true);
    ends(&trace(&fake), Verdict::Stops, "net2 is internal: nothing leaves it");
    fake.instance.forwarding = false;
    ends(&trace(&fake), Verdict::Stops, "ip_forward is 0");
}

#[test]
fn published_ports_lead_to_their_container() {
    let mut fake = Fake::new();
    fake.listen(0, "0.0.0.0:80");
    fake.publish(false);
    let (outside, host) = (Place::Address(ip("198.51.100.7")), Place::Address(ip("192.0.2.1")));
    for from in [outside.clone(), fake.place(2), fake.place(0), Place::Host] {
        let trace = fake.trace(from, host.clone(), 8080);
        ends(&trace, Verdict::Arrives, "listens");
        assert!(trace.hops.iter().any(|h| h.what.contains("goes to 10.1.0.2:80")), "{trace:#?}");
    }
    ends(&fake.trace(outside, host, 8081), Verdict::Stops, "nothing in the host listens");
}

#[test]
fn others_rules_are_named_where_they_may_drop() {
    let mut fake = Fake::new();
    fake.instance.dropping.push(OtherChain {
        family: "ip",
        table: "filter".to_owned(),
        name: "FORWARD".to_owned(),
        hook: 2,
        priority: 0,
        drops: true,
    });
    let trace = fake.trace(fake.place(0), Place::Address(ip("198.51.100.7")), 443);
    ends(&trace, Verdict::Arrives, "beyond the host");
    let may: Vec<_> = trace.hops.iter().filter(|h| h.verdict == Verdict::MayPass).collect();
    assert!(may.len() == 1 && may[0].what.contains("chain FORWARD of table ip filter"), "{may:?}");
    assert!(may[0].what.contains("leaves the host by uplink0 to 192.0.2.254 with the host's"));
}

#[test]
fn the_first_policy_that_fits_decides() {
    let mut fake = Fake::new();
    fake.listen(0, "0.0.0.0:80");
    let rule = |name: &str, peer: &str, action| PolicyRule {
        name: name.to_owned(),
        subjects: vec![ip("10.1.0.2")],
        direction: Direction::Ingress,
        peers: Some(vec![Peer::Net(peer.parse().unwrap())]),
        ports: Vec::new(),
        action,
    };
    fake.instance.policies = vec![
        rule("friends", "10.1.0.3/32", Action::Allow),
        rule("others", "0.0.0.0/0", Action::Deny),
    ];
    ends(&fake.trace(fake.place(1), fake.place(0), 80), Verdict::Arrives, "listens");
    fake.instance.policies.remove(0);
    let denied = fake.trace(fake.place(1), fake.place(0), 80);
    ends(&denied, Verdict::Stops, "policy others denies it");
}
