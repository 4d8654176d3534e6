//! Changes that are applied together.

use super::expr::{Expr, write_verdict};
use super::model::{
    Chain, DataType, Element, ElementValue, Family, Rule, Ruleset, Set, SetKeeps, SetValue,
};
use crate::netlink::Message;

/// `NFNL_SUBSYS_NFTABLES`.
pub(super) const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NFTA_BATCH_GENID: u16 = 1;
/// Elements per message: an attribute's length has only 16 bits.
const ELEMENTS_PER_MESSAGE: usize = 256;
/// The longest comment that nft reads back, in bytes.
const COMMENT_MAX: usize = 127;
/// The link of a hook.
pub(super) const NFTA_HOOK_DEV: u16 = 3;
/// `NFTNL_UDATA_RULE_COMMENT`, `NFTNL_UDATA_SET_ELEM_COMMENT`.
const UDATA_COMMENT: u8 = 0;

/// `enum nft_set_flags`.
pub(super) const NFT_SET_INTERVAL: u32 = 0x4;
pub(super) const NFT_SET_TIMEOUT: u32 = 0x10;
/// `enum nft_set_elem_attributes` and `enum nft_set_elem_flags`.
pub(super) const NFTA_SET_ELEM_FLAGS: u16 = 3;
pub(super) const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
pub(super) const NFTA_SET_ELEM_EXPIRATION: u16 = 5;
pub(super) const NFTA_SET_ELEM_EXPR: u16 = 7;
pub(super) const NFT_SET_ELEM_INTERVAL_END: u32 = 1;
/// `enum nft_set_attributes`: what each element gets (kernel 5.7).
pub(super) const NFTA_SET_EXPR: u16 = 17;

/// `NFTNL_UDATA_SET_KEYBYTEORDER`, 4 bytes: `BYTEORDER_HOST_ENDIAN`.
const UDATA_HOST_ORDER: [u8; 6] = {
    let [a, b, c, d] = 1u32.to_ne_bytes();
    [0, 4, a, b, c, d]
};

/// `enum nf_tables_msg_types`.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    NewTable = 0,
    GetTable = 1,
    DelTable = 2,
    NewChain = 3,
    GetChain = 4,
    DelChain = 5,
    NewRule = 6,
    GetRule = 7,
    NewSet = 9,
    GetSet = 10,
    NewSetElem = 12,
    GetSetElem = 13,
    DelSetElem = 14,
    GetGen = 16,
}

/// A message of nf_tables: `struct nfgenmsg` is family, version, resource.
pub(super) fn message(family: Family, kind: Kind, flags: i32) -> Message {
    Message::new(SUBSYSTEM << 8 | kind as u16, flags as u16, &[family as u8, 0, 0, 0])
}

fn frame(kind: u16) -> Message {
    Message::new(kind, 0, &[0, 0, 0, SUBSYSTEM as u8])
}

/// A list of changes that the kernel applies whole or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    family: Family,
    generation: Option<u32>,
    messages: Vec<(Message, String)>,
    sets: u32,
}

