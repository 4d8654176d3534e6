//! The two threads that talk to the kernel: the network thread, which carries
//! out what somebody waits for, and the reaper, which does what nobody waits
//! for.
//!
//! Be aware:
//! - Their sockets belong to the network namespace in which [`Worker::start`]
//!   and [`Reaper::start`] were called: the host's.
//! - A job runs to its end also when the future that waits for it is dropped.
//! - The kernel serialises changes of links by one lock anyway: one thread
//!   loses nothing, and keeps the async workers free.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use sampan_sys::arp::Announcer;
use sampan_sys::conntrack::{Conntrack, Flow};
use sampan_sys::netlink::{NetlinkError, Route, delete_group};
use sampan_sys::netns;
use sampan_sys::nft::Nft;
use tokio::sync::oneshot;

use crate::error::NetError;
use crate::flows::StaleFlows;

/// The sockets of the network thread.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// Links, addresses, routes.
    pub route: Route,
    /// Rules.
    pub nft: Nft,
    /// Address announcements.
    pub announcer: Announcer,
}

type Job = Box<dyn FnOnce(&mut Kernel) + Send>;

/// A handle to the network thread, which ends with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    jobs: Sender<Job>,
}

impl Worker {
    /// Starts the thread in the caller's network namespace.
    pub fn start() -> Result<Self, NetError> {
        let (jobs, queue) = mpsc::channel::<Job>();
        let (opened, result) = mpsc::sync_channel(1);
        let work = move || {
            let mut kernel = match open() {
                Ok(kernel) => {
                    let _ = opened.send(Ok(()));
                    kernel
                }
                Err(e) => {
                    let _ = opened.send(Err(e));
                    return;
                }
            };
            for job in queue {
                job(&mut kernel);
            }
        };
        thread::Builder::new().name("network".to_owned()).spawn(work).map_err(socket_failure)?;
        result.recv().map_err(|_| NetError::Stopped)?.map_err(socket_failure)?;
        Ok(Self { jobs })
    }

    /// Carries `job` out on the thread and waits for its result.
    pub async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, NetError> {
        let (send, receive) = oneshot::channel();
        let job: Job = Box::new(move |kernel| {
            let _ = send.send(job(kernel));
        });
        self.jobs.send(job).map_err(|_| NetError::Stopped)?;
        receive.await.map_err(|_| NetError::Stopped)
    }
}

fn open() -> std::io::Result<Kernel> {
    Ok(Kernel { route: Route::open()?, nft: Nft::open()?, announcer: Announcer::open()? })
}

fn socket_failure(e: std::io::Error) -> NetError {
    NetError::kernel("open the network sockets")(NetlinkError::Socket(e))
}

/// What the reaper is asked for.
enum Chore {
    /// Remove the links that are marked as dead.
    Links,
    /// Remove the name of a namespace.
    Namespace(PathBuf),
    /// Forget flows that a change made wrong.
    Flows(StaleFlows),
    /// Say when everything before this is done.
    Report(oneshot::Sender<()>),
}

/// From how many ports on a change leaves so much memory behind that the
/// system gets it back at once.
pub(crate) const MANY_PORTS: usize = 1000;

/// Addresses out of use, and how many chores about each are not done.
type Leaving = HashMap<IpAddr, usize>;

/// A handle to the reaper, which ends, its chores done, with the last handle.
#[derive(Debug, Clone)]
pub(crate) struct Reaper {
    chores: Sender<Chore>,
    /// Addresses out of use whose flows are still to be forgotten. Locked for
    /// a moment at a time, by the thread as well.
    leaving: Arc<Mutex<Leaving>>,
}

impl Reaper {
    /// Starts the thread in the caller's network namespace. Links of `group`
    /// are the dead ones.
    pub fn start(group: u32) -> Result<Self, NetError> {
        let (chores, queue) = mpsc::channel();
        let route = Route::open().map_err(socket_failure)?;
        let leaving = Arc::<Mutex<Leaving>>::default();
        let known = Arc::clone(&leaving);
        thread::Builder::new()
            .name("network-reaper".to_owned())
            .spawn(move || reap(queue, route, group, &known))
            .map_err(socket_failure)?;
        Ok(Self { chores, leaving })
    }

