//! Reading `docker network create -o …` of macvlan and ipvlan networks.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{IpvlanConfig, IpvlanFlag, IpvlanMode, MacvlanConfig, MacvlanMode};
use crate::config::Subnet;
use crate::error::NetError;

const MTU: &str = "com.docker.network.driver.mtu";

/// One option of one network, for messages.
#[derive(Clone, Copy)]
struct Given<'a> {
    network: &'a str,
    key: &'a str,
    value: &'a str,
}

impl Given<'_> {
    fn wrong(&self, expected: &str) -> NetError {
        let Self { network, key, value } = self;
        NetError::InvalidNetwork {
            network: (*network).to_owned(),
            reason: format!("invalid value {value:?} of option {key}: {expected} expected"),
        }
    }

    fn flag(&self) -> Result<bool, NetError> {
        match self.value {
            "true" | "1" | "t" | "T" | "TRUE" | "True" => Ok(true),
            "false" | "0" | "f" | "F" | "FALSE" | "False" => Ok(false),
            _ => Err(self.wrong("true or false")),
        }
    }

    fn mtu(&self) -> Result<u32, NetError> {
        self.value.parse().map_err(|_| self.wrong("a number of bytes"))
    }

    fn parent(&self) -> Option<String> {
        (!self.value.is_empty()).then(|| self.value.to_owned())
    }

    fn one_of<T: Copy>(&self, known: &[(&str, T)]) -> Result<T, NetError> {
        let found = known.iter().find(|(name, _)| *name == self.value);
        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
        found.map(|(_, value)| *value).ok_or_else(|| self.wrong(&names.join(", ")))
    }

    fn addresses(&self) -> Result<Vec<IpAddr>, NetError> {
        let read = |text: &str| text.trim().parse();
        let read: Result<Vec<IpAddr>, _> = self.value.split(',').map(read).collect();
        read.map_err(|_| self.wrong("addresses joined by ','"))
    }

    fn unknown(&self, driver: &str) -> NetError {
        let Self { network, key, value } = self;
        NetError::NotSupported {
            what: format!("network {network}: option {key}={value} of driver {driver}"),
        }
    }
}

fn each<'a>(
    network: &'a str,
    options: &'a BTreeMap<String, String>,
) -> impl Iterator<Item = Given<'a>> {
    options.iter().map(move |(key, value)| Given { network, key, value })
}

impl MacvlanMode {
    const NAMES: [(&'static str, Self); 4] = [
        ("bridge", Self::Bridge),
        ("private", Self::Private),
        ("vepa", Self::Vepa),
        ("passthru", Self::Passthru),
    ];

    /// The mode's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bridge => "bridge",
            Self::Private => "private",
            Self::Vepa => "vepa",
            Self::Passthru => "passthru",
        }
    }
}

impl MacvlanConfig {
    /// Reads the driver's options: `parent`, `macvlan_mode`, `host_access`,
    /// `host_address`, `com.docker.network.driver.mtu`.
    ///
    /// # Errors
    /// [`NetError::NotSupported`] naming an unknown option,
    /// [`NetError::InvalidNetwork`] for a wrong value or combination.
    pub fn parse(
        network: &str,
        options: &BTreeMap<String, String>,
        subnets: Vec<Subnet>,
        internal: bool,
    ) -> Result<Self, NetError> {
        let mut config = Self {
            parent: None,
            mode: MacvlanMode::default(),
            subnets,
            mtu: None,
            internal,
            host_access: false,
            host_addresses: Vec::new(),
        };
        for given in each(network, options) {
            match given.key {
                "parent" => config.parent = given.parent(),
                "macvlan_mode" if given.value.is_empty() => {}
                "macvlan_mode" => config.mode = given.one_of(&MacvlanMode::NAMES)?,
                "host_access" => config.host_access = given.flag()?,
                "host_address" => config.host_addresses = given.addresses()?,
                MTU => config.mtu = Some(given.mtu()?),
                _ => return Err(given.unknown("macvlan")),
            }
        }
        config.validate(network)?;
        Ok(config)
    }
}