impl Batch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty batch that is refused unless `generation` is the current one
    /// of the namespace's ruleset.
    #[must_use]
    pub fn at_generation(generation: u32) -> Self {
        Self { generation: Some(generation), ..Self::default() }
    }

    /// Makes the changes that follow be about tables of `family`: `inet`
    /// until this is called.
    pub fn family(&mut self, family: Family) -> &mut Self {
        self.family = family;
        self
    }

    /// Whether there is no change in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub(super) fn current_family(&self) -> Family {
        self.family
    }

    /// A number for a set that no other of this batch has.
    pub(super) fn next_set(&mut self) -> u32 {
        self.sets += 1;
        self.sets
    }

    pub(super) fn push(&mut self, message: Message, what: String) {
        self.messages.push((message, what));
    }

    /// Creates a table unless it exists.
    pub fn add_table(&mut self, table: &str) -> &mut Self {
        let mut m = message(self.family, Kind::NewTable, libc::NLM_F_CREATE);
        m.text(1, table);
        self.push(m, format!("create table {table}"));
        self
    }

    /// Removes a table with all that is in it.
    pub fn delete_table(&mut self, table: &str) -> &mut Self {
        let mut m = message(self.family, Kind::DelTable, 0);
        m.text(1, table);
        self.push(m, format!("remove table {table}"));
        self
    }

    /// Creates a chain.
    pub fn add_chain(&mut self, table: &str, chain: &Chain) -> &mut Self {
        let mut m = message(self.family, Kind::NewChain, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        m.text(1, table).text(3, &chain.name);
        if let Some(base) = chain.base {
            m.nest(4, |m| {
                m.be32(1, base.hook as u32).raw(2, &base.priority.to_be_bytes());
                if let Some(link) = base.hook.link() {
                    m.text(NFTA_HOOK_DEV, link);
                }
            });
            m.be32(5, base.policy as u32).text(7, base.kind.name());
        }
        self.push(m, format!("create chain {} of table {table}", chain.name));
        self
    }

    /// Removes a chain with its rules. Nothing may lead to it any more.
    pub fn delete_chain(&mut self, table: &str, chain: &str) -> &mut Self {
        let mut m = message(self.family, Kind::DelChain, 0);
        m.text(1, table).text(3, chain);
        self.push(m, format!("remove chain {chain} of table {table}"));
        self
    }

    /// Creates a set or map, empty.
    pub fn add_set(&mut self, table: &str, set: &Set) -> &mut Self {
        const NFT_SET_MAP: u32 = 0x8;
        const VERDICT_TYPE: u32 = 0xffff_ff00;
        self.sets += 1;
        let mut m = message(self.family, Kind::NewSet, libc::NLM_F_CREATE | libc::NLM_F_EXCL);
        m.text(1, table).text(2, &set.name);
        let kept = match set.keeps {
            SetKeeps::Keys | SetKeeps::Counts => 0,
            SetKeeps::Ranges => NFT_SET_INTERVAL,
            SetKeeps::Timeouts => NFT_SET_TIMEOUT,
        };
        m.be32(3, kept | if set.value == SetValue::None { 0 } else { NFT_SET_MAP });
        m.be32(4, set.key.id).be32(5, set.key.length);
        match set.value {
            SetValue::None => {}
            SetValue::Verdict => {
                m.be32(6, VERDICT_TYPE);
            }
            SetValue::Data(data) => {
                m.be32(6, data.id).be32(7, data.length);
            }
        }
        m.be32(10, self.sets);
        if DataType::is_host_order(set.key.id) {
            m.raw(13, &UDATA_HOST_ORDER);
        }
        if set.keeps == SetKeeps::Counts {
            m.nest(NFTA_SET_EXPR, |m| Expr::counter().write(m));
        }
        self.push(m, format!("create set {} of table {table}", set.name));
        self
    }

    /// Appends a rule to its chain.
    pub fn add_rule(&mut self, table: &str, rule: &Rule) -> &mut Self {
        let mut m = message(self.family, Kind::NewRule, libc::NLM_F_CREATE | libc::NLM_F_APPEND);
        m.text(1, table).text(2, &rule.chain);
        m.nest(4, |m| {
            for expression in &rule.expressions {
                m.nest(1, |m| expression.write(m));
            }
        });
        if let Some(data) = comment_userdata(&rule.comment) {
            m.raw(7, &data);
        }
        self.push(m, format!("add rule {:?} to chain {}", rule.comment, rule.chain));
        self
    }

    /// Adds elements to a set or map. An element that exists with the same
    /// value is no error.
    pub fn add_elements(&mut self, table: &str, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(Kind::NewSetElem, libc::NLM_F_CREATE, table, set, elements);
        self
    }

    /// Removes elements, by their keys. That one is absent is an error.
    pub fn delete_elements(&mut self, table: &str, set: &str, elements: &[Element]) -> &mut Self {
        self.elements(Kind::DelSetElem, 0, table, set, elements);
        self
    }

    /// Adds keys to a set with timeouts, each for so many milliseconds. A key
    /// that is in it already keeps the time that it has.
    pub fn add_timed_elements(
        &mut self,
        table: &str,
        set: &str,
        keys: &[(Vec<u8>, u64)],
    ) -> &mut Self {
        for chunk in keys.chunks(ELEMENTS_PER_MESSAGE) {
            let mut m = message(self.family, Kind::NewSetElem, libc::NLM_F_CREATE);
            m.text(1, table).text(2, set);
            m.nest(3, |m| {
                for (key, milliseconds) in chunk {
                    m.nest(1, |m| {
                        m.nest(1, |m| {
                            m.raw(1, key);
                        });
                        m.raw(4, &milliseconds.to_be_bytes());
                    });
                }
            });
            self.push(m, format!("add {} elements of {set} in table {table}", chunk.len()));
        }
        self
    }

    fn elements(&mut self, kind: Kind, flags: i32, table: &str, set: &str, elements: &[Element]) {
        let adding = matches!(kind, Kind::NewSetElem);
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            let mut m = message(self.family, kind, flags);
            m.text(1, table).text(2, set);
            m.nest(3, |m| {
                for element in chunk {
                    m.nest(1, |m| write_element(m, element, adding));
                }
            });
            let verb = if adding { "add" } else { "remove" };
            self.push(m, format!("{verb} {} elements of {set} in table {table}", chunk.len()));
        }
    }

    /// Creates all that is in a ruleset. The table exists, and is empty.
    pub fn add_ruleset(&mut self, table: &str, ruleset: &Ruleset) -> &mut Self {
        for chain in &ruleset.chains {
            self.add_chain(table, chain);
        }
        for set in &ruleset.sets {
            self.add_set(table, set);
        }
        for rule in &ruleset.rules {
            self.add_rule(table, rule);
        }
        for set in &ruleset.sets {
            self.add_elements(table, &set.name, &set.elements);
        }
        self
    }

    /// Puts a ruleset in the place of all that is in the table, if it exists.
    pub fn replace_table(&mut self, table: &str, ruleset: &Ruleset) -> &mut Self {
        self.add_table(table).delete_table(table).add_table(table).add_ruleset(table, ruleset)
    }

    /// The datagram, and what each message in it is about. Only the last
    /// message asks for an answer; refusals are answered in any case.
    pub(super) fn seal(mut self, mut next: impl FnMut() -> u32) -> (Vec<u8>, Vec<(u32, String)>) {
        let mut datagram = Vec::new();
        let mut whats = Vec::with_capacity(self.messages.len());
        if let Some((last, _)) = self.messages.last_mut() {
            last.add_flags(libc::NLM_F_ACK as u16);
        }
        let mut begin = frame(BATCH_BEGIN);
        if let Some(generation) = self.generation {
            begin.be32(NFTA_BATCH_GENID, generation);
        }
        begin.append_to(next(), &mut datagram);
        for (message, what) in self.messages {
            let sequence = next();
            message.append_to(sequence, &mut datagram);
            whats.push((sequence, what));
        }
        frame(BATCH_END).append_to(next(), &mut datagram);
        (datagram, whats)
    }
}

