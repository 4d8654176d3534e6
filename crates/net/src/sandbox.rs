//! Network namespaces of sandboxes, some of them made ahead of need.
//!
//! Be aware:
//! - A namespace made ahead has no name in the file system: when the daemon
//!   dies, the kernel removes it. The name is given when a sandbox takes it.
//! - In each of them `lo` is up, and interfaces have no IPv6 address unless
//!   a driver gives them one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use sampan_sys::netlink::{AddressWatch, LinkChange, LinkRef, NetlinkError, Route, set_link};
use sampan_sys::netns::{self, NetNs};
use sampan_sys::sysctl;
use sampan_types::SandboxId;
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use crate::error::NetError;

/// The number that the loopback interface has in every namespace.
const LOOPBACK: u32 = 1;

/// A sandbox's namespace with a socket inside it.
#[derive(Debug)]
pub struct Namespace {
    netns: NetNs,
    /// Used by the network thread only; the lock is never contended.
    route: Mutex<Route>,
}

impl Namespace {
    /// Makes a namespace in which `lo` is up.
    fn create() -> io::Result<Self> {
        let (netns, route) = NetNs::create(|| -> io::Result<Route> {
            let mut route = Route::open()?;
            let up = LinkChange { up: Some(true), ..Default::default() };
            route.run(vec![set_link(LinkRef::Index(LOOPBACK), &up)]).map_err(into_io)?;
            // Absent in a kernel without IPv6.
            let _ = sysctl::write_apart("net.ipv6.conf.default.disable_ipv6", "1");
            Ok(route)
        })?;
        Ok(Self { netns, route: Mutex::new(route?) })
    }

    /// The namespace whose name is `path`.
    pub(crate) fn open(path: &Path) -> Result<Self, NetError> {
        let failed = |source| NetError::Namespace {
            operation: "open the network namespace",
            path: path.to_owned(),
            source,
        };
        let netns = NetNs::open(path).map_err(failed)?;
        let route = netns.run(Route::open).and_then(|r| r).map_err(failed)?;
        Ok(Self { netns, route: Mutex::new(route) })
    }

    /// The namespace itself.
    #[must_use]
    pub fn netns(&self) -> &NetNs {
        &self.netns
    }

    /// The first name of `prefix` and a number that no interface has.
    pub(crate) fn free_interface(&self, prefix: &str) -> Result<String, NetlinkError> {
        let links = self.route().links()?;
        let taken = |name: &String| links.iter().any(|l| l.name == *name);
        let free = (0..).map(|i: u32| format!("{prefix}{i}")).find(|name| !taken(name));
        Ok(free.unwrap_or_default())
    }

    /// Lets an interface have IPv6 addresses, which are in use at once, and
    /// keeps it from configuring itself by what routers say. Says whether it
    /// could not have any before.
    ///
    /// # Errors
    /// [`NetError::NotSupported`] by a kernel without IPv6.
    pub(crate) fn allow_ipv6(&self, interface: &str) -> Result<bool, NetError> {
        Ok(self.open_ipv6(interface)?.0)
    }

    /// As [`Namespace::allow_ipv6`], with what hears when the addresses that
    /// it is given are in use.
    ///
    /// # Errors
    /// As [`Namespace::allow_ipv6`].
    pub(crate) fn open_ipv6(&self, interface: &str) -> Result<(bool, AddressWatch), NetError> {
        if !sysctl::has_ipv6() {
            return Err(NetError::NotSupported { what: "IPv6 by this kernel".to_owned() });
        }
        let set =
            |name, value| sysctl::write_apart(&format!("net/ipv6/conf/{interface}/{name}"), value);
        let written = self.netns.run(|| {
            let watch = AddressWatch::open()?;
            let set = || {
                set("accept_ra", "0")?;
                set("accept_dad", "0")?;
                set("disable_ipv6", "0")
            };
            Ok::<_, io::Error>((set(), watch))
        });
        let (missing, watch) =
            written.and_then(|done| done).map_err(|source| NetError::Namespace {
                operation: "enter a namespace made below",
                path: "/proc/self/ns".into(),
                source,
            })?;
        Ok((missing?, watch))
    }

