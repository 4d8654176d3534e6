//! What CNI plugins answer (the CNI specification 1.0, section 5).

use std::net::IpAddr;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;

use crate::config::{Attachment, EndpointSpec, RouteSpec};

/// The result of ADD, of the versions 0.3.0 to 1.1.0.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Added {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    routes: Vec<Route>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    mac: String,
    mtu: u32,
    sandbox: String,
}

#[derive(Debug, Deserialize)]
struct Ip {
    address: IpNet,
    gateway: Option<IpAddr>,
    interface: Option<usize>,
}

#[derive(Debug, Deserialize)]
struct Route {
    dst: IpNet,
    gw: Option<IpAddr>,
}

/// A plugin's refusal.
#[derive(Debug, Deserialize)]
struct Refusal {
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

/// The attachment that the last plugin's result stands for. The plugins have
/// set it up already.
pub(super) fn attachment(
    endpoint: &EndpointSpec,
    interface: &str,
    result: &Value,
) -> Result<Attachment, String> {
    let added: Added = serde_json::from_value(result.clone()).map_err(|e| e.to_string())?;
    let inside = |i: &Interface| i.name == interface && !i.sandbox.is_empty();
    let at = added.interfaces.iter().position(inside);
    let mine = |ip: &&Ip| match (ip.interface, at) {
        (Some(of), Some(at)) => of == at,
        _ => true,
    };
    let mut attachment = Attachment::blank(endpoint);
    attachment.interface = Some(interface.to_owned());
    let link = at.and_then(|at| added.interfaces.get(at));
    attachment.mac = link.and_then(|l| l.mac.parse().ok());
    attachment.mtu = link.map_or(0, |l| l.mtu);
    let ips: Vec<&Ip> = added.ips.iter().filter(mine).collect();
    attachment.addresses = ips.iter().map(|ip| ip.address).collect();
    let gateway = |of: &IpNet| {
        let like = |ip: &&&Ip| ip.address.addr().is_ipv4() == of.addr().is_ipv4();
        ips.iter().find(like).and_then(|ip| ip.gateway)
    };
    for route in &added.routes {
        let by = route.gw.or_else(|| gateway(&route.dst));
        if route.dst.prefix_len() == 0 {
            attachment.gateways.extend(by);
        } else {
            attachment.routes.push(RouteSpec { destination: Some(route.dst), gateway: by });
        }
    }
    Ok(attachment)
}

/// Why a plugin refused: in its own words, or what it wrote otherwise.
pub(super) fn refusal(output: &[u8], errors: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    match serde_json::from_slice::<Refusal>(output) {
        Ok(refusal) if refusal.details.is_empty() && !refusal.msg.is_empty() => refusal.msg,
        Ok(refusal) if !refusal.msg.is_empty() => format!("{}: {}", refusal.msg, refusal.details),
        _ if !text(errors).is_empty() => text(errors),
        _ => text(output),
    }
}

#[cfg(test)]
mod tests {
    use sampan_types::{EndpointId, NetworkId};
    use serde_json::json;

    use super::*;

    #[test]
    fn results_are_read() {
        let endpoint = EndpointSpec::new(EndpointId::random(), NetworkId::random(), vec![]);
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                {"name": "cni0", "mac": "02:00:00:00:00:01"},
                {"name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/x"},
            ],
            "ips": [{"address": "10.8.0.2/24", "gateway": "10.8.0.1", "interface": 1}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.8.0.9"}],
            "dns": {},
        });
        let made = attachment(&endpoint, "eth0", &result).unwrap();
        assert_eq!(made.addresses, ["10.8.0.2/24".parse::<IpNet>().unwrap()]);
        assert_eq!(made.gateways, ["10.8.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(made.routes.len(), 1);
        assert_eq!(made.mac.unwrap().to_string(), "02:00:00:00:00:02");
        assert!(attachment(&endpoint, "eth0", &json!({"ips": [{"address": "x"}]})).is_err());
    }

    #[test]
    fn refusals_are_told_in_their_own_words() {
        let said = br#"{"code":7,"msg":"no room","details":"10.0.0.0/30"}"#;
        assert_eq!(refusal(said, b"x"), "no room: 10.0.0.0/30");
        assert_eq!(refusal(b"", b" panic\n"), "panic");
        assert_eq!(refusal(b"what", b""), "what");
    }
}