    /// Removes the dead links.
    pub fn links(&self) {
        self.send(Chore::Links);
    }

    /// Removes the name of a namespace.
    pub fn namespace(&self, path: PathBuf) {
        self.send(Chore::Namespace(path));
    }

    /// Forgets flows that a change made wrong.
    pub fn flows(&self, stale: StaleFlows) {
        if !stale.is_empty() {
            let mut leaving = lock(&self.leaving);
            for address in stale.addresses() {
                *leaving.entry(*address).or_default() += 1;
            }
            drop(leaving);
            self.send(Chore::Flows(stale));
        }
    }

    /// Forgets the flows of addresses that are out of use.
    pub fn addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let mut stale = StaleFlows::default();
        addresses.into_iter().for_each(|address| stale.address(address));
        self.flows(stale);
    }

    /// Waits until nothing is known any more of flows that earlier users of
    /// these addresses had.
    pub async fn forgotten(&self, addresses: &[IpAddr]) {
        let waits = addresses.iter().any(|a| lock(&self.leaving).contains_key(a));
        if waits {
            self.flush().await;
        }
    }

    /// Waits until everything that was asked for is done.
    pub async fn flush(&self) {
        let (send, done) = oneshot::channel();
        self.send(Chore::Report(send));
        // A reaper that is gone has nothing left to do.
        let _ = done.await;
    }

    fn send(&self, chore: Chore) {
        // Fails only when the thread died; the next start reconciles.
        if self.chores.send(chore).is_err() {
            tracing::warn!("the network reaper has stopped");
        }
    }
}

/// The reaper's loop. What has gathered while one round ran is done in one
/// more round: the kernel removes many links at the price of one.
fn reap(queue: Receiver<Chore>, mut route: Route, group: u32, leaving: &Mutex<Leaving>) {
    while let Ok(first) = queue.recv() {
        let (mut links, mut reports) = (false, Vec::new());
        let (mut stale, mut addresses) = (StaleFlows::default(), Vec::<IpAddr>::new());
        for chore in std::iter::once(first).chain(queue.try_iter()) {
            match chore {
                Chore::Links => links = true,
                Chore::Namespace(path) => {
                    if let Err(e) = netns::remove(&path) {
                        tracing::warn!(path = %path.display(), error = %e, "failed to remove a network namespace");
                    }
                }
                Chore::Flows(more) => {
                    addresses.extend(more.addresses());
                    stale.merge(more);
                }
                Chore::Report(done) => reports.push(done),
            }
        }
        // Somebody may wait for the addresses; nobody does for the links.
        if !stale.is_empty()
            && let Err(e) = forget(&mut route, &stale)
        {
            tracing::warn!(error = %e, "failed to forget flows of what is gone");
        }
        left(leaving, &addresses);
        if stale.ports() > MANY_PORTS {
            sampan_sys::allocator::trim_memory();
        }
        if links && let Err(e) = route.run(vec![delete_group(group).absent_ok()]) {
            tracing::warn!(error = %e, "failed to remove links that are out of use");
        }
        for done in reports {
            let _ = done.send(());
        }
    }
}

fn left(leaving: &Mutex<Leaving>, addresses: &[IpAddr]) {
    let mut leaving = lock(leaving);
    for address in addresses {
        if let Some(rounds) = leaving.get_mut(address) {
            *rounds -= 1;
            if *rounds == 0 {
                leaving.remove(address);
            }
        }
    }
}

fn lock(leaving: &Mutex<Leaving>) -> MutexGuard<'_, Leaving> {
    leaving.lock().unwrap_or_else(PoisonError::into_inner)
}

fn forget(route: &mut Route, stale: &StaleFlows) -> Result<usize, NetlinkError> {
    let local = route.addresses()?.into_iter().map(|a| a.address.addr()).collect();
    Conntrack::open()?.forget(|flow: &Flow| stale.contains(flow, &local))
}
