//! The subnets of a network: reading what a request says of them, choosing
//! those that it leaves open, refusing those that are in use. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use sampan_net::ipam::{first_host, overlap};
use sampan_types::docker::{IpamConfig, NetworkCreateRequest};

use super::forbidden;
use super::host_routes::HostRoute;
use super::record::{IpamRecord, NetworkRecord};
use crate::{EngineError, Result};

/// The address families of a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Families {
    /// IPv4.
    pub(super) v4: bool,
    /// IPv6.
    pub(super) v6: bool,
}

/// The families that a request asks for: those that it names, and IPv4 and
/// those of its subnets unless it says otherwise.
pub(super) fn families(request: &NetworkCreateRequest, subnets: &[IpamRecord]) -> Result<Families> {
    let name = &request.name;
    let option = |key: &str| -> Result<Option<bool>> {
        let value = request.options.as_ref().and_then(|o| o.get(key));
        value.map(|v| super::options::flag(name, key, v)).transpose()
    };
    let v4 = request.enable_ipv4.or(option("com.docker.network.enable_ipv4")?);
    let v6 = request.enable_ipv6.or(option("com.docker.network.enable_ipv6")?);
    let has = |v6: bool| subnets.iter().any(|s| s.subnet.addr().is_ipv6() == v6);
    for (refused, family, flag) in
        [(v4 == Some(false), false, "--ipv4"), (v6 == Some(false), true, "--ipv6")]
    {
        if refused && has(family) {
            let subnet = subnets.iter().find(|s| s.subnet.addr().is_ipv6() == family);
            let subnet = subnet.map(|s| s.subnet.to_string()).unwrap_or_default();
            return Err(EngineError::Invalid(format!(
                "network {name}: subnet {subnet} needs {flag}, which is switched off"
            )));
        }
    }
    let families = Families { v4: v4.unwrap_or(true), v6: v6.unwrap_or(has(true)) };
    if !families.v4 && !families.v6 {
        return Err(EngineError::Invalid("IPv4 or IPv6 must be enabled".to_owned()));
    }
    Ok(families)
}

/// The subnets that a request names, IPv4 first.
pub(super) fn named(request: &NetworkCreateRequest) -> Result<Vec<IpamRecord>> {
    let configs = request.ipam.as_ref().and_then(|i| i.config.as_deref()).unwrap_or_default();
    let given = |c: &&IpamConfig| {
        let fields = [&c.subnet, &c.ip_range, &c.gateway];
        fields.iter().any(|f| f.as_deref().is_some_and(|t| !t.is_empty()))
            || c.auxiliary_addresses.as_ref().is_some_and(|a| !a.is_empty())
    };
    let mut all = Vec::new();
    for config in configs.iter().filter(given) {
        all.push(one(&request.name, config)?);
    }
    all.sort_by_key(|i: &IpamRecord| i.subnet.addr().is_ipv6());
    for (at, ipam) in all.iter().enumerate() {
        if let Some(other) = all[..at].iter().find(|o| overlap(&o.subnet, &ipam.subnet)) {
            return Err(forbidden(format!(
                "invalid pool request: Pool overlaps with other one on this address space: {} \
                 overlaps with {} of the same network",
                ipam.subnet, other.subnet
            )));
        }
    }
    Ok(all)
}