impl IpvlanConfig {
    const MODES: [(&'static str, IpvlanMode); 3] =
        [("l2", IpvlanMode::L2), ("l3", IpvlanMode::L3), ("l3s", IpvlanMode::L3s)];
    const FLAGS: [(&'static str, IpvlanFlag); 3] = [
        ("bridge", IpvlanFlag::Bridge),
        ("private", IpvlanFlag::Private),
        ("vepa", IpvlanFlag::Vepa),
    ];

    /// Reads the driver's options: `parent`, `ipvlan_mode`, `ipvlan_flag`,
    /// `com.docker.network.driver.mtu`.
    ///
    /// # Errors
    /// As [`MacvlanConfig::parse`].
    pub fn parse(
        network: &str,
        options: &BTreeMap<String, String>,
        subnets: Vec<Subnet>,
        internal: bool,
    ) -> Result<Self, NetError> {
        let mut config = Self {
            parent: None,
            mode: IpvlanMode::default(),
            flag: IpvlanFlag::default(),
            subnets,
            mtu: None,
            internal,
        };
        for given in each(network, options) {
            match given.key {
                "parent" => config.parent = given.parent(),
                "ipvlan_mode" | "ipvlan_flag" if given.value.is_empty() => {}
                "ipvlan_mode" => config.mode = given.one_of(&Self::MODES)?,
                "ipvlan_flag" => config.flag = given.one_of(&Self::FLAGS)?,
                MTU => config.mtu = Some(given.mtu()?),
                _ => return Err(given.unknown("ipvlan")),
            }
        }
        config.validate(network)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::super::SubInterfaces;
    use super::*;
    use crate::config::DriverConfig;

    fn subnets(list: &[&str]) -> Vec<Subnet> {
        let subnet = |text: &&str| {
            let net: ipnet::IpNet = text.parse().unwrap();
            Subnet { net: net.trunc(), gateway: net.addr() }
        };
        list.iter().map(subnet).collect()
    }

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn macvlan(list: &[(&str, &str)]) -> Result<MacvlanConfig, NetError> {
        MacvlanConfig::parse("mine", &options(list), subnets(&["10.0.0.1/24", "fd00::1/64"]), false)
    }

    fn ipvlan(list: &[(&str, &str)]) -> Result<IpvlanConfig, NetError> {
        IpvlanConfig::parse("mine", &options(list), subnets(&["10.0.0.1/24"]), false)
    }

    #[test]
    fn options_are_read() {
        let plain = macvlan(&[]).unwrap();
        assert_eq!((plain.parent, plain.mode, plain.mtu), (None, MacvlanMode::Bridge, None));
        let all = macvlan(&[
            ("parent", "eth0.10"),
            ("host_access", "true"),
            ("host_address", "10.0.0.9,fd00::9"),
            ("com.docker.network.driver.mtu", "1400"),
        ]);
        let all = all.unwrap();
        assert_eq!(
            (all.parent.as_deref(), all.mtu, all.host_access),
            (Some("eth0.10"), Some(1400), true)
        );
        assert_eq!(all.host_addresses.len(), 2);
        for (name, mode) in MacvlanMode::NAMES {
            assert_eq!(macvlan(&[("macvlan_mode", name)]).unwrap().mode, mode);
            assert_eq!(mode.name(), name);
        }
        let l3 = ipvlan(&[("ipvlan_mode", "l3s"), ("ipvlan_flag", "private")]).unwrap();
        assert_eq!((l3.mode, l3.flag), (IpvlanMode::L3s, IpvlanFlag::Private));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (list, said) in [
            (&[("macvlan_mode", "fast")][..], "bridge, private, vepa, passthru expected"),
            (&[("mode", "bridge")], "option mode=bridge of driver macvlan is not supported"),
            (&[("parent", "lo")], "loopback"),
            (&[("parent", "a-name-that-is-too-long")], "23 bytes, the kernel allows 15"),
            (&[("parent", "et h0")], "no name of an interface"),
            (&[("host_access", "yes")], "true or false expected"),
            (&[("host_access", "1"), ("macvlan_mode", "private")], "needs macvlan_mode=bridge"),
            (&[("host_access", "1"), ("macvlan_mode", "passthru")], "needs macvlan_mode=bridge"),
            (&[("host_address", "10.0.0.9")], "needs host_access=true"),
            (&[("host_access", "1"), ("host_address", "10.1.0.9")], "in no subnet"),
            (&[("host_access", "1"), ("host_address", "10.0.0.1")], "the gateway's"),
            (&[("com.docker.network.driver.mtu", "1000")], "range 1280 to 65535"),
        ] {
            let error = macvlan(list).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("mine"), "{list:?}: {error}");
        }
        let error = ipvlan(&[("ipvlan_mode", "l4")]).unwrap_err().to_string();
        assert!(error.contains("l2, l3, l3s expected"), "{error}");
        assert!(ipvlan(&[("host_access", "true")]).is_err());
        let none = MacvlanConfig::parse("mine", &options(&[]), Vec::new(), false);
        assert!(none.unwrap_err().to_string().contains("needs a subnet"));
    }

    #[test]
    fn vlans_are_dotted_names_with_a_number() {
        let of = |parent: &str| {
            let config = DriverConfig::Macvlan(macvlan(&[("parent", parent)]).unwrap());
            SubInterfaces::of(&config).unwrap().vlan().map(|(base, id)| (base.to_owned(), id))
        };
        assert_eq!(of("eth0.10"), Some(("eth0".to_owned(), 10)));
        assert_eq!(of("eth0.5.10"), Some(("eth0.5".to_owned(), 10)));
        for none in ["eth0", "eth0.", ".10", "eth0.0", "eth0.4095", "eth0.+1", "eth0.x"] {
            assert_eq!(of(none), None, "{none}");
        }
    }

    #[test]
    fn a_parent_is_shared_where_it_can_be() {
        let mac = |mode: &str| {
            DriverConfig::Macvlan(macvlan(&[("parent", "eth0"), ("macvlan_mode", mode)]).unwrap())
        };
        let ip = DriverConfig::Ipvlan(ipvlan(&[("parent", "eth0")]).unwrap());
        let conflict = |a: &DriverConfig, b: &DriverConfig| {
            SubInterfaces::of(a).unwrap().conflict(&SubInterfaces::of(b).unwrap())
        };
        assert_eq!(conflict(&mac("bridge"), &mac("private")), None);
        for (a, b) in [
            (&mac("bridge"), &mac("passthru")),
            (&mac("passthru"), &mac("bridge")),
            (&mac("bridge"), &ip),
            (&ip, &ip),
        ] {
            assert_eq!(conflict(a, b).as_deref(), Some("parent interface eth0"));
        }
        let dummies = DriverConfig::Ipvlan(ipvlan(&[]).unwrap());
        assert_eq!(conflict(&dummies, &dummies), None);
    }
}
