//! Networks whose interfaces sit on one of the host's: macvlan and ipvlan.
//! One driver for each of them, alike but for the kind of link.
//!
//! ```text
//! host:     eth0 (parent) ── or eth0.10, or a dummy, made for the network
//!             │    └──────── mv-1a2b3c4d5e6f (host_access: the host's own interface)
//! sandbox:    └── eth0 (endpoint's address)
//! ```
//!
//! Be aware:
//! - What is made here bears a [`Mark`] in its alias. A parent that somebody
//!   else made is used as it is, and never changed or removed.
//! - Endpoints' links live in their sandboxes: the kernel removes them with
//!   the namespace, and when the parent goes.
//! - A VLAN that was made for one network may serve others; the last one
//!   takes it away.
//! - Published ports have no meaning here: containers are on the parent's
//!   network themselves.

mod endpoint;
mod host;
mod mark;
mod parent;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sampan_sys::netlink::{self, UpperKind};
use sampan_types::NetworkId;

use super::{AttachRequest, BoxFuture, DetachRequest, Driver, Observed, ObservedEndpoint};
use crate::config::{
    Attachment, DriverConfig, IpvlanFlag, IpvlanMode, MacvlanMode, NetworkSpec, SubInterfaces,
};
use crate::error::NetError;
use crate::worker::Worker;

use mark::Mark;

/// Which of the two drivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// Interfaces with hardware addresses of their own.
    Macvlan,
    /// Interfaces with the parent's.
    Ipvlan,
}

impl Flavour {
    fn name(self) -> &'static str {
        match self {
            Self::Macvlan => "macvlan",
            Self::Ipvlan => "ipvlan",
        }
    }
}

/// What every job on the network thread needs to know.
#[derive(Debug)]
struct Context {
    flavour: Flavour,
    instance: String,
    /// Where the namespaces' names are.
    namespaces: PathBuf,
    /// The networks that were created or taken over, with their parents'
    /// names. Locked for a moment at a time.
    known: Mutex<HashMap<NetworkId, String>>,
}

impl Context {
    fn known(&self) -> MutexGuard<'_, HashMap<NetworkId, String>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alias(&self, mark: &Mark) -> String {
        mark.alias(&self.instance, self.flavour).to_string()
    }

    fn mark(&self, alias: &str) -> Option<Mark> {
        Mark::read(alias, &self.instance, self.flavour)
    }
}

/// The driver of macvlan networks, or of ipvlan networks.
#[derive(Debug)]
pub(crate) struct Upper {
    context: Arc<Context>,
    worker: Worker,
}

impl Upper {
    /// Namespaces have their names in `namespaces`.
    pub fn new(flavour: Flavour, instance: String, namespaces: PathBuf, worker: Worker) -> Self {
        let context = Context { flavour, instance, namespaces, known: Mutex::default() };
        Self { context: Arc::new(context), worker }
    }
}

/// A network's settings in the kernel's terms.
struct Settings<'a> {
    network: &'a NetworkSpec,
    common: SubInterfaces<'a>,
    kind: UpperKind,
    /// The host's addresses that were asked for, when it shall have access.
    host_access: Option<&'a [std::net::IpAddr]>,
}

impl<'a> Settings<'a> {
    fn of(network: &'a NetworkSpec) -> Result<Self, NetError> {
        let (kind, host_access) = match &network.driver {
            DriverConfig::Macvlan(config) => {
                config.validate(&network.name)?;
                let access = config.host_access.then_some(config.host_addresses.as_slice());
                (UpperKind::Macvlan(config.mode.into()), access)
            }
            DriverConfig::Ipvlan(config) => {
                config.validate(&network.name)?;
                (UpperKind::Ipvlan(config.mode.into(), config.flag.into()), None)
            }
            _ => return Err(misplaced(network)),
        };
        let common = SubInterfaces::of(&network.driver).ok_or_else(|| misplaced(network))?;
        Ok(Self { network, common, kind, host_access })
    }