fn one(name: &str, config: &IpamConfig) -> Result<IpamRecord> {
    let wrong = |what: &str, text: &str| {
        EngineError::Invalid(format!(
            "invalid network config:\ninvalid {what} {text}: invalid CIDR or address"
        ))
    };
    let text = |field: &Option<String>| field.clone().filter(|t| !t.is_empty());
    let Some(subnet) = text(&config.subnet) else {
        return Err(EngineError::Invalid(format!(
            "network {name}: a gateway, range or auxiliary address needs a subnet"
        )));
    };
    let subnet: IpNet = subnet.parse().map_err(|_| wrong("subnet", &subnet))?;
    if subnet.trunc() != subnet {
        return Err(EngineError::Invalid(format!(
            "invalid network config:\ninvalid subnet {subnet}: it should be {}",
            subnet.trunc()
        )));
    }
    let range = match text(&config.ip_range) {
        Some(text) => Some(text.parse::<IpNet>().map_err(|_| wrong("ip-range", &text))?.trunc()),
        None => None,
    };
    if let Some(range) = range.filter(|r| !subnet.contains(r)) {
        return Err(EngineError::Invalid(format!(
            "invalid network config:\ninvalid ip-range {range}: parent subnet is {subnet}"
        )));
    }
    let address = |what: &str, text: &str| -> Result<IpAddr> {
        let found: IpAddr = text.parse().map_err(|_| wrong(what, text))?;
        if subnet.contains(&found) {
            return Ok(found);
        }
        Err(EngineError::Invalid(format!(
            "invalid network config:\ninvalid {what} {text}: parent subnet is {subnet}"
        )))
    };
    let gateway = match text(&config.gateway) {
        Some(text) => address("gateway", &text)?,
        None => first_host(&range.unwrap_or(subnet))
            .ok_or_else(|| EngineError::Invalid(format!("subnet {subnet} has no room")))?,
    };
    let auxiliary: Result<BTreeMap<String, IpAddr>> = config
        .auxiliary_addresses
        .iter()
        .flatten()
        .map(|(name, text)| Ok((name.clone(), address("auxiliary address", text)?)))
        .collect();
    Ok(IpamRecord { subnet, range, gateway, auxiliary: auxiliary?, chosen: true, pool: None })
}

/// A subnet that the engine chose, whose first address is the gateway.
pub(super) fn unnamed(subnet: IpNet) -> Result<IpamRecord> {
    let gateway = first_host(&subnet).ok_or_else(|| {
        EngineError::Invalid(format!("subnet {subnet} has no room for a gateway"))
    })?;
    Ok(IpamRecord {
        subnet,
        range: None,
        gateway,
        auxiliary: BTreeMap::new(),
        chosen: false,
        pool: None,
    })
}

/// Refuses subnets that another network has.
pub(super) fn check_networks<'a>(
    subnets: &[IpamRecord],
    others: impl Iterator<Item = &'a NetworkRecord>,
) -> Result<()> {
    for other in others.filter(|o| !o.config_only) {
        for theirs in &other.ipam {
            if let Some(ours) = subnets.iter().find(|s| overlap(&s.subnet, &theirs.subnet)) {
                return Err(forbidden(format!(
                    "invalid pool request: Pool overlaps with other one on this address space: \
                     {} overlaps with {} of network {}",
                    ours.subnet, theirs.subnet, other.name
                )));
            }
        }
    }
    Ok(())
}

