//! What is wrong with networks, in words.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use ipnet::IpNet;
use sampan_sys::iptables::{LegacyChain, LegacyHook, legacy_chains};
use sampan_sys::netlink::Destination;
use sampan_sys::nft::OtherChain;
use sampan_sys::{arp, netns, sysctl};
use sampan_types::NetworkId;

use super::{Looked, blocking, networks, sandboxes};
use crate::config::{DriverConfig, NetworkSpec};
use crate::error::NetError;
use crate::manager::Inner;
use crate::watch::{Finding, Subject, View, inspect_host, inspect_inside};

/// Where names are answered in a sandbox.
const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11)), 53);
/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_millis(500);
/// After so many sandboxes without an answer no other one is asked.
const SILENT: u32 = 3;
/// How long a neighbour with the same address is waited for.
const NEIGHBOURS: Duration = Duration::from_millis(200);

pub(super) async fn run(
    inner: &Inner,
    network: Option<NetworkId>,
) -> Result<Vec<Finding>, NetError> {
    let (mut findings, destinations, chains) = host(inner).await?;
    let chosen = networks(inner, network.as_ref());
    for network in &chosen {
        findings.extend(overlaps(network, &destinations));
    }
    if chosen.iter().any(|n| matches!(n.driver, DriverConfig::Bridge(_))) {
        findings.extend(others(&chains, &inner.instance, bridge_filtered()));
    }
    findings.extend(firewall(inner).await);
    let looked = sandboxes(inner, network.as_ref());
    findings.extend(blocking(move || Ok(inside(&looked))).await?);
    if let Some(id) = &network {
        findings.retain(|f| match &f.subject {
            Subject::Network(n) | Subject::Endpoint(_, n) => n == id,
            Subject::Host | Subject::Firewall => true,
        });
    }
    findings.sort_by(|a, b| b.severity.cmp(&a.severity).then_with(|| a.text.cmp(&b.text)));
    Ok(findings)
}

/// A destination of the host's routes with the name of its link.
pub(crate) struct Taken {
    net: IpNet,
    link: String,
}

impl Taken {
    /// The destinations with the names of their links.
    pub fn all(view: &View, destinations: Vec<Destination>) -> Vec<Self> {
        let name = |index| view.links.iter().find(|l| l.index == index).map(|l| l.name.clone());
        let named = |d: Destination| Self { net: d.net, link: name(d.link).unwrap_or_default() };
        destinations.into_iter().map(named).collect()
    }
}

type Host = (Vec<Finding>, Vec<Taken>, Vec<OtherChain>);

/// Reads the host's side and says what differs.
async fn host(inner: &Inner) -> Result<Host, NetError> {
    let read = inner.worker.run(|kernel| {
        let view = View::read(&mut kernel.route)?;
        Ok((view, kernel.route.destinations()?, kernel.nft.base_chains()?))
    });
    let (view, destinations, chains) =
        read.await?.map_err(NetError::kernel("look at the host's links and rules"))?;
    let mut findings = inspect_host(&inner.state(), &view);
    if inner.forwards_packets() {
        findings.extend(forwarding());
    }
    findings.extend(uplink(inner, &view));
    findings.extend(legacy(inner).await?);
    Ok((findings, Taken::all(&view, destinations), chains))
}

fn forwarding() -> Option<Finding> {
    let on = sysctl::read("net.ipv4.ip_forward").is_ok_and(|v| v != "0");
    let text = "the host forwards no packets: net.ipv4.ip_forward is 0";
    (!on).then(|| Finding::error(Subject::Host, text))
}

/// Networks whose packets are too large for the way out.
fn uplink(inner: &Inner, view: &View) -> Vec<Finding> {
    let is_default = |d: &Option<IpNet>| d.is_none_or(|d| d.prefix_len() == 0);
    let Some(way) = view.routes.iter().find(|r| is_default(&r.destination)) else {
        return Vec::new();
    };
    let Some(uplink) = view.links.iter().find(|l| l.index == way.link) else {
        return Vec::new();
    };
    let state = inner.state();
    let too_large = state.networks.values().filter_map(|network| match &network.driver {
        DriverConfig::Bridge(config) if !config.internal && config.mtu > uplink.mtu => {
            let text = format!(
                "the MTU of network {} is {}, that of the way out {} only {}: large packets may \
                 get lost; create it with -o com.docker.network.driver.mtu={}",
                network.name, config.mtu, uplink.name, uplink.mtu, uplink.mtu
            );
            Some(Finding::warning(Subject::Network(network.id.clone()), text))
        }
        _ => None,
    });
    too_large.collect()
}

