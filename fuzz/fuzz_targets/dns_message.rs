//! Messages to the name service, as containers may send them and as other
//! servers may answer: read, answered or refused, within the room there is.
#![no_main]

use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use sampan_net::DnsSpec;
use sampan_net::names::{EndpointNames, SandboxNames};
use sampan_proxy::cache::{Cache, key};
use sampan_proxy::dns::query::Query;
use sampan_proxy::dns::zone::{Hits, Outcome, Zones};
use sampan_proxy::dns::{answer, records};
use sampan_types::{ContainerId, NetworkId, SandboxId};

fn id<T: std::str::FromStr>(digits: &str) -> T {
    match digits.repeat(32).parse() {
        Ok(id) => id,
        Err(_) => unreachable!("an id of 64 digits"),
    }
}

fn zones() -> (Zones, SandboxId) {
    let mut zones = Zones::new(1);
    for (n, name) in ["01", "02"].into_iter().zip(["web", "db"]) {
        zones.set(SandboxNames {
            sandbox: id(n),
            container: id::<ContainerId>(n),
            netns: "/none".into(),
            dns: DnsSpec { serves: true, ..DnsSpec::default() },
            leads_out: true,
            endpoints: vec![EndpointNames {
                network: id::<NetworkId>("0a"),
                network_name: "net".to_owned(),
                names: vec![name.to_owned(), "all".to_owned()],
                addresses: vec![[10, 0, 0, 1].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into()],
            }],
        });
    }
    (zones, id("01"))
}

fuzz_target!(|bytes: &[u8]| {
    // The first two bytes say where the question ends and the answer begins.
    let Some((split, rest)) = bytes.split_at_checked(2) else { return };
    let at = usize::from(u16::from_be_bytes([split[0], split[1]])).min(rest.len());
    let (question, reply) = rest.split_at(at);
    let mut out = Vec::new();
    let query = match Query::read(question) {
        Ok(query) => query,
        Err(Some(rcode)) => {
            answer::refuse_unread(question, rcode, &mut out);
            return;
        }
        Err(None) => return,
    };
    let (mut zones, sandbox) = zones();
    let room = query.room();
    if zones.answer(&sandbox, &query, room, &mut Hits::default(), &mut out) == Outcome::Answered {
        assert!(out.len() <= room.max(query.end + 11));
        assert!(answer::is_answer(&out, &query));
        assert!(records::records(&out, query.end).is_some());
    }
    let (mut cache, now) = (Cache::default(), Instant::now());
    let known = key(1, false, &query);
    cache.insert(&known, reply, query.end, now);
    out.clear();
    if cache.get(&known, &query, now, &mut out) {
        assert!(answer::is_answer(&out, &query));
    }
    if let Some(list) = records::records(reply, query.end) {
        let _ = records::addresses(reply, &list);
    }
});
