use std::net::IpAddr;
use std::sync::Arc;

use sampan_sys::netlink::AddressEntry;
use sampan_types::{ContainerId, EndpointId};

use super::*;
use crate::config::{EndpointSpec, SandboxSpec, Subnet};
use crate::manager::{Joined, Sandbox};

const NUMBER: i32 = 7;
const BRIDGE: u32 = 3;

/// A sandbox on the network of `br-shop`, whose namespace has [`NUMBER`].
struct World {
    state: State,
    known: Known,
    network: NetworkId,
    sandbox: SandboxId,
    endpoint: EndpointId,
}

fn world() -> World {
    let subnet = Subnet { net: net("10.60.0.0/16"), gateway: ip("10.60.0.1") };
    let network = NetworkSpec {
        id: NetworkId::random(),
        name: "shop".to_owned(),
        driver: DriverConfig::Bridge(BridgeConfig::new("br-shop", subnet)),
    };
    let endpoint = EndpointId::random();
    let spec = EndpointSpec::new(endpoint.clone(), network.id.clone(), vec![ip("10.60.0.2")]);
    let attachment = Attachment {
        interface: Some("eth0".to_owned()),
        host_interface: Some("veth1".to_owned()),
        addresses: vec![net("10.60.0.2/16")],
        gateways: vec![ip("10.60.0.1")],
        mtu: 1500,
        ..Attachment::blank(&spec)
    };
    let sandbox = SandboxId::random();
    let joined = Joined {
        spec: SandboxSpec::new(sandbox.clone(), ContainerId::random(), vec![spec]),
        sandbox: Sandbox { netns: Some("/netns".into()), attachments: vec![attachment] },
        forwards: Default::default(),
    };
    let mut state = State::default();
    let id = network.id.clone();
    state.networks.insert(id.clone(), Arc::new(network));
    state.sandboxes.insert(sandbox.clone(), joined);
    let known = Known {
        instance: "sampan".to_owned(),
        numbers: [(NUMBER, sandbox.clone())].into(),
        bridges: [(BRIDGE, "br-shop".to_owned())].into(),
    };
    World { state, known, network: id, sandbox, endpoint }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn link(name: &str, kind: &str, alias: &str) -> Link {
    Link {
        index: 9,
        name: name.to_owned(),
        alias: alias.to_owned(),
        kind: kind.to_owned(),
        up: true,
        mac: vec![2, 0, 0, 0, 0, 1],
        mtu: 1500,
        gso_ipv4_max_size: None,
        master: None,
        peer: 0,
        group: 0,
        port: None,
    }
}

impl World {
    fn marks(&mut self, events: Vec<(Option<i32>, RouteChange)>) -> Scope {
        let mut heap = Heap::default();
        for (namespace, change) in events {
            heap.route(RouteEvent { namespace, change });
        }
        self.known.classify(&self.state, heap)
    }

    fn of_sandbox(&self) -> Scope {
        Scope { sandboxes: [self.sandbox.clone()].into(), ..Scope::default() }
    }

    fn of_network(&self) -> Scope {
        Scope { networks: [self.network.clone()].into(), ..Scope::default() }
    }

    /// The host's end, as it shall be.
    fn port(&self) -> Link {
        let alias = Mark::Endpoint(self.sandbox.clone(), self.endpoint.clone());
        let alias = alias.alias("sampan").to_string();
        Link { master: Some(BRIDGE), ..link("veth1", "veth", &alias) }
    }
}

#[test]
fn links_as_they_shall_be_are_no_suspicion() {
    let mut w = world();
    let port = w.port();
    // As an endpoint is made: only the latest state counts.
    let steps = [
        Link { up: false, master: None, ..port.clone() },
        Link { up: false, ..port.clone() },
        port.clone(),
    ];
    let events = steps.map(|l| (None, RouteChange::Link(l))).into();
    assert_eq!(w.marks(events), Scope::default());
    let wrong = [
        Link { master: None, ..port.clone() },
        Link { master: Some(4), ..port.clone() },
        Link { up: false, ..port.clone() },
        Link { mtu: 1400, ..port.clone() },
    ];
    for link in wrong {
        assert_eq!(
            w.marks(vec![(None, RouteChange::Link(link.clone()))]),
            w.of_sandbox(),
            "{link:?}"
        );
    }
    assert_eq!(w.marks(vec![(None, RouteChange::LinkGone(port))]), w.of_sandbox());
}

#[test]
fn a_sandbox_that_is_not_known_is_no_suspicion() {
    let mut w = world();
    let port = w.port();
    w.state.sandboxes.clear();
    assert_eq!(w.marks(vec![(None, RouteChange::LinkGone(port))]), Scope::default());
    let gone = RouteChange::LinkGone(link("eth0", "veth", ""));
    assert_eq!(w.marks(vec![(Some(NUMBER), gone)]), Scope::default());
}

#[test]
fn bridges_are_known_by_mark_and_by_name() {
    let mut w = world();
    let alias = Mark::Network(w.network.clone()).alias("sampan").to_string();
    let bridge = link("br-shop", "bridge", &alias);
    assert_eq!(w.marks(vec![(None, RouteChange::Link(bridge.clone()))]), Scope::default());
    let off = Link { up: false, ..bridge.clone() };
    assert_eq!(w.marks(vec![(None, RouteChange::Link(off))]), w.of_network());
    assert_eq!(w.marks(vec![(None, RouteChange::LinkGone(bridge))]), w.of_network());
    let theirs = link("br-shop", "bridge", "");
    assert_eq!(w.marks(vec![(None, RouteChange::LinkGone(theirs.clone()))]), w.of_network());
    let other = Link { name: "br-other".to_owned(), ..theirs };
    assert_eq!(w.marks(vec![(None, RouteChange::LinkGone(other))]), Scope::default());
}

#[test]
fn losses_are_of_whose_they_are() {
    let mut w = world();
    let address =
        |text| RouteChange::AddressGone(AddressEntry { link: 9, address: net(text), ours: true });
    let route = |to: Option<&str>, by: Option<&str>| {
        let (destination, gateway) = (to.map(net), by.map(ip));
        RouteChange::RouteGone(RouteEntry { destination, gateway, link: 9 })
    };
    let (host, inside) = (None, Some(NUMBER));
    let (network, sandbox) = (w.of_network(), w.of_sandbox());
    let nothing = Scope::default;
    let cases = [
        (host, address("10.60.0.1/16"), network.clone()),
        (host, address("10.60.0.9/16"), nothing()),
        (host, route(Some("10.60.0.0/16"), None), network),
        (host, route(None, Some("192.0.2.1")), nothing()),
        (inside, address("10.60.0.2/16"), sandbox.clone()),
        (inside, address("10.99.0.2/16"), nothing()),
        (inside, route(None, Some("10.60.0.1")), sandbox.clone()),
        (inside, route(None, Some("10.99.0.1")), nothing()),
        (inside, route(Some("10.60.0.0/16"), None), sandbox.clone()),
        (inside, RouteChange::LinkGone(link("eth0", "veth", "")), sandbox.clone()),
        (inside, RouteChange::Link(link("eth0", "veth", "")), nothing()),
        (inside, RouteChange::LinkGone(link("tun0", "tun", "")), nothing()),
        (Some(8), address("10.60.0.2/16"), nothing()),
        (inside, RouteChange::Forwarding { ipv6: false, on: false }, nothing()),
        (host, RouteChange::Forwarding { ipv6: false, on: true }, nothing()),
    ];
    for (namespace, change, wanted) in cases {
        let said = format!("{namespace:?} {change:?}");
        assert_eq!(w.marks(vec![(namespace, change)]), wanted, "{said}");
    }
    let off = RouteChange::Forwarding { ipv6: false, on: false };
    assert!(w.marks(vec![(host, off)]).forwarding);
}

#[test]
fn only_our_tables_are_a_matter() {
    let mut w = world();
    let mut of = |table: &str, elements: Option<&str>| {
        let mut heap = Heap::default();
        let elements_of = elements.map(str::to_owned);
        heap.table(TableEvent { namespace: None, family: 1, table: table.to_owned(), elements_of });
        w.known.classify(&w.state, heap).firewall
    };
    assert!(of("sampan", None) && of("sampan-policy", None));
    assert!(of("sampan", Some("ports")), "a published port");
    assert!(!of("sampan-policy", Some("name4.example.org")), "told to a container");
    assert!(!of("filter", None) && !of("sampan-01234567", None));
}