/// Routes of the host that lead where a network's containers are.
pub(crate) fn overlaps(network: &NetworkSpec, destinations: &[Taken]) -> Vec<Finding> {
    let DriverConfig::Bridge(config) = &network.driver else { return Vec::new() };
    let mut findings = Vec::new();
    for subnet in &config.subnets {
        let clashes = destinations.iter().filter(|d| {
            d.link != config.bridge
                && d.net.prefix_len() > 0
                && (d.net.contains(&subnet.net) || subnet.net.contains(&d.net))
        });
        for taken in clashes {
            let by =
                if taken.link.is_empty() { String::new() } else { format!(" by {}", taken.link) };
            let text = format!(
                "the host's route to {}{by} overlaps subnet {} of network {}: addresses of both \
                 can't be reached; move the network: sampan network migrate {}",
                taken.net, subnet.net, network.name, network.name
            );
            findings.push(Finding::warning(Subject::Network(network.id.clone()), text));
        }
    }
    findings
}

/// Whether bridged packets pass the host's rules.
fn bridge_filtered() -> bool {
    sysctl::read("net.bridge.bridge-nf-call-iptables").is_ok_and(|v| v != "0")
}

/// Chains of others that may drop what is forwarded.
fn others(chains: &[OtherChain], instance: &str, filtered: bool) -> Vec<Finding> {
    let ours = |c: &OtherChain| c.table == instance || c.table.starts_with("sampan");
    let dropping = chains.iter().filter(|c| c.is_forward() && c.drops && !ours(c));
    let mut findings: Vec<Finding> = dropping
        .map(|c| {
            let text = format!(
                "chain {} of table {} {} drops what its rules do not accept: packets from and to \
                 containers among them; let it accept what enters or leaves by the bridges",
                c.name, c.family, c.table
            );
            Finding::error(Subject::Host, text)
        })
        .collect();
    if filtered && !findings.is_empty() {
        let text = "br_netfilter hands packets between containers of one network to these rules \
                    too: set net.bridge.bridge-nf-call-iptables to 0 unless something needs it";
        findings.push(Finding::warning(Subject::Host, text));
    }
    findings
}

/// Rules of iptables-legacy, which nothing else here knows of.
async fn legacy(inner: &Inner) -> Result<Vec<Finding>, NetError> {
    let respects = inner.firewall().respects_host();
    match inner.worker.run(|_| legacy_chains()).await? {
        Ok(chains) => Ok(chains.iter().filter_map(|chain| unread(chain, respects)).collect()),
        Err(e) => {
            let text = format!("rules of iptables-legacy can't be looked for: {e}");
            Ok(vec![Finding::warning(Subject::Host, text)])
        }
    }
}

fn unread(chain: &LegacyChain, respects: bool) -> Option<Finding> {
    let (table, name) = (chain.table(), chain.hook.chain());
    let remedy = "load its rules with iptables-nft (update-alternatives --config iptables)";
    let found = match (chain.hook, chain.drops) {
        (LegacyHook::Forward, true) => Finding::error(
            Subject::Host,
            format!(
                "chain {name} of table {table} of iptables-legacy drops what its rules do not \
                 accept: packets from and to containers among them; let it accept what enters or \
                 leaves by the bridges"
            ),
        ),
        (LegacyHook::Forward, false) => Finding::warning(
            Subject::Host,
            format!(
                "chain {name} of table {table} of iptables-legacy has rules, which are not read: \
                 what they do to packets of containers is not known here; {remedy}"
            ),
        ),
        (LegacyHook::Input, _) if respects => Finding::warning(
            Subject::Host,
            format!(
                "published ports do not obey chain {name} of table {table}: rules of \
                 iptables-legacy are not read; {remedy}"
            ),
        ),
        // Not obeyed whatever the tool.
        (LegacyHook::Input, _) => return None,
    };
    Some(found)
}

async fn firewall(inner: &Inner) -> Option<Finding> {
    match inner.firewall().differs().await {
        Ok(false) => None,
        Ok(true) => {
            let text = format!("table inet {} is not what it shall be", inner.instance);
            Some(Finding::error(Subject::Firewall, text))
        }
        Err(e) => Some(Finding::error(Subject::Firewall, e.to_string())),
    }
}

/// What is wrong inside the sandboxes.
fn inside(looked: &[Looked]) -> Vec<Finding> {
    let paths: Vec<_> = looked.iter().map(|l| l.netns.clone()).collect();
    let mut findings = Vec::new();
    let mut silent = 0;
    let mut rest = looked.iter();
    let toured = netns::tour(&paths, |entered| {
        let Some(looked) = rest.next() else { return };
        let view = entered.map_err(|e| e.to_string()).and_then(|()| {
            let mut route = sampan_sys::netlink::Route::open().map_err(|e| e.to_string())?;
            View::read(&mut route).map_err(|e| e.to_string())
        });
        match view {
            Ok(view) => {
                findings.extend(inspect_inside(&looked.sandbox, &looked.attachments, &view));
                findings.extend(here(looked, &view));
                // Where nobody answers, nobody answers the others either.
                if silent < SILENT
                    && let Some(finding) = nameless(looked)
                {
                    silent += 1;
                    findings.push(finding);
                }
            }
            Err(e) => findings.extend(lost(looked, &e)),
        }
    });
    if let Err(e) = toured {
        findings
            .push(Finding::error(Subject::Host, format!("the sandboxes were not checked: {e}")));
    }
    findings
}

