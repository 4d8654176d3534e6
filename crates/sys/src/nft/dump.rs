//! Reading a table back.

use super::Nft;
use super::batch::{
    Kind, NFT_SET_ELEM_INTERVAL_END, NFT_SET_INTERVAL, NFT_SET_TIMEOUT, NFTA_HOOK_DEV,
    NFTA_SET_ELEM_EXPIRATION, NFTA_SET_ELEM_EXPR, NFTA_SET_ELEM_FLAGS, NFTA_SET_EXPR, comment_of,
    message,
};
use super::expr::Expr;
use super::flow::{figures, is_counter};
use super::model::{
    BaseChain, Chain, ChainKind, Element, ElementValue, Family, Hook, Policy, Rule, Ruleset, Set,
    SetKeeps, SetType, SetValue, Verdict,
};
use crate::netlink::{Message, NetlinkError, Reply, attributes, dump_objects, find, text, u32_be};

/// `struct nfgenmsg` before the attributes.
const HEADER: usize = 4;

impl Nft {
    /// The generation of the namespace's ruleset: another one after every
    /// change by anybody.
    ///
    /// # Errors
    /// When the kernel has no nf_tables.
    pub fn generation(&mut self) -> Result<u32, NetlinkError> {
        let request = message(Family::Inet, Kind::GetGen, libc::NLM_F_ACK);
        let found = self.ask(request, "get the ruleset's generation")?;
        found
            .first()
            .and_then(|body| find(body.get(HEADER..)?, 1).map(u32_be))
            .ok_or_else(|| NetlinkError::Malformed("get the ruleset's generation".to_owned()))
    }

    fn ask(&mut self, request: Message, what: &str) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let sequence = self.socket.next_sequence();
        let mut datagram = Vec::new();
        request.append_to(sequence, &mut datagram);
        self.socket.send(&datagram)?;
        let (mut found, mut end) = (Vec::new(), None);
        while end.is_none() {
            self.socket.receive(true, |reply| match reply {
                Reply::Object { sequence: s, body, .. } if s == sequence => {
                    found.push(body.to_vec());
                }
                Reply::Ack { sequence: s, errno, detail } if s == sequence => {
                    end = Some((errno, detail));
                }
                _ => {}
            })?;
        }
        match end {
            Some((errno, detail)) if errno != 0 => Err(NetlinkError::Refused {
                what: what.to_owned(),
                source: std::io::Error::from_raw_os_error(errno),
                detail,
            }),
            _ => Ok(found),
        }
    }

    /// The names of all tables of a family.
    ///
    /// # Errors
    /// When the list can't be read.
    pub fn tables(&mut self, family: Family) -> Result<Vec<String>, NetlinkError> {
        let request = message(family, Kind::GetTable, 0);
        dump_objects(&mut self.socket, &request, "list tables", |body| {
            find(body.get(HEADER..)?, 1).map(text)
        })
    }

    /// All that is in a table of the family `inet`, sorted; none when there is
    /// no such table.
    ///
    /// # Errors
    /// When a list can't be read.
    pub fn dump(&mut self, table: &str) -> Result<Option<Ruleset>, NetlinkError> {
        self.dump_table(Family::Inet, table)
    }

    /// As [`Nft::dump`], of any family.
    ///
    /// # Errors
    /// When a list can't be read.
    pub fn dump_table(
        &mut self,
        family: Family,
        table: &str,
    ) -> Result<Option<Ruleset>, NetlinkError> {
        if !self.tables(family)?.iter().any(|t| t == table) {
            return Ok(None);
        }
        let mut ruleset = Ruleset {
            chains: self.dump_part((family, Kind::GetChain), table, "chains", parse_chain)?,
            sets: self.dump_part((family, Kind::GetSet), table, "sets", parse_set)?,
            rules: self.dump_part((family, Kind::GetRule), table, "rules", parse_rule)?,
        };
        for set in &mut ruleset.sets {
            set.elements = self.elements(family, table, &set.name)?;
        }
        Ok(Some(ruleset.sorted()))
    }

    /// The elements of a set or map.
    ///
    /// # Errors
    /// When the list can't be read; absence of the set is such a case.
    pub fn elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<Vec<Element>, NetlinkError> {
        let mut request = message(family, Kind::GetSetElem, 0);
        request.text(1, table).text(2, set);
        let what = format!("list elements of {set} in table {table}");
        let lists = dump_objects(&mut self.socket, &request, &what, |body| {
            let list = find(body.get(HEADER..)?, 3)?;
            Some(attributes(list).filter_map(|(_, e)| parse_element(e)).collect::<Vec<_>>())
        })?;
        Ok(lists.into_iter().flatten().collect())
    }

    fn dump_part<T>(
        &mut self,
        (family, kind): (Family, Kind),
        table: &str,
        what: &str,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let mut request = message(family, kind, 0);
        request.text(1, table);
        let what = format!("list {what} of table {table}");
        dump_objects(&mut self.socket, &request, &what, |body| {
            // Not every kind of list is filtered by the kernel.
            let body = body.get(HEADER..)?;
            find(body, 1).filter(|t| text(t) == table)?;
            parse(body)
        })
    }
}

