//! Tables of others: what they do with packets at one place on their way, and
//! copies of it.
//!
//! Be aware:
//! - Expressions, sets and elements are kept byte for byte, whatever they are:
//!   extensions of x_tables (`iptables-nft`) among them. Nothing is changed
//!   in those tables.
//! - Sets without a name get one in a copy, and the counters of a copy begin
//!   at zero.

use super::Nft;
use super::batch::{Batch, Kind, message};
use super::expr::Expr;
use super::model::{Family, Hook, Policy, Verdict};
use crate::netlink::{Message, NetlinkError, attributes, dump_objects, find, text, u32_be};

/// `struct nfgenmsg` before the attributes.
const HEADER: usize = 4;
const NFT_SET_ANONYMOUS: u32 = 0x1;
const NFT_SET_CONSTANT: u32 = 0x2;
/// `NFTA_SET_…`: name, flags.
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_ID: u16 = 10;
/// What makes a set, besides its name, flags and number: types, lengths,
/// policy, description, timeouts, expressions of elements.
const SET_COPIED: [u16; 11] = [4, 5, 6, 7, 8, 9, 11, 12, 13, 17, 18];
/// `NFTA_SET_ELEM_…` but for references to objects and padding.
const ELEMENT_COPIED: [u16; 9] = [1, 2, 3, 4, 5, 6, 7, 10, 11];
/// Bytes of elements in one message: an attribute's length has only 16 bits.
const ELEMENTS_BYTES: usize = 32 << 10;
/// `NFTA_RULE_COMPAT` and what is in it.
const RULE_COMPAT: u16 = 5;
const COMPAT_PROTOCOL: u16 = 1;
const COMPAT_FLAGS: u16 = 2;

/// A table of somebody else's, as far as packets at one hook get to see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignTable {
    /// Which packets it sees.
    pub family: Family,
    /// Its name.
    pub name: String,
    /// Base chains at the hook, and the chains that these lead to.
    pub chains: Vec<ForeignChain>,
    /// The sets and maps that the chains look into.
    pub sets: Vec<ForeignSet>,
}

/// A chain of a foreign table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignChain {
    /// Its name.
    pub name: String,
    /// Its priority at the hook and what it does at its end; none for one
    /// that others lead to.
    pub base: Option<(i32, Policy)>,
    /// Its rules in their order.
    pub rules: Vec<ForeignRule>,
}

/// A rule of a foreign table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignRule {
    /// Its number, unique in its table.
    pub handle: u64,
    /// What it does, step by step.
    pub expressions: Vec<Expr>,
}

/// A set or map of a foreign table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignSet {
    /// Its name.
    pub name: String,
    /// Attributes of the set, raw.
    attributes: Vec<(u16, Vec<u8>)>,
    flags: u32,
    /// Attributes of each element, raw.
    elements: Vec<Vec<u8>>,
}

/// The first key of an interval, and the first that is not in it any more.
pub type Interval<'a> = (&'a [u8], Option<&'a [u8]>);

impl ForeignSet {
    /// Whether it has single keys only, no intervals.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        const NFT_SET_INTERVAL: u32 = 0x4;
        self.flags & NFT_SET_INTERVAL == 0
    }

    /// Each element's key, and the verdict that it leads to.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], Option<Verdict>)> {
        self.elements.iter().filter_map(|element| {
            let key = find(find(element, 1)?, 1)?;
            Some((key, find(element, 2).and_then(verdict_of)))
        })
    }

    /// The intervals; none for keys of several fields.
    #[must_use]
    pub fn intervals(&self) -> Option<Vec<Interval<'_>>> {
        const NFTA_SET_ELEM_FLAGS: u16 = 3;
        const NFTA_SET_ELEM_KEY_END: u16 = 10;
        const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
        let mut bounds: Vec<(&[u8], bool)> = Vec::new();
        for element in &self.elements {
            if find(element, NFTA_SET_ELEM_KEY_END).is_some() {
                return None;
            }
            let ends = find(element, NFTA_SET_ELEM_FLAGS)
                .is_some_and(|flags| u32_be(flags) & NFT_SET_ELEM_INTERVAL_END != 0);
            bounds.push((find(find(element, 1)?, 1)?, !ends));
        }
        // An end comes before a beginning at the same place.
        bounds.sort();
        let ends = |after: usize| bounds.get(after + 1).filter(|(_, begins)| !begins);
        let begins = bounds.iter().enumerate().filter(|(_, (_, begins))| *begins);
        Some(begins.map(|(at, (key, _))| (*key, ends(at).map(|(key, _)| *key))).collect())
    }
}

