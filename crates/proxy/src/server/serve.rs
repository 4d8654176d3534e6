//! The loops that answer: one for the datagrams and one for the connections
//! of each sandbox.
//!
//! Be aware: all of them run on one thread. What they share is used between
//! two waits only, and no loop keeps the others waiting for longer than one
//! batch.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use sampan_sys::datagram::{Inbox, Outbox};
use sampan_types::SandboxId;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::answer::{Names, Upstream};
use crate::dns::LARGEST_UDP;
use crate::upstream::Reply;

/// How many connections a sandbox has at a time.
const CONNECTIONS_MAX: usize = 64;
/// How many answers of a connection are on their way at a time.
const PIPELINE: usize = 64;
/// How long a connection may say nothing, or not read.
const IDLE: Duration = Duration::from_secs(10);
/// How long nothing is accepted after a failure to.
const PAUSE: Duration = Duration::from_millis(100);

/// A sandbox whose questions are answered.
#[derive(Debug)]
pub struct Client {
    /// Which one.
    pub sandbox: SandboxId,
    /// Whom its questions go on to.
    pub upstream: RefCell<Upstream>,
}

thread_local! {
    /// Room for a batch: one for all sandboxes, used between two waits.
    static BATCH: RefCell<(Inbox, Outbox)> =
        RefCell::new((Inbox::new(LARGEST_UDP), Outbox::new()));
}

/// Answers datagrams for ever.
pub async fn datagrams(names: Rc<Names>, client: Rc<Client>, socket: Rc<UdpSocket>) {
    loop {
        if socket.readable().await.is_err() {
            return;
        }
        match batch(&names, &client, &socket) {
            // Others have their turn after each batch.
            Ok(()) => tokio::task::yield_now().await,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Word of a datagram that did not arrive; no reason to end.
                tracing::debug!(sandbox = client.sandbox.short(), %error, "receiving failed");
            }
        }
    }
}

fn batch(names: &Names, client: &Client, socket: &Rc<UdpSocket>) -> io::Result<()> {
    BATCH.with_borrow_mut(|(inbox, outbox)| {
        socket.try_io(Interest::READABLE, || inbox.receive(socket.as_ref()))?;
        answer_all(names, client, socket, inbox, outbox);
        Ok(())
    })
}

/// Answers what is left at a socket that gets nothing more.
pub fn rest(names: &Names, client: &Client, socket: &Rc<UdpSocket>) {
    BATCH.with_borrow_mut(|(inbox, outbox)| {
        while inbox.receive(socket.as_ref()).is_ok() {
            answer_all(names, client, socket, inbox, outbox);
        }
    });
}

fn answer_all(
    names: &Names,
    client: &Client,
    socket: &Rc<UdpSocket>,
    inbox: &Inbox,
    outbox: &mut Outbox,
) {
    let upstream = client.upstream.borrow();
    for received in inbox.iter() {
        let Some(to) = received.from.filter(|_| !received.cut) else { continue };
        let reply = || Reply::Datagram { socket: Rc::clone(socket), to };
        outbox.push(to, |out| {
            names.answer(&client.sandbox, &upstream, received.bytes, reply, (false, out))
        });
    }
    if !outbox.is_empty()
        && let Err(error) = outbox.send(socket.as_ref())
    {
        tracing::debug!(sandbox = client.sandbox.short(), %error, "sending failed");
    }
}

/// Accepts connections for ever.
pub async fn connections(names: Rc<Names>, client: Rc<Client>, listener: TcpListener) {
    let slots = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: wait for some to come back.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (names, client) = (Rc::clone(&names), Rc::clone(&client));
        tokio::task::spawn_local(async move {
            let _slot = slot;
            connection(&names, &client, stream).await;
        });
    }
}

/// Answers the questions of one connection, in the order in which the answers
/// come (RFC 7766).
async fn connection(names: &Names, client: &Client, stream: TcpStream) {
    let _ = stream.set_nodelay(true);
    let (mut read, write) = stream.into_split();
    let (answers, queue) = mpsc::channel(PIPELINE);
    let writer = tokio::task::spawn_local(write_answers(write, queue));
    let mut message = Vec::new();
    loop {
        let Ok(Ok(length)) = timeout(IDLE, read.read_u16()).await else { break };
        message.resize(usize::from(length), 0);
        let Ok(Ok(_)) = timeout(IDLE, read.read_exact(&mut message)).await else { break };
        // Room for the answer before the question is looked at.
        let Ok(Ok(room)) = timeout(IDLE, answers.reserve()).await else { break };
        let mut out = Vec::new();
        let upstream = client.upstream.borrow().clone();
        let reply = || Reply::Stream(answers.clone());
        if names.answer(&client.sandbox, &upstream, &message, reply, (true, &mut out)) {
            room.send(out);
        }
    }
    drop(answers);
    // Answers that are still to come are written, unless nobody reads them.
    let _ = writer.await;
}

async fn write_answers(mut write: OwnedWriteHalf, mut queue: mpsc::Receiver<Vec<u8>>) {
    while let Some(answer) = queue.recv().await {
        let Ok(length) = u16::try_from(answer.len()) else { continue };
        let framed = [&length.to_be_bytes()[..], &answer].concat();
        match timeout(IDLE, write.write_all(&framed)).await {
            Ok(Ok(())) => {}
            _ => return,
        }
    }
}
