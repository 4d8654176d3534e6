//! What the three reports about networks have in common: names instead of
//! ids.

use std::collections::HashMap;
use std::sync::Arc;

use sampan_types::{NetworkId, SandboxId};

use crate::container::Container;
use crate::networks::NetworkRecord;
use crate::{Engine, Result};

/// Who has which sandbox. A namespace that containers share is its owner's.
pub(super) struct Owners {
    by_sandbox: HashMap<SandboxId, Arc<Container>>,
}

impl Owners {
    /// The container's id and name; the sandbox's id where there is none.
    pub fn of(&self, sandbox: &SandboxId) -> (String, String) {
        match self.by_sandbox.get(sandbox) {
            Some(c) => (c.id().to_string(), c.record().name.to_string()),
            None => (String::new(), format!("sandbox {}", sandbox.short())),
        }
    }
}

impl Engine {
    pub(super) fn sandbox_owners(&self) -> Owners {
        let owner = |c: Arc<Container>| {
            let sandbox = c.record().networking.sandbox.clone();
            sandbox.map(|s| (s, c))
        };
        Owners { by_sandbox: self.containers().into_iter().filter_map(owner).collect() }
    }

    /// The network that is named, if one is.
    pub(super) fn named_network(&self, name: Option<&str>) -> Result<Option<Arc<NetworkRecord>>> {
        name.map(|name| self.network_table().resolve(name)).transpose()
    }

    /// A network's name; its id where it is gone meanwhile.
    pub(super) fn network_name(&self, id: &NetworkId) -> String {
        self.network_table().get(id).map_or_else(|| id.to_string(), |n| n.name.to_string())
    }
}