impl Expr {
    /// The name by which the kernel knows the expression.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The value of an attribute of the expression.
    #[must_use]
    pub fn attribute(&self, kind: u16) -> Option<&[u8]> {
        find(&self.data, kind)
    }

    /// The verdict of an expression that loads one.
    #[must_use]
    pub fn as_verdict(&self) -> Option<Verdict> {
        (self.name == "immediate").then(|| find(&self.data, 2).and_then(verdict_of)).flatten()
    }

    /// Lets a packet's sender know that it was not let through: a message of
    /// ICMP of a code, or, without one, a reset of TCP.
    #[must_use]
    pub fn reject(icmp_code: Option<u8>) -> Self {
        // NFT_REJECT_ICMP_UNREACH is 0, NFT_REJECT_TCP_RST is 1.
        let kind = u32::from(icmp_code.is_none());
        let mut scratch = Message::new(0, 0, &[]);
        scratch.be32(1, kind);
        if let Some(code) = icmp_code {
            scratch.u8(2, code);
        }
        Self { name: "reject".to_owned(), data: scratch.into_body() }
    }

    fn raw(name: String, data: &[u8]) -> Self {
        if name == "counter" { Self::counter() } else { Self { name, data: data.to_vec() } }
    }
}

fn verdict_of(data: &[u8]) -> Option<Verdict> {
    let verdict = find(data, 2)?;
    let code = u32_be(find(verdict, 1)?).cast_signed();
    Some(Verdict::from_parts(code, find(verdict, 2).map(text).unwrap_or_default()))
}

/// A body's family, table and attributes, when the family is one of IP.
fn of_table(body: &[u8]) -> Option<(Family, String, &[u8])> {
    let family = match i32::from(*body.first()?) {
        libc::NFPROTO_INET => Family::Inet,
        libc::NFPROTO_IPV4 => Family::Ipv4,
        libc::NFPROTO_IPV6 => Family::Ipv6,
        _ => return None,
    };
    let attributes = body.get(HEADER..)?;
    Some((family, find(attributes, 1).map(text)?, attributes))
}

/// A chain as it is listed, without its rules.
struct Listed {
    table: (Family, String),
    name: String,
    base: Option<(Hook, i32, Policy)>,
}

impl Nft {
    /// What the tables of others filter at `hook`, sorted; `own` says which
    /// tables are none of others.
    ///
    /// # Errors
    /// When a list can't be read.
    pub fn foreign(
        &mut self,
        hook: Hook,
        own: impl Fn(&str) -> bool,
    ) -> Result<Vec<ForeignTable>, NetlinkError> {
        let chains = self.listed(Kind::GetChain, "chains", |body| {
            let (family, table, attributes) = of_table(body)?;
            (!own(&table)).then_some(())?;
            let base = find(attributes, 4).and_then(|base| {
                let filter = find(attributes, 7).map(text)? == "filter";
                let hook = filter.then(|| Hook::of(u32_be(find(base, 1)?)))??;
                let drops = u32_be(find(attributes, 5)?) == 0;
                let policy = if drops { Policy::Drop } else { Policy::Accept };
                Some((hook, u32_be(find(base, 2)?).cast_signed(), policy))
            });
            let name = find(attributes, 3).map(text)?;
            Some(Listed { table: (family, table), name, base })
        })?;
        let mut tables: Vec<(Family, String)> =
            chains.iter().filter(|c| c.at(hook)).map(|c| c.table.clone()).collect();
        tables.sort();
        tables.dedup();
        if tables.is_empty() {
            return Ok(Vec::new());
        }
        let rules = self.listed(Kind::GetRule, "rules", |body| {
            let (family, table, attributes) = of_table(body)?;
            let chain = find(attributes, 2).map(text)?;
            Some(((family, table), chain, parse_rule(attributes)?))
        })?;
        tables.into_iter().map(|table| self.reachable(table, hook, &chains, &rules)).collect()
    }

