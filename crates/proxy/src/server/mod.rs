//! The process `sampan proxy`: it holds the sockets in the sandboxes and
//! answers from what the daemon last said.
//!
//! Be aware:
//! - One thread does everything but enter namespaces, which a helper does.
//! - The process ends by itself when no daemon is there and nothing is left to
//!   answer for.

mod answer;
mod control;
mod sandbox;
mod serve;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::socket::{SockaddrIn, connect};
use sampan_net::names::{NameSet, SandboxNames};
use sampan_sys::netns::NetNs;
use sampan_types::SandboxId;
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::AbortHandle;

use crate::protocol::Status;
use crate::upstream::{Group, Place};
use crate::{host, redirect};
use answer::{Names, Upstream};
use sandbox::{OpenError, Opened};
use serve::Client;

pub use control::{Options, run};

/// All that the process has.
pub struct Server {
    names: Rc<Names>,
    services: RefCell<HashMap<SandboxId, Service>>,
    groups: Cell<u32>,
    servers: RefCell<Vec<IpAddr>>,
}

/// A sandbox with its sockets.
struct Service {
    client: Rc<Client>,
    path: PathBuf,
    netns: Arc<NetNs>,
    inode: u64,
    /// The servers of its own that it asks.
    servers: Vec<IpAddr>,
    udp: Rc<UdpSocket>,
    /// That of the datagrams, that of the connections.
    loops: [AbortHandle; 2],
}

impl Drop for Service {
    fn drop(&mut self) {
        self.loops.iter().for_each(AbortHandle::abort);
    }
}

impl Server {
    /// A server that answers for nothing.
    fn new() -> Self {
        let seed = getrandom::u64().unwrap_or_default();
        Self {
            names: Rc::new(Names::new(seed)),
            services: RefCell::default(),
            groups: Cell::default(),
            servers: RefCell::default(),
        }
    }

    fn group(&self, place: Place, servers: &[IpAddr]) -> Rc<Group> {
        self.groups.set(self.groups.get().wrapping_add(1));
        Rc::new(Group::new(self.groups.get(), place, servers))
    }

    /// Takes the host's servers over from its file, if they are others.
    fn reload_host(&self, path: &Path) {
        let servers = host::servers(path);
        if *self.servers.borrow() == servers && self.names.host.borrow().is_some() {
            return;
        }
        tracing::info!(?servers, "the host's name servers");
        let group = self.group(Place::Host, &servers);
        *self.names.host.borrow_mut() = Some(group).filter(|_| !servers.is_empty());
        *self.servers.borrow_mut() = servers;
        self.names.forwarder.forget();
    }

    /// Answers for a sandbox. Says whether anything was different.
    async fn set(&self, names: SandboxNames) -> Result<bool, OpenError> {
        let known = self.names.zones.borrow().get(&names.sandbox) == Some(&names);
        let (sandbox, path, dns) = (names.sandbox.clone(), names.netns.clone(), names.dns.clone());
        let leads_out = names.leads_out;
        // First: who is answered for gets the new answers from the start.
        if !known {
            self.names.zones.borrow_mut().set(names);
        }
        if !dns.serves {
            return Ok(self.stop(&sandbox).await | !known);
        }
        let there = self.services.borrow().get(&sandbox).is_some_and(|s| {
            s.path == path && sandbox::inode(&path).is_some_and(|inode| inode == s.inode)
        });
        if there {
            self.point(&sandbox, &dns.servers, leads_out);
            return Ok(!known);
        }
        let opening = path.clone();
        let opened = blocking(move || sandbox::open(&opening)).await.unwrap_or_else(|e| {
            Err(OpenError::Namespace { path: path.display().to_string(), source: e })
        })?;
        self.serve(sandbox, path, opened, &dns.servers, leads_out)?;
        Ok(true)
    }

    /// Begins to answer in a sandbox.
    fn serve(
        &self,
        sandbox: SandboxId,
        path: PathBuf,
        opened: Opened,
        servers: &[IpAddr],
        leads_out: bool,
    ) -> Result<(), OpenError> {
        let failed = |what| {
            let path = path.display().to_string();
            let address = SocketAddrV4::new(redirect::ADDRESS, redirect::PORT);
            move |source| OpenError::Socket { what, address, path, source }
        };
        let udp = UdpSocket::from_std(opened.udp.into()).map_err(failed("UDP socket"))?;
        let tcp = TcpListener::from_std(opened.tcp.into()).map_err(failed("TCP socket"))?;
        let upstream = RefCell::new(Upstream::Nobody);
        let client = Rc::new(Client { sandbox: sandbox.clone(), upstream });
        let names = || (Rc::clone(&self.names), Rc::clone(&client));
        let (udp, (a, b), (c, d)) = (Rc::new(udp), names(), names());
        let loops = [
            tokio::task::spawn_local(serve::datagrams(a, b, Rc::clone(&udp))).abort_handle(),
            tokio::task::spawn_local(serve::connections(c, d, tcp)).abort_handle(),
        ];
        let (netns, inode) = (opened.netns, opened.inode);
        let service = Service { client, path, netns, inode, servers: Vec::new(), udp, loops };
        self.services.borrow_mut().insert(sandbox.clone(), service);
        self.point(&sandbox, servers, leads_out);
        Ok(())
    }

