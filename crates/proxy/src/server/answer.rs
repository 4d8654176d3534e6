//! From a message to its answer: what is known, else what others say.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use sampan_types::SandboxId;

use crate::dns::answer::{Answer, refuse_unread};
use crate::dns::query::Query;
use crate::dns::zone::{Hits, Outcome, Zones};
use crate::dns::{Rcode, name};
use crate::upstream::{Forwarder, Group, Reply, count};

/// All that answers are made from.
#[derive(Debug)]
pub struct Names {
    /// What is known.
    pub zones: RefCell<Zones>,
    /// Who asks others.
    pub forwarder: Rc<Forwarder>,
    /// The host's servers, for those who name none.
    pub host: RefCell<Option<Rc<Group>>>,
    /// How many questions were answered from what is known.
    pub answered: Cell<u64>,
    hits: RefCell<Hits>,
}

/// Whom a sandbox's questions go on to.
#[derive(Debug, Clone)]
pub enum Upstream {
    /// Nobody: it does not lead out.
    Nobody,
    /// The host's servers.
    Host,
    /// Servers of its own.
    Own(Rc<Group>),
}

impl Names {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            zones: RefCell::new(Zones::new(seed)),
            forwarder: Rc::default(),
            host: RefCell::default(),
            answered: Cell::default(),
            hits: RefCell::default(),
        }
    }

    /// Appends the answer to a message from a sandbox to `out`. False when
    /// there is none, or none yet: then it comes by `reply`.
    pub fn answer(
        &self,
        sandbox: &SandboxId,
        upstream: &Upstream,
        message: &[u8],
        reply: impl FnOnce() -> Reply,
        (stream, out): (bool, &mut Vec<u8>),
    ) -> bool {
        let query = match Query::read(message) {
            Ok(query) => query,
            Err(None) => return false,
            Err(Some(rcode)) => return refuse_unread(message, rcode, out),
        };
        let room = if stream { usize::from(u16::MAX) } else { query.room() };
        if query.edns.is_some_and(|e| e.version > 0) {
            Answer::to(&query, room, out).refuse_version();
            return true;
        }
        if !query.is_internet() {
            Answer::to(&query, room, out).refuse(Rcode::Refused);
            return true;
        }
        let mut hits = self.hits.borrow_mut();
        let known = self.zones.borrow_mut().answer(sandbox, &query, room, &mut hits, out);
        drop(hits);
        if known == Outcome::Answered {
            count(&self.answered);
            return true;
        }
        let group = match upstream {
            Upstream::Nobody => None,
            Upstream::Host => self.host.borrow().clone(),
            Upstream::Own(group) => Some(Rc::clone(group)),
        };
        let Some(group) = group else {
            Answer::to(&query, room, out).refuse(Rcode::ServFail);
            return true;
        };
        tracing::debug!(sandbox = sandbox.short(), name = %name::to_text(query.name), "asked elsewhere");
        self.forwarder.forward(&group, &query, reply(), out)
    }
}