    /// A table's base chains at a hook and all that they lead to.
    fn reachable(
        &mut self,
        table: (Family, String),
        hook: Hook,
        chains: &[Listed],
        rules: &[((Family, String), String, ForeignRule)],
    ) -> Result<ForeignTable, NetlinkError> {
        let mut names: Vec<String> = chains
            .iter()
            .filter(|c| c.table == table && c.at(hook))
            .map(|c| c.name.clone())
            .collect();
        let (family, name) = table.clone();
        let mut found = ForeignTable { family, name, chains: Vec::new(), sets: Vec::new() };
        let mut next = 0;
        while let Some(name) = names.get(next).cloned() {
            next += 1;
            let listed = chains.iter().find(|c| c.table == table && c.name == name);
            let base = listed.and_then(|c| c.base).map(|(_, priority, policy)| (priority, policy));
            let rules = rules.iter().filter(|(t, chain, _)| *t == table && *chain == name);
            let rules: Vec<ForeignRule> = rules.map(|(.., rule)| rule.clone()).collect();
            for expression in rules.iter().flat_map(|r| &r.expressions) {
                let mut leads_to: Vec<Verdict> = expression.as_verdict().into_iter().collect();
                if let Some(set) = expression.set()
                    && found.sets.iter().all(|s| s.name != set)
                    && let Some(set) = self.foreign_set(&table, &set)?
                {
                    leads_to.extend(set.entries().filter_map(|(_, verdict)| verdict));
                    found.sets.push(set);
                }
                let chains = leads_to.iter().filter_map(Verdict::chain).map(str::to_owned);
                for chain in chains {
                    if !names.contains(&chain) {
                        names.push(chain);
                    }
                }
            }
            found.chains.push(ForeignChain { name, base, rules });
        }
        Ok(found)
    }

    fn foreign_set(
        &mut self,
        (family, table): &(Family, String),
        name: &str,
    ) -> Result<Option<ForeignSet>, NetlinkError> {
        let mut request = message(*family, Kind::GetSet, 0);
        request.text(1, table);
        let what = format!("list sets of table {table}");
        let sets = dump_objects(&mut self.socket, &request, &what, |body| {
            let (_, _, found) = of_table(body).filter(|(f, t, _)| (f, t) == (family, table))?;
            (find(found, SET_NAME).map(text)? == name).then_some(())?;
            let copied = attributes(found).filter(|(kind, _)| SET_COPIED.contains(kind));
            let copied = copied.map(|(kind, value)| (kind, value.to_vec())).collect();
            Some((copied, find(found, SET_FLAGS).map_or(0, u32_be)))
        })?;
        let Some((attributes, flags)) = sets.into_iter().next() else { return Ok(None) };
        let elements = self.foreign_elements(*family, table, name)?;
        Ok(Some(ForeignSet { name: name.to_owned(), attributes, flags, elements }))
    }

    fn foreign_elements(
        &mut self,
        family: Family,
        table: &str,
        set: &str,
    ) -> Result<Vec<Vec<u8>>, NetlinkError> {
        let mut request = message(family, Kind::GetSetElem, 0);
        request.text(1, table).text(2, set);
        let what = format!("list elements of {set} in table {table}");
        let lists = dump_objects(&mut self.socket, &request, &what, |body| {
            let list = find(body.get(HEADER..)?, 3)?;
            Some(attributes(list).map(|(_, element)| copied_element(element)).collect::<Vec<_>>())
        })?;
        let mut elements: Vec<Vec<u8>> = lists.into_iter().flatten().collect();
        // Hashed sets have an order of their own each time.
        if elements.iter().all(|e| find(e, 3).is_none()) {
            elements.sort();
        }
        Ok(elements)
    }

    fn listed<T>(
        &mut self,
        kind: Kind,
        what: &str,
        parse: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Vec<T>, NetlinkError> {
        let request = message(Family::Any, kind, 0);
        dump_objects(&mut self.socket, &request, &format!("list {what} of all tables"), parse)
    }
}

impl Listed {
    fn at(&self, hook: Hook) -> bool {
        self.base.is_some_and(|(h, ..)| h == hook)
    }
}

fn parse_rule(body: &[u8]) -> Option<ForeignRule> {
    let list = find(body, 4).unwrap_or_default();
    let expression = |(_, expression)| {
        Some(Expr::raw(text(find(expression, 1)?), find(expression, 2).unwrap_or_default()))
    };
    let handle = find(body, 3)?.try_into().map_or(0, u64::from_be_bytes);
    Some(ForeignRule { handle, expressions: attributes(list).filter_map(expression).collect() })
}

fn copied_element(element: &[u8]) -> Vec<u8> {
    let mut scratch = Message::new(0, 0, &[]);
    for (kind, value) in attributes(element).filter(|(kind, _)| ELEMENT_COPIED.contains(kind)) {
        scratch.raw(kind, value);
    }
    scratch.into_body()
}

impl Expr {
    /// The set that the expression looks into or adds to.
    fn set(&self) -> Option<String> {
        match self.name.as_str() {
            "lookup" | "dynset" => find(&self.data, 1).map(text),
            _ => None,
        }
    }

