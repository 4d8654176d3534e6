//! Rules of others that packets to published ports meet on the plain way.
//!
//! Be aware:
//! - What is there counts, not what it does: one rule of somebody else's that
//!   forwarded packets pass is enough, as is a table of `iptables-legacy`.
//!   Rules for the host itself (input, output) don't concern these packets.
//! - Nobody tells of a change of `iptables-legacy`: it is seen in the next
//!   comparison of everything.

use sampan_sys::iptables;
use sampan_sys::netlink::NetlinkError;
use sampan_sys::nft::Nft;

use crate::error::NetError;
use crate::firewall::is_own;

/// What was found when last looked for.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    /// The generation of the ruleset, and what others have on the way.
    known: Option<(u32, Option<String>)>,
}

impl Foreign {
    /// Whether there is nothing. Asks no more than it has to: while nobody
    /// changed any ruleset, what was found stays true.
    pub fn look(&mut self, nft: &mut Nft, instance: &str) -> Result<bool, NetError> {
        let failed = NetError::kernel("look for rules of others");
        let legacy = iptables::has_legacy_tables();
        let found = match legacy {
            Ok(true) => (0, Some("tables of iptables-legacy".to_owned())),
            Ok(false) => self.in_nft(nft, instance).map_err(failed)?,
            Err(e) => return Err(failed(NetlinkError::Socket(e))),
        };
        let before = self.known.as_ref().and_then(|(_, what)| what.as_ref());
        match (&found.1, before) {
            (Some(what), before) if before != Some(what) => {
                tracing::info!(what, "published ports take the plain way, for rules of the host's");
            }
            (None, Some(_)) => tracing::info!("published ports may take the direct way again"),
            _ => {}
        }
        let open = found.1.is_none();
        self.known = Some(found);
        Ok(open)
    }

    fn in_nft(&self, nft: &mut Nft, instance: &str) -> Result<(u32, Option<String>), NetlinkError> {
        let generation = nft.generation()?;
        if let Some((of, what)) = &self.known
            && *of == generation
        {
            return Ok((generation, what.clone()));
        }
        for chain in nft.base_chains()? {
            if !is_own(instance, &chain.table) && chain.is_on_the_way() && nft.acts(&chain)? {
                let what =
                    format!("chain {} of table {} {}", chain.name, chain.family, chain.table);
                return Ok((generation, Some(what)));
            }
        }
        Ok((generation, None))
    }
}