    /// The socket inside.
    pub fn route(&self) -> MutexGuard<'_, Route> {
        self.route.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn into_io(e: NetlinkError) -> io::Error {
    match e {
        NetlinkError::Socket(e) => e,
        other => io::Error::other(other.to_string()),
    }
}

/// The namespaces of an instance.
#[derive(Debug)]
pub(crate) struct Namespaces {
    dir: PathBuf,
    /// Filled by the maker's thread. The lock is held while waiting for a
    /// namespace, so that those who wait are served in turn.
    ready: AsyncMutex<mpsc::Receiver<io::Result<Namespace>>>,
    orders: std::sync::mpsc::Sender<()>,
}

/// Orders a namespace in place of one that was taken, when it is dropped: not
/// before the sandbox is set up, for making one holds the kernel's lock on
/// links, for which the set-up would wait.
#[derive(Debug)]
pub(crate) struct Reorder(std::sync::mpsc::Sender<()>);

impl Drop for Reorder {
    fn drop(&mut self) {
        // Without a maker there is nobody to take from it either.
        let _ = self.0.send(());
    }
}

impl Namespaces {
    /// Makes the directory of their names and begins to make `ahead` of them.
    pub fn open(dir: PathBuf, ahead: usize) -> Result<Self, NetError> {
        let failed = |operation| {
            let path = dir.clone();
            move |source| NetError::Namespace { operation, path, source }
        };
        std::fs::create_dir_all(&dir).map_err(failed("create the directory of namespaces"))?;
        let ahead = ahead.max(1);
        let (send, ready) = mpsc::channel(ahead);
        let (orders, ordered) = std::sync::mpsc::channel();
        let work = move || {
            for () in std::iter::repeat_n((), ahead).chain(ordered) {
                if send.blocking_send(Namespace::create()).is_err() {
                    break;
                }
            }
        };
        thread::Builder::new()
            .name("netns-maker".to_owned())
            .spawn(work)
            .map_err(failed("start the maker of namespaces below"))?;
        Ok(Self { dir, ready: AsyncMutex::new(ready), orders })
    }

    /// Where the name of a sandbox's namespace is.
    pub fn path(&self, sandbox: &SandboxId) -> PathBuf {
        self.dir.join(sandbox.as_str())
    }

    /// The next namespace, without a name yet. The caller drops the order for
    /// another one when the namespace is set up.
    pub async fn take(&self) -> Result<(Namespace, Reorder), NetError> {
        let made = self.ready.lock().await.recv().await.ok_or(NetError::Stopped)?;
        let reorder = Reorder(self.orders.clone());
        let namespace = made.map_err(|source| NetError::Namespace {
            operation: "make a network namespace below",
            path: self.dir.clone(),
            source,
        })?;
        Ok((namespace, reorder))
    }

    /// Gives a namespace its name. What an interrupted attempt left there is
    /// replaced.
    pub fn name(&self, namespace: &Namespace, sandbox: &SandboxId) -> Result<PathBuf, NetError> {
        let path = self.path(sandbox);
        let mut bound = namespace.netns.bind(&path);
        if bound.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists) {
            bound = netns::remove(&path).and_then(|()| namespace.netns.bind(&path));
        }
        match bound {
            Ok(()) => Ok(path),
            Err(source) => {
                Err(NetError::Namespace { operation: "name the network namespace", path, source })
            }
        }
    }

    /// The names that exist: of sandboxes, and of nothing known.
    pub fn names(&self) -> Result<Vec<(PathBuf, Option<SandboxId>)>, NetError> {
        let failed = |source| NetError::Namespace {
            operation: "list the network namespaces in",
            path: self.dir.clone(),
            source,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let sandbox = entry.file_name().to_str().and_then(|name| name.parse().ok());
            names.push((entry.path(), sandbox));
        }
        Ok(names)
    }
}