    /// The same with another set.
    fn with_set(&self, renamed: impl Fn(&str) -> String) -> Self {
        let Some(set) = self.set() else { return self.clone() };
        let mut scratch = Message::new(0, 0, &[]);
        for (kind, value) in attributes(&self.data) {
            if kind == 1 {
                scratch.text(1, &renamed(&set));
            } else {
                scratch.raw(kind, value);
            }
        }
        Self { name: self.name.clone(), data: scratch.into_body() }
    }
}

/// A name that nft can print for a set that has none of its own.
fn set_name(name: &str) -> String {
    name.trim_start_matches("__").to_owned()
}

impl Batch {
    /// Creates the copy of a set, with its elements.
    pub fn copy_set(&mut self, table: &str, set: &ForeignSet) -> &mut Self {
        let name = set_name(&set.name);
        let mut m = message(self.current_family(), Kind::NewSet, libc::NLM_F_CREATE);
        m.text(1, table).text(SET_NAME, &name);
        m.be32(SET_FLAGS, set.flags & !(NFT_SET_ANONYMOUS | NFT_SET_CONSTANT));
        for (kind, value) in &set.attributes {
            m.raw(*kind, value);
        }
        let number = self.next_set();
        m.be32(SET_ID, number);
        self.push(m, format!("copy set {name} to table {table}"));
        let mut rest = set.elements.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |element: &&Vec<u8>| {
                bytes += element.len() + 4;
                bytes <= ELEMENTS_BYTES
            };
            let count = rest.iter().take_while(fits).count().max(1);
            let (chunk, others) = rest.split_at(count);
            rest = others;
            let mut m = message(self.current_family(), Kind::NewSetElem, libc::NLM_F_CREATE);
            m.text(1, table).text(2, &name);
            m.nest(3, |m| {
                for element in chunk {
                    m.nest(1, |m| {
                        m.bytes(element);
                    });
                }
            });
            self.push(m, format!("copy elements of {name} to table {table}"));
        }
        self
    }

    /// Appends the copy of a rule to a chain. `what` names it in an error.
    pub fn copy_rule(
        &mut self,
        table: &str,
        chain: &str,
        expressions: &[Expr],
        what: String,
    ) -> &mut Self {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_APPEND;
        let mut m = message(self.current_family(), Kind::NewRule, flags);
        m.text(1, table).text(2, chain);
        m.nest(4, |m| {
            for expression in expressions {
                m.nest(1, |m| expression.with_set(set_name).write(m));
            }
        });
        if let Some((protocol, flags)) = compat_protocol(expressions) {
            m.nest(RULE_COMPAT, |m| {
                m.be32(COMPAT_PROTOCOL, protocol).be32(COMPAT_FLAGS, flags);
            });
        }
        self.push(m, what);
        self
    }
}

/// The transport protocol that a rule with extensions of x_tables is about,
/// which these want to know beforehand; the kernel doesn't say what it was
/// told.
fn compat_protocol(expressions: &[Expr]) -> Option<(u32, u32)> {
    const META_L4PROTO: u32 = 16;
    const INVERTED: u32 = 2;
    let extension = |e: &Expr| e.name == "match" || e.name == "target";
    if !expressions.iter().any(extension) {
        return None;
    }
    expressions.windows(2).find_map(|pair| {
        let number = |e: &Expr, kind| find(&e.data, kind).map(u32_be);
        let loads = match pair[0].name.as_str() {
            "meta" => number(&pair[0], 2) == Some(META_L4PROTO),
            // Of the network header, the IPv4 protocol or IPv6's next header.
            "payload" => {
                number(&pair[0], 2) == Some(1)
                    && matches!(number(&pair[0], 3), Some(9 | 6))
                    && number(&pair[0], 4) == Some(1)
            }
            _ => false,
        };
        if !loads || pair[1].name != "cmp" {
            return None;
        }
        let protocol = *find(find(&pair[1].data, 3)?, 1)?.first()?;
        let inverted = number(&pair[1], 2).unwrap_or(0) == 1;
        Some((u32::from(protocol), if inverted { INVERTED } else { 0 }))
    })
}