/// Refuses subnets that the host has a route to, but by the interface
/// `except`: their addresses could no longer be reached from the host.
pub(super) fn check_routes(
    subnets: &[IpamRecord],
    routes: &[HostRoute],
    except: &str,
) -> Result<()> {
    for route in routes.iter().filter(|r| r.interface != except) {
        if let Some(ours) = subnets.iter().find(|s| overlap(&s.subnet, &route.net)) {
            let by = match route.interface.as_str() {
                "" => String::new(),
                name => format!(" by interface {name}"),
            };
            return Err(forbidden(format!(
                "invalid pool request: subnet {} overlaps with the host's route to {}{by}: name \
                 another subnet, or insist on this one with -o {}=true",
                ours.subnet,
                route.net,
                super::options::ALLOW_OVERLAP
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sampan_types::Kind;
    use sampan_types::docker::Ipam;

    use super::*;

    fn request(configs: &[&[(&str, &str)]]) -> NetworkCreateRequest {
        let config = |fields: &&[(&str, &str)]| {
            let mut c = IpamConfig::default();
            for (key, value) in *fields {
                let value = (*value).to_owned();
                match *key {
                    "subnet" => c.subnet = Some(value),
                    "range" => c.ip_range = Some(value),
                    "gateway" => c.gateway = Some(value),
                    aux => {
                        c.auxiliary_addresses.get_or_insert_default().insert(aux.into(), value);
                    }
                }
            }
            c
        };
        let config = Some(configs.iter().map(config).collect());
        NetworkCreateRequest {
            name: "mine".to_owned(),
            ipam: Some(Ipam { config, ..Default::default() }),
            ..Default::default()
        }
    }

    #[test]
    fn subnets_are_read_and_checked() {
        assert_eq!(named(&request(&[&[]])).unwrap(), []);
        let one = |fields: &[(&str, &str)]| named(&request(&[fields]));
        let ipam = one(&[("subnet", "10.5.0.0/24")]).unwrap();
        assert_eq!(ipam[0].gateway, "10.5.0.1".parse::<IpAddr>().unwrap());
        assert!(one(&[("subnet", "10.5.0.1/24")]).is_err());
        assert!(one(&[("subnet", "x")]).is_err());
        assert!(one(&[("gateway", "10.5.0.1")]).is_err());
        let outside = one(&[("subnet", "10.5.0.0/24"), ("gateway", "10.6.0.1")]);
        assert!(outside.unwrap_err().to_string().contains("parent subnet is 10.5.0.0/24"));
        let aux = one(&[("subnet", "10.5.0.0/24"), ("dns", "10.6.0.1")]);
        assert!(aux.unwrap_err().to_string().contains("auxiliary address"));
        let range = one(&[("subnet", "10.5.0.0/16"), ("range", "10.5.7.0/24")]).unwrap();
        assert_eq!(range[0].gateway, "10.5.7.1".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn several_subnets_stand_side_by_side() {
        let both = request(&[&[("subnet", "fd00:5::/64")], &[("subnet", "10.5.0.0/24")]]);
        let all = named(&both).unwrap();
        assert!(all[0].subnet.addr().is_ipv4() && all[1].subnet.addr().is_ipv6());
        assert_eq!(families(&both, &all).unwrap(), Families { v4: true, v6: true });
        let same = request(&[&[("subnet", "10.5.0.0/16")], &[("subnet", "10.5.1.0/24")]]);
        assert!(named(&same).unwrap_err().to_string().contains("overlaps"));
    }

    #[test]
    fn families_follow_the_request() {
        let asked = |v4, v6| {
            let r = NetworkCreateRequest { enable_ipv4: v4, enable_ipv6: v6, ..request(&[]) };
            families(&r, &[])
        };
        assert_eq!(asked(None, None).unwrap(), Families { v4: true, v6: false });
        assert_eq!(asked(Some(false), Some(true)).unwrap(), Families { v4: false, v6: true });
        assert!(asked(Some(false), None).is_err());
        let mut r = request(&[&[("subnet", "fd00::/64")]]);
        r.enable_ipv6 = Some(false);
        let error = families(&r, &named(&r).unwrap()).unwrap_err().to_string();
        assert!(error.contains("fd00::/64 needs --ipv6"), "{error}");
    }

    #[test]
    fn what_is_in_the_way_is_named() {
        let ours = named(&request(&[&[("subnet", "10.5.0.0/24")]])).unwrap();
        let route = HostRoute { net: "10.0.0.0/8".parse().unwrap(), interface: "tun0".to_owned() };
        let error = check_routes(&ours, std::slice::from_ref(&route), "").unwrap_err();
        assert_eq!(error.kind(), sampan_types::ErrorKind::Forbidden);
        let text = error.to_string();
        assert!(text.contains("10.0.0.0/8 by interface tun0"), "{text}");
        assert!(check_routes(&ours, &[route], "tun0").is_ok());
    }
}