fn write_element(m: &mut Message, element: &Element, adding: bool) {
    m.nest(1, |m| {
        m.raw(1, &element.key);
    });
    if !adding {
        if element.value == ElementValue::RangeEnd {
            m.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        return;
    }
    match &element.value {
        ElementValue::None => {}
        ElementValue::RangeEnd => {
            m.be32(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
        }
        ElementValue::Expires(milliseconds) => {
            m.raw(NFTA_SET_ELEM_TIMEOUT, &milliseconds.to_be_bytes());
        }
        ElementValue::Counted { packets, bytes } => {
            m.nest(NFTA_SET_ELEM_EXPR, |m| Expr::counter_from(*packets, *bytes).write(m));
        }
        ElementValue::Data(data) => {
            m.nest(2, |m| {
                m.raw(1, data);
            });
        }
        ElementValue::Verdict(verdict) => {
            m.nest(2, |m| write_verdict(m, verdict));
        }
    }
    if let Some(data) = comment_userdata(&element.comment) {
        m.raw(6, &data);
    }
}

/// A comment as nft keeps it: type, length, text with a final zero.
fn comment_userdata(comment: &str) -> Option<Vec<u8>> {
    if comment.is_empty() {
        return None;
    }
    let mut end = comment.len().min(COMMENT_MAX);
    while !comment.is_char_boundary(end) {
        end -= 1;
    }
    let mut data = vec![UDATA_COMMENT, u8::try_from(end + 1).unwrap_or(u8::MAX)];
    data.extend(&comment.as_bytes()[..end]);
    data.push(0);
    Some(data)
}

/// The comment in user data, if that is what it begins with.
pub(super) fn comment_of(userdata: &[u8]) -> String {
    match userdata {
        [UDATA_COMMENT, length, rest @ ..] => {
            crate::netlink::text(rest.get(..usize::from(*length)).unwrap_or_default())
        }
        _ => String::new(),
    }
}