    /// Says whom a sandbox's questions go on to.
    fn point(&self, sandbox: &SandboxId, servers: &[IpAddr], leads_out: bool) {
        let mut services = self.services.borrow_mut();
        let Some(service) = services.get_mut(sandbox) else { return };
        // Ourselves are not asked, or a question would go in circles.
        let servers: Vec<IpAddr> =
            servers.iter().copied().filter(|s| *s != IpAddr::V4(redirect::ADDRESS)).collect();
        let mut upstream = service.client.upstream.borrow_mut();
        let same = matches!(*upstream, Upstream::Own(_)) && service.servers == servers;
        if !leads_out {
            *upstream = Upstream::Nobody;
        } else if servers.is_empty() {
            *upstream = Upstream::Host;
        } else if !same {
            let place = Place::Namespace(Arc::clone(&service.netns));
            *upstream = Upstream::Own(self.group(place, &servers));
        }
        drop(upstream);
        service.servers = servers;
    }

    /// Stops to answer in a sandbox, which goes on. Says whether it was
    /// answered.
    async fn stop(&self, sandbox: &SandboxId) -> bool {
        let service = self.services.borrow_mut().remove(sandbox);
        let Some(service) = service else { return false };
        let (netns, path) = (Arc::clone(&service.netns), service.path.clone());
        let closed = blocking(move || sandbox::close(&netns, &path)).await;
        if let Ok(Err(error)) = closed {
            tracing::warn!(sandbox = sandbox.short(), %error, "rules are left behind");
        }
        true
    }

    /// Forgets a sandbox, whose namespace is about to go.
    fn remove(&self, sandbox: &SandboxId) -> bool {
        let known = self.names.zones.borrow().get(sandbox).is_some();
        self.names.zones.borrow_mut().remove(sandbox);
        self.services.borrow_mut().remove(sandbox).is_some() | known
    }

    /// Makes `all` all there are; what stays is not touched. Says whether
    /// anything was different, and what could not be done.
    async fn restore(&self, all: Vec<SandboxNames>) -> Result<bool, String> {
        let wanted: HashSet<SandboxId> = all.iter().map(|n| n.sandbox.clone()).collect();
        let gone: Vec<SandboxId> = {
            let zones = self.names.zones.borrow();
            zones
                .sandboxes()
                .map(|n| &n.sandbox)
                .filter(|s| !wanted.contains(*s))
                .cloned()
                .collect()
        };
        let mut changed = gone.iter().filter(|s| self.remove(s)).count() > 0;
        let mut failures = Vec::new();
        for names in all {
            let sandbox = names.sandbox.clone();
            let done = match self.set(names).await {
                Ok(false) => self.repair(&sandbox).await,
                done => done,
            };
            match done {
                Ok(different) => changed |= different,
                Err(error) => failures.push(error.to_string()),
            }
        }
        if failures.is_empty() { Ok(changed) } else { Err(failures.join("; ")) }
    }

    /// Restores what somebody took away in a sandbox.
    async fn repair(&self, sandbox: &SandboxId) -> Result<bool, OpenError> {
        let found =
            self.services.borrow().get(sandbox).map(|s| (Arc::clone(&s.netns), s.path.clone()));
        let Some((netns, path)) = found else { return Ok(false) };
        blocking(move || sandbox::repair(&netns, &path)).await.unwrap_or(Ok(false))
    }

    /// As [`Server::repair`], of several sandboxes. Says in which of them
    /// anything was different.
    async fn verify(&self, sandboxes: Vec<SandboxId>) -> Result<Vec<SandboxId>, String> {
        let (known, paths): (Vec<_>, Vec<_>) = {
            let services = self.services.borrow();
            let path = |s: &SandboxId| Some(services.get(s)?.path.clone());
            sandboxes.into_iter().filter_map(|s| path(&s).map(|p| (s, p))).unzip()
        };
        let compared = blocking(move || sandbox::repair_all(&paths)).await;
        let outcomes = compared.and_then(|done| done).map_err(|e| e.to_string())?;
        let mut restored = Vec::new();
        for (sandbox, outcome) in known.into_iter().zip(outcomes) {
            match outcome {
                Ok(true) => restored.push(sandbox),
                Ok(false) => {}
                // Most likely it is gone in the meantime.
                Err(error) => {
                    tracing::warn!(sandbox = sandbox.short(), %error, "rules are not compared");
                }
            }
        }
        Ok(restored)
    }

    /// Leaves new questions to the sockets of a process that took over. What
    /// has come already is still answered.
    fn turn_away(&self) {
        for service in self.services.borrow().values() {
            // A socket that is connected gets datagrams of its peer only;
            // this is a port of which none come.
            let nobody = SockaddrIn::from(SocketAddrV4::new(redirect::ADDRESS, 1));
            let _ = connect(service.udp.as_raw_fd(), &nobody);
            service.loops[1].abort();
        }
    }

    /// Answers what has come before the sockets were turned away.
    fn answer_rest(&self) {
        for service in self.services.borrow().values() {
            serve::rest(&self.names, &service.client, &service.udp);
        }
    }

    fn fill(&self, sets: Vec<NameSet>) {
        self.names.forwarder.fill.borrow_mut().set(sets);
    }

    /// Whether there is anything to answer for.
    fn is_idle(&self) -> bool {
        self.services.borrow().is_empty()
    }

    fn status(&self) -> Status {
        let forwarder = &self.names.forwarder;
        Status {
            sandboxes: self.names.zones.borrow().sandboxes().count(),
            served: self.services.borrow().len(),
            answered: self.names.answered.get(),
            forwarded: forwarder.counts.forwarded.get(),
            remembered: forwarder.counts.remembered.get(),
            failed: forwarder.counts.failed.get(),
            waiting: forwarder.waiting(),
            cached: forwarder.remembered(),
            servers: self.servers.borrow().clone(),
        }
    }
}

/// Runs what blocks on the helper.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(std::io::Error::other)
}
