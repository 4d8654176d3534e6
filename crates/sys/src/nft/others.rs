//! The base chains of everybody: what else decides about packets.

use super::batch::{Kind, SUBSYSTEM, message};
use super::{Family, Hook, Nft};
use crate::netlink::{Message, NetlinkError, dump_objects, find, text, u32_be};

/// `struct nfgenmsg` before the attributes.
const HEADER: usize = 4;

/// A base chain of any table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherChain {
    /// The family as nft(8) calls it.
    pub family: &'static str,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// The number of its hook in its family (see [`Hook`]).
    pub hook: u32,
    /// Its order among those of the hook.
    pub priority: i32,
    /// Whether it drops what no rule decides about.
    pub drops: bool,
}

impl OtherChain {
    /// Whether forwarded packets of IP pass it.
    #[must_use]
    pub fn is_forward(&self) -> bool {
        self.hook == Hook::Forward as u32 && matches!(self.family, "ip" | "ip6" | "inet")
    }

    /// Whether packets of IPv4 between a link and a bridge's port pass it, in
    /// one direction at least.
    #[must_use]
    pub fn is_on_the_way(&self) -> bool {
        let local = [Hook::Input as u32, Hook::Output as u32].contains(&self.hook);
        match self.family {
            "ip" | "inet" => !local,
            "bridge" | "netdev" => true,
            _ => false,
        }
    }

    fn family_number(&self) -> Option<Family> {
        Some(match self.family {
            "inet" => Family::Inet,
            "ip" => Family::Ipv4,
            "ip6" => Family::Ipv6,
            "bridge" => Family::Bridge,
            _ => return None,
        })
    }
}

impl Nft {
    /// The base chains of all tables of all families.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn base_chains(&mut self) -> Result<Vec<OtherChain>, NetlinkError> {
        let unspecified = [0, 0, 0, 0];
        let request = Message::new(SUBSYSTEM << 8 | Kind::GetChain as u16, 0, &unspecified);
        dump_objects(&mut self.socket, &request, "list base chains", |body| {
            let family = match i32::from(*body.first()?) {
                libc::NFPROTO_INET => "inet",
                libc::NFPROTO_IPV4 => "ip",
                libc::NFPROTO_IPV6 => "ip6",
                libc::NFPROTO_BRIDGE => "bridge",
                libc::NFPROTO_NETDEV => "netdev",
                _ => return None,
            };
            let body = body.get(HEADER..)?;
            let hook = find(body, 4)?;
            Some(OtherChain {
                family,
                table: find(body, 1).map(text)?,
                name: find(body, 3).map(text)?,
                hook: u32_be(find(hook, 1)?),
                priority: u32_be(find(hook, 2)?).cast_signed(),
                drops: find(body, 5).is_some_and(|policy| u32_be(policy) == 0),
            })
        })
    }

    /// Whether a chain does anything at all: it has a rule, or drops.
    ///
    /// # Errors
    /// When its rules can't be listed.
    pub fn acts(&mut self, chain: &OtherChain) -> Result<bool, NetlinkError> {
        // Chains of a link are rare enough not to be looked into.
        let Some(family) = chain.family_number() else { return Ok(true) };
        if chain.drops {
            return Ok(true);
        }
        let mut request = message(family, Kind::GetRule, 0);
        request.text(1, &chain.table).text(2, &chain.name);
        let what = format!("list rules of chain {} in table {}", chain.name, chain.table);
        // A kernel that does not restrict the list lists other chains, too.
        let rules = dump_objects(&mut self.socket, &request, &what, |body| {
            let body = body.get(HEADER..)?;
            let of = (find(body, 1).map(text)?, find(body, 2).map(text)?);
            (of.0 == chain.table && of.1 == chain.name).then_some(())
        })?;
        Ok(!rules.is_empty())
    }
}