fn lost(looked: &Looked, error: &str) -> impl Iterator<Item = Finding> {
    looked.attachments.iter().map(move |a| {
        let subject = Subject::Endpoint(looked.sandbox.clone(), a.network.clone());
        Finding::error(subject, format!("the network namespace is gone ({error}): restart it"))
    })
}

/// What is found out by trying, in the sandbox's namespace.
fn here(looked: &Looked, view: &View) -> Vec<Finding> {
    let mut findings = Vec::new();
    for attachment in &looked.attachments {
        let subject = || Subject::Endpoint(looked.sandbox.clone(), attachment.network.clone());
        let Some(name) = attachment.interface.as_deref() else { continue };
        let Some(link) = view.link(name) else { continue };
        if attachment.mtu != 0 && link.mtu != attachment.mtu {
            let text = format!(
                "the MTU of {name} is {}, that of the network {}",
                link.mtu, attachment.mtu
            );
            findings.push(Finding::warning(subject(), text));
        }
        // On a LAN, others give out addresses as well.
        let (Some(mac), true) = (attachment.mac, attachment.host_interface.is_none()) else {
            continue;
        };
        for address in &attachment.addresses {
            let IpAddr::V4(v4) = address.addr() else { continue };
            if let Ok(Some(other)) = arp::who_has(link.index, mac.0, v4, NEIGHBOURS) {
                let other = crate::mac::MacAddr(other);
                let text = format!("address {v4} is used by {other} on the LAN as well");
                findings.push(Finding::error(subject(), text));
            }
        }
    }
    findings
}

/// A sandbox in which names are not answered.
fn nameless(looked: &Looked) -> Option<Finding> {
    let (name, first) = (looked.name.as_ref()?, looked.attachments.first()?);
    let error = ask_for(name).err()?;
    let subject = Subject::Endpoint(looked.sandbox.clone(), first.network.clone());
    let why = match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("no answer within {PATIENCE:?}"),
        _ => error.to_string(),
    };
    let text = format!("names are not answered at {}: {why}", DNS.ip());
    Some(Finding::error(subject, text))
}

/// Asks the name server of the calling thread's namespace for the address of
/// a container, which it knows by itself. Any answer will do.
fn ask_for(name: &str) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(DNS)?;
    // Number, flags (recursion desired), one question.
    let mut query = vec![0x53, 0x41, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        query.push(u8::try_from(label.len()).unwrap_or(0).min(63));
        query.extend(label.bytes().take(63));
    }
    // The root, type A, class IN.
    query.extend([0, 0, 1, 0, 1]);
    socket.send(&query)?;
    socket.recv(&mut [0; 512]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{BridgeConfig, Subnet};

    fn network() -> NetworkSpec {
        let net = "10.60.0.0/16".parse().unwrap();
        let subnet = Subnet { net, gateway: "10.60.0.1".parse().unwrap() };
        NetworkSpec {
            id: NetworkId::random(),
            name: "shop".to_owned(),
            driver: DriverConfig::Bridge(BridgeConfig::new("br-shop", subnet)),
        }
    }

    fn taken(net: &str, link: &str) -> Taken {
        Taken { net: net.parse().unwrap(), link: link.to_owned() }
    }

    #[test]
    fn a_late_route_is_named() {
        let late = [taken("10.60.0.0/16", "br-shop"), taken("10.0.0.0/8", "tun0")];
        let found = overlaps(&network(), &late);
        assert_eq!(found.len(), 1, "its own route is none: {found:?}");
        assert!(found[0].text.contains("10.0.0.0/8 by tun0"), "{}", found[0].text);
        assert!(overlaps(&network(), &[taken("10.61.0.0/16", "tun0")]).is_empty());
    }

    #[test]
    fn only_dropping_forward_chains_of_others_are_named() {
        let chain = |table: &str, hook, drops| OtherChain {
            family: "ip",
            table: table.to_owned(),
            name: "FORWARD".to_owned(),
            hook,
            priority: 0,
            drops,
        };
        let chains = [
            chain("filter", 2, true),
            chain("filter", 1, true),
            chain("other", 2, false),
            chain("sampan", 2, true),
        ];
        let found = others(&chains, "sampan", false);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].text.contains("table ip filter"), "{}", found[0].text);
        assert_eq!(others(&chains, "sampan", true).len(), 2);
        assert_eq!(others(&chains[1..], "sampan", true), Vec::new());
    }
}