fn parse_chain(body: &[u8]) -> Option<Chain> {
    let base = find(body, 4).and_then(|hook| {
        Some(BaseChain {
            kind: match find(body, 7).map(text)?.as_str() {
                "filter" => ChainKind::Filter,
                "nat" => ChainKind::Nat,
                _ => return None,
            },
            hook: Hook::of(u32_be(find(hook, 1)?))
                .filter(|h| h.link() == find(hook, NFTA_HOOK_DEV).map(text).as_deref())?,
            priority: u32_be(find(hook, 2)?).cast_signed(),
            policy: if u32_be(find(body, 5)?) == 0 { Policy::Drop } else { Policy::Accept },
        })
    });
    Some(Chain { name: find(body, 3).map(text)?, base })
}

fn parse_set(body: &[u8]) -> Option<Set> {
    const NFT_SET_ANONYMOUS: u32 = 0x1;
    const NFT_SET_MAP: u32 = 0x8;
    const VERDICT_TYPE: u32 = 0xffff_ff00;
    let number = |kind| find(body, kind).map_or(0, u32_be);
    let flags = number(3);
    if flags & NFT_SET_ANONYMOUS != 0 {
        return None;
    }
    let value = match (flags & NFT_SET_MAP != 0, number(6)) {
        (false, _) => SetValue::None,
        (true, VERDICT_TYPE) => SetValue::Verdict,
        (true, id) => SetValue::Data(SetType { id, length: number(7) }),
    };
    let key = SetType { id: number(4), length: number(5) };
    let keeps = match flags {
        f if f & NFT_SET_INTERVAL != 0 => SetKeeps::Ranges,
        f if f & NFT_SET_TIMEOUT != 0 => SetKeeps::Timeouts,
        _ if find(body, NFTA_SET_EXPR).is_some_and(is_counter) => SetKeeps::Counts,
        _ => SetKeeps::Keys,
    };
    Some(Set { name: find(body, 2).map(text)?, key, value, keeps, elements: Vec::new() })
}

fn parse_rule(body: &[u8]) -> Option<Rule> {
    let expressions = find(body, 4)
        .map(attributes)
        .into_iter()
        .flatten()
        .filter_map(|(_, expr)| {
            let data = find(expr, 2).unwrap_or_default();
            let name = Expr::dumped_name(text(find(expr, 1)?), data);
            Some(Expr::normalised(name, data))
        })
        .collect();
    let comment = find(body, 7).map(comment_of).unwrap_or_default();
    Some(Rule { chain: find(body, 2).map(text)?, expressions, comment })
}

fn parse_element(body: &[u8]) -> Option<Element> {
    let range_end = |flags| u32_be(flags) & NFT_SET_ELEM_INTERVAL_END != 0;
    let expires = |v: &[u8]| Some(u64::from_be_bytes(v.try_into().ok()?));
    let value = match find(body, 2) {
        None if find(body, NFTA_SET_ELEM_FLAGS).is_some_and(range_end) => ElementValue::RangeEnd,
        None => match find(body, NFTA_SET_ELEM_EXPIRATION).and_then(expires) {
            Some(milliseconds) => ElementValue::Expires(milliseconds),
            None => match find(body, NFTA_SET_ELEM_EXPR).and_then(figures) {
                Some((packets, bytes)) => ElementValue::Counted { packets, bytes },
                None => ElementValue::None,
            },
        },
        Some(data) => match (find(data, 1), find(data, 2)) {
            (Some(value), _) => ElementValue::Data(value.to_vec()),
            (None, Some(verdict)) => ElementValue::Verdict(Verdict::from_parts(
                u32_be(find(verdict, 1)?).cast_signed(),
                find(verdict, 2).map(text).unwrap_or_default(),
            )),
            (None, None) => ElementValue::None,
        },
    };
    Some(Element {
        key: find(find(body, 1)?, 1)?.to_vec(),
        value,
        comment: find(body, 6).map(comment_of).unwrap_or_default(),
    })
}