    fn parent(&self) -> String {
        self.common.parent_name(&self.network.id)
    }

    fn invalid(&self, reason: String) -> NetError {
        NetError::InvalidNetwork { network: self.network.name.clone(), reason }
    }

    fn failed(&self, operation: &str) -> impl FnOnce(netlink::NetlinkError) -> NetError + use<> {
        NetError::kernel(format!("{operation} network {}", self.network.name))
    }
}

fn misplaced(network: &NetworkSpec) -> NetError {
    NetError::NotSupported {
        what: format!("network {} on the drivers macvlan and ipvlan", network.name),
    }
}

impl From<MacvlanMode> for netlink::MacvlanMode {
    fn from(mode: MacvlanMode) -> Self {
        match mode {
            MacvlanMode::Bridge => Self::Bridge,
            MacvlanMode::Private => Self::Private,
            MacvlanMode::Vepa => Self::Vepa,
            MacvlanMode::Passthru => Self::Passthru,
        }
    }
}

impl From<IpvlanMode> for netlink::IpvlanMode {
    fn from(mode: IpvlanMode) -> Self {
        match mode {
            IpvlanMode::L2 => Self::L2,
            IpvlanMode::L3 => Self::L3,
            IpvlanMode::L3s => Self::L3s,
        }
    }
}

impl From<IpvlanFlag> for netlink::IpvlanFlag {
    fn from(flag: IpvlanFlag) -> Self {
        match flag {
            IpvlanFlag::Bridge => Self::Bridge,
            IpvlanFlag::Private => Self::Private,
            IpvlanFlag::Vepa => Self::Vepa,
        }
    }
}

impl Driver for Upper {
    fn create_network<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<Vec<String>, NetError>> {
        Box::pin(async move {
            let (context, spec) = (Arc::clone(&self.context), network.clone());
            self.worker.run(move |kernel| parent::complete(kernel, &context, &spec)).await?
        })
    }

    fn delete_network<'a>(
        &'a self,
        network: &'a NetworkSpec,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        self.discard_network(&network.id)
    }

    fn discard_network<'a>(
        &'a self,
        network: &'a NetworkId,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            let (context, network) = (Arc::clone(&self.context), network.clone());
            self.worker.run(move |kernel| parent::remove(kernel, &context, &network)).await?
        })
    }

    fn attach(&self, request: AttachRequest) -> BoxFuture<'_, Result<Attachment, NetError>> {
        Box::pin(async move {
            let context = Arc::clone(&self.context);
            self.worker.run(move |kernel| endpoint::attach(kernel, &context, &request)).await?
        })
    }

    fn restore(
        &self,
        request: AttachRequest,
        _found: Option<ObservedEndpoint>,
    ) -> BoxFuture<'_, Result<(Attachment, bool), NetError>> {
        Box::pin(async move {
            let context = Arc::clone(&self.context);
            self.worker.run(move |kernel| endpoint::restore(kernel, &context, &request)).await?
        })
    }

    fn detach(&self, request: DetachRequest) -> BoxFuture<'_, Result<(), NetError>> {
        Box::pin(async move {
            let context = Arc::clone(&self.context);
            self.worker.run(move |kernel| endpoint::detach(kernel, &context, &request)).await?
        })
    }

    fn discard_endpoint<'a>(
        &'a self,
        endpoint: &'a ObservedEndpoint,
    ) -> BoxFuture<'a, Result<(), NetError>> {
        Box::pin(async move {
            let (context, endpoint) = (Arc::clone(&self.context), endpoint.clone());
            self.worker.run(move |_| endpoint::discard(&context, &endpoint)).await?
        })
    }

    fn observe(&self) -> BoxFuture<'_, Result<Observed, NetError>> {
        Box::pin(async move {
            let context = Arc::clone(&self.context);
            self.worker.run(move |kernel| endpoint::observe(kernel, &context)).await?
        })
    }
}
