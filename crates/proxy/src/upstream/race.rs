//! One question, put to the best server first, and soon to the others too.
//!
//! Be aware: a server that is taken for dead is asked last, and a question
//! every second is put to it beside the race, to see whether it lives.

use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::exchange::{Ask, Channel, Said, Ticket};
use super::group::Group;
use crate::dns::query::Query;
use crate::dns::{Rcode, answer, records};

/// When all were asked and none answered, they are asked again after so long.
const ROUNDS: [Duration; 3] =
    [Duration::from_millis(1000), Duration::from_millis(1500), Duration::from_millis(2000)];
/// How long a connection may take.
const STREAM_PATIENCE: Duration = Duration::from_secs(4);
/// How often, and for how long, a dead server is looked at.
const PROBE_EVERY: Duration = Duration::from_secs(1);
const PROBE_PATIENCE: Duration = Duration::from_millis(900);

/// Asks; none when nobody answers in time. With `whole`, an answer that was
/// cut off is asked for again over a connection.
pub(super) async fn run(group: &Rc<Group>, message: Rc<[u8]>, whole: bool) -> Option<Vec<u8>> {
    probe(group, &message);
    let (server, found) = Race::new(group, message.clone()).run().await?;
    if !whole || !records::is_cut(&found) {
        return Some(found);
    }
    let asked = timeout(STREAM_PATIENCE, by_stream(group, server, &message)).await;
    asked.ok().flatten()
}

/// A question that is asked of several servers.
struct Race<'a> {
    group: &'a Rc<Group>,
    message: Rc<[u8]>,
    said: Channel,
    /// Who was asked, and when.
    asked: Vec<(usize, Instant)>,
    tickets: Vec<Ticket>,
    /// Who said that it can't answer, and the last such answer.
    refused: Vec<usize>,
    refusal: Option<(usize, Vec<u8>)>,
}

impl<'a> Race<'a> {
    fn new(group: &'a Rc<Group>, message: Rc<[u8]>) -> Self {
        let (asked, tickets, refused) = (Vec::new(), Vec::new(), Vec::new());
        Self { group, message, said: Rc::default(), asked, tickets, refused, refusal: None }
    }

    async fn run(mut self) -> Option<(usize, Vec<u8>)> {
        for round in ROUNDS {
            let end = Instant::now() + round;
            let order = self.group.order();
            for (place, server) in order.iter().copied().enumerate() {
                if self.refused.contains(&server) {
                    continue;
                }
                self.ask(server).await;
                let Some(next) = order.get(place + 1) else { break };
                let patience = self.group.track(server).patience(&self.group.track(*next));
                if let Some(found) = self.wait((Instant::now() + patience).min(end)).await {
                    return Some(found);
                }
            }
            while self.refused.len() < self.group.len() && Instant::now() < end {
                if let Some(found) = self.wait(end).await {
                    return Some(found);
                }
            }
            if self.refused.len() >= self.group.len() {
                break;
            }
        }
        for server in 0..self.group.len() {
            if !self.refused.contains(&server) {
                self.group.note(server, super::track::Track::lost);
            }
        }
        self.refusal
    }

    async fn ask(&mut self, server: usize) {
        let ask = Ask { message: Rc::clone(&self.message), server, to: Rc::clone(&self.said) };
        self.asked.push((server, Instant::now()));
        self.group.note(server, super::track::Track::asked);
        match self.group.send(server, ask).await {
            Ok(ticket) => self.tickets.push(ticket),
            Err(_) => self.said.put((server, Said::Unreachable)),
        }
    }

    /// Waits for an answer, or for word that makes it worth asking the next
    /// server at once.
    async fn wait(&mut self, until: Instant) -> Option<(usize, Vec<u8>)> {
        let (server, said) = tokio::select! {
            said = self.said.take() => said,
            () = sleep_until(until) => return None,
        };
        let Said::Answer(found) = said else {
            self.group.note(server, super::track::Track::lost);
            self.refuse(server);
            return None;
        };
        let code = records::rcode(&found);
        if code == Rcode::NoError as u16 || code == Rcode::NxDomain as u16 {
            self.won(server);
            return Some((server, found));
        }
        self.refuse(server);
        self.refusal = Some((server, found));
        None
    }

    fn refuse(&mut self, server: usize) {
        if !self.refused.contains(&server) {
            self.refused.push(server);
        }
    }

    /// Remembers how quick the winner was, and that those who were asked
    /// before it were not.
    fn won(&self, winner: usize) {
        let when = |server| self.asked.iter().rev().find(|(s, _)| *s == server).map(|(_, at)| *at);
        let Some(at) = when(winner) else { return };
        self.group.note(winner, |track| track.answered(at.elapsed()));
        for (server, before) in &self.asked {
            if *server != winner && *before < at && !self.refused.contains(server) {
                self.group.note(*server, super::track::Track::lost);
            }
        }
    }
}

/// Puts the question to the servers that are taken for dead, if that has not
/// been done for a while.
fn probe(group: &Rc<Group>, message: &Rc<[u8]>) {
    let now = std::time::Instant::now();
    if group.probed.get().is_some_and(|at| now.duration_since(at) < PROBE_EVERY) {
        return;
    }
    group.probed.set(Some(now));
    for server in (0..group.len()).filter(|s| group.track(*s).is_dead()) {
        let (group, message) = (Rc::clone(group), Rc::clone(message));
        tokio::task::spawn_local(async move {
            let (said, began) = (Channel::default(), Instant::now());
            let to = Rc::clone(&said);
            let Ok(_ticket) = group.send(server, Ask { message, server, to }).await else { return };
            if let Ok((_, Said::Answer(_))) = timeout(PROBE_PATIENCE, said.take()).await {
                group.note(server, |track| track.answered(began.elapsed()));
            }
        });
    }
}

/// Asks over a connection of its own.
async fn by_stream(group: &Rc<Group>, server: usize, message: &[u8]) -> Option<Vec<u8>> {
    let mut stream = group.connect(server).await.ok()?;
    let length = u16::try_from(message.len()).ok()?;
    let framed = [&length.to_be_bytes(), message].concat();
    stream.write_all(&framed).await.ok()?;
    let length = stream.read_u16().await.ok()?;
    let mut found = vec![0; usize::from(length)];
    stream.read_exact(&mut found).await.ok()?;
    let query = Query::read(message).ok()?;
    (found.get(..2) == message.get(..2) && answer::is_answer(&found, &query)).then_some(found)
}
