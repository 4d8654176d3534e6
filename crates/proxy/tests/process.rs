//! The process, its sockets in sandboxes and its life beside a daemon, with
//! real packets.
#![allow(clippy::unwrap_used)]

mod lab;

use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lab::{Lab, Mood, SERVER, SOON, Sandbox, Upstream, exchange, exchange_tcp, look, run};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sampan_net::names::{NameService, SandboxNames};
use sampan_proxy::dns::query::{add_edns, ask};
use sampan_proxy::dns::{kind, records};
use sampan_testkit::eventually;
use sampan_types::NetworkId;

fn found(addresses: &[&str]) -> Option<(u16, Vec<String>)> {
    Some((0, addresses.iter().map(|a| (*a).to_owned()).collect()))
}

async fn set(lab: &Lab, sandboxes: &[&Sandbox]) {
    for sandbox in sandboxes {
        lab.client.set(sandbox.names.clone()).await.unwrap();
    }
}

#[test]
fn names_are_answered_over_both_protocols() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let a = lab.sandbox(&net, &["aa", "both"], "10.0.0.1");
        let b = lab.sandbox(&net, &["bb", "both"], "10.0.0.2");
        set(&lab, &[&a, &b]).await;
        assert_eq!(a.look("bb"), found(&["10.0.0.2"]));
        assert_eq!(b.look("AA.net"), found(&["10.0.0.1"]));
        assert_eq!(b.look("both"), found(&["10.0.0.1", "10.0.0.2"]));
        assert_eq!(a.look("nobody"), Some((2, vec![])), "without servers to ask");
        let questions: Vec<Vec<u8>> = (0..20).map(|n| ask(n, "both", kind::A)).collect();
        let answers = exchange_tcp(&a.netns, SERVER, &questions);
        assert!(answers.iter().all(|m| lab::addresses(m).1.len() == 2));
        // A connected socket, as resolvers have it.
        let socket = a.udp();
        socket.connect(SERVER).unwrap();
        socket.send(&questions[3]).unwrap();
        let mut buffer = [0; 512];
        assert!(socket.recv(&mut buffer).unwrap() > 40);
        // What is no question is refused, or not answered; the next one is.
        let mut wrong = questions[0].clone();
        wrong[5] = 2;
        assert_eq!(exchange(&a.udp(), SERVER, &wrong).map(|m| m[3] & 15), Some(1));
        a.udp().send_to(&[0; 3], SERVER).unwrap();
        assert_eq!(a.look("bb"), found(&["10.0.0.2"]));
        lab.client.remove(&b.names.sandbox).await.unwrap();
        assert_eq!(a.look("both"), found(&["10.0.0.1"]));
        assert_eq!(a.look("bb"), Some((2, vec![])));
    });
}

#[test]
fn a_sandbox_keeps_port_53_for_itself_and_tracks_no_flows() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&a]).await;
        let (_udp, _tcp) = a
            .netns
            .run(|| {
                let v4 = (UdpSocket::bind("0.0.0.0:53"), TcpListener::bind("0.0.0.0:53"));
                let _own = (v4.0.unwrap(), v4.1.unwrap());
                drop(_own);
                // Of both families at once.
                let v6 = (UdpSocket::bind("[::]:53"), TcpListener::bind("[::]:53"));
                (v6.0.unwrap(), v6.1.unwrap())
            })
            .unwrap();
        assert_eq!(a.look("aa"), found(&["10.0.0.1"]));
        let answers = exchange_tcp(&a.netns, SERVER, &[ask(1, "aa", kind::A)]);
        assert_eq!(lab::addresses(&answers[0]).1, ["10.0.0.1"]);
        let tracked = a.netns.run(|| {
            std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").unwrap_or_default()
        });
        assert_eq!(tracked.unwrap(), "");
    });
}

#[test]
fn what_no_container_has_is_asked_elsewhere() {
    run(|| async {
        let mut big: Vec<[u8; 4]> = Vec::new();
        for n in 0..60 {
            big.push([192, 0, 2, n]);
        }
        let upstream = Upstream::start("127.0.0.53", Mood::Answers)
            .name("www.example", &[[192, 0, 2, 1]])
            .name("big.example", &big);
        let cuts = Upstream::start("127.0.0.54", Mood::Cuts).name("big.example", &big);
        let (lab, net) = (Lab::new("nameserver 127.0.0.53\n"), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        let mut inside = lab.sandbox(&net, &["in"], "10.0.0.3");
        inside.names.leads_out = false;
        set(&lab, &[&a, &inside]).await;
        assert_eq!(a.look("WWW.example"), found(&["192.0.2.1"]));
        let asked = upstream.asked();
        assert_eq!(a.look("www.Example"), found(&["192.0.2.1"]));
        assert_eq!(upstream.asked(), asked, "the second time from memory");
        assert_eq!(a.look("none.example"), Some((3, vec![])), "what is not there is not there");
        assert_eq!(inside.look("www.example"), Some((2, vec![])), "nothing leads out");
        assert_eq!(inside.look("aa"), found(&["10.0.0.1"]));
        // Too long for a plain question, not for one with options.
        let mut question = ask(5, "big.example", kind::A);
        let cut = exchange(&a.udp(), SERVER, &question).unwrap();
        assert!(records::is_cut(&cut) && cut.len() <= 512);
        let whole = exchange_tcp(&a.netns, SERVER, &[question.clone()]).remove(0);
        assert_eq!(lab::addresses(&whole).1.len(), 60);
        add_edns(&mut question, 4096);
        let whole = exchange(&a.udp(), SERVER, &question).unwrap();
        assert_eq!((records::is_cut(&whole), lab::addresses(&whole).1.len()), (false, 60));
        // Other servers, and one that has long answers over TCP only.
        lab.set_resolv_conf("nameserver 127.0.0.54\n");
        eventually("the other server is asked", SOON, || {
            a.look("any.example").filter(|_| cuts.asked() > 0)
        });
        let whole = exchange_tcp(&a.netns, SERVER, &[ask(5, "big.example", kind::A)]).remove(0);
        assert_eq!(lab::addresses(&whole).1.len(), 60);
        // One that has an address of the other family.
        let six = Upstream::start("::1", Mood::Answers).name("six.example", &[[192, 0, 2, 6]]);
        lab.set_resolv_conf("nameserver ::1\n");
        eventually("the server with an IPv6 address is asked", SOON, || {
            (a.look("six.example") == found(&["192.0.2.6"]) && six.asked() > 0).then_some(())
        });
    });
}

#[test]
fn servers_of_a_sandboxs_own_are_asked_from_inside() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let mut a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        let _server = Upstream::start_in(&a.netns, "127.0.0.1", Mood::Answers)
            .name("own.example", &[[192, 0, 2, 9]]);
        a.names.dns.servers = vec!["127.0.0.11".parse().unwrap(), "127.0.0.1".parse().unwrap()];
        set(&lab, &[&a]).await;
        assert_eq!(a.look("own.example"), found(&["192.0.2.9"]));
        assert_eq!(a.look("aa"), found(&["10.0.0.1"]));
        a.names.dns.servers.clear();
        set(&lab, &[&a]).await;
        assert_eq!(a.look("own.example"), Some((2, vec![])));
    });
}

#[test]
fn a_dead_server_costs_little_and_one_that_refuses_nothing() {
    run(|| async {
        let _dead = Upstream::start("127.0.0.51", Mood::Silent);
        let _no = Upstream::start("127.0.0.52", Mood::Refuses);
        let good = Upstream::start("127.0.0.53", Mood::Answers).name("*", &[[192, 0, 2, 1]]);
        let conf = "nameserver 127.0.0.51\nnameserver 127.0.0.52\nnameserver 127.0.0.53\n";
        let (lab, net) = (Lab::new(conf), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&a]).await;
        let socket = a.udp();
        let mut times: Vec<Duration> = (0..200)
            .map(|n| {
                let began = Instant::now();
                let name = format!("n{n}.example");
                assert_eq!(look(&socket, SERVER, &name), found(&["192.0.2.1"]), "{name}");
                began.elapsed()
            })
            .collect();
        times.sort();
        assert!(good.asked() >= 200);
        let bar = Duration::from_millis(50) * sampan_testkit::busy();
        assert!(times[197] < bar, "p99 {:?}", times[197]);
    });
}

#[test]
fn thousands_of_questions_at_once_are_all_answered() {
    run(|| async {
        let _dead = Upstream::start("127.0.0.51", Mood::Silent);
        let _good = Upstream::start("127.0.0.53", Mood::Answers).name("*", &[[192, 0, 2, 1]]);
        let conf = "nameserver 127.0.0.51\nnameserver 127.0.0.53\n";
        let (lab, net) = (Lab::new(conf), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&a]).await;
        burst(&a);
    });
}

/// Asks 5,000 questions at once, and waits for all the answers.
fn burst(sandbox: &Sandbox) {
    let socket = sandbox.udp();
    let room = nix::sys::socket::sockopt::RcvBufForce;
    let _ = nix::sys::socket::setsockopt(&socket, room, &(16 << 20));
    for n in 0..5000u16 {
        let name = format!("n{n}.example");
        socket.send_to(&ask(n, &name, kind::A), SERVER).unwrap();
    }
    let mut answered = vec![false; 5000];
    let mut buffer = [0; 512];
    while answered.iter().any(|a| !a) {
        let length = socket.recv(&mut buffer).expect("some are not answered");
        let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        assert_eq!(lab::addresses(&buffer[..length]), (0, vec!["192.0.2.1".to_owned()]));
        answered[id] = true;
    }
}

#[test]
fn a_burst_opens_few_sockets_in_a_sandbox() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let mut a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        a.names.dns.servers = vec!["127.0.0.53".parse().unwrap()];
        let _own =
            Upstream::start_in(&a.netns, "127.0.0.53", Mood::Answers).name("*", &[[192, 0, 2, 1]]);
        set(&lab, &[&a]).await;
        burst(&a);
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", lab.pid().unwrap()));
        let count = descriptors.unwrap().count();
        assert!(count < 200, "{count} descriptors are open");
    });
}

#[test]
fn no_answer_is_wrong_while_names_come_and_go() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let asker = lab.sandbox(&net, &["asker"], "10.0.0.1");
        let mut other = lab.sandbox(&net, &["web"], "10.0.1.0");
        set(&lab, &[&asker]).await;
        // What may be answered: the cycle's address, from before it is set
        // until after it was removed.
        let (least, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (least, most, stop) = (Arc::clone(&least), Arc::clone(&most), Arc::clone(&stop));
            let socket = asker.udp();
            std::thread::spawn(move || {
                let (mut hits, mut misses) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    let from = least.load(Ordering::SeqCst);
                    let answer = look(&socket, SERVER, "web").expect("an answer");
                    let to = most.load(Ordering::SeqCst);
                    match answer.1.as_slice() {
                        [] => misses += 1,
                        [address] => {
                            let octets = address.parse::<std::net::Ipv4Addr>().unwrap().octets();
                            let cycle = usize::from(octets[2] - 1) * 250 + usize::from(octets[3]);
                            assert!((from..=to).contains(&cycle), "{address} in {from}..={to}");
                            hits += 1;
                        }
                        several => panic!("several addresses: {several:?}"),
                    }
                }
                (hits, misses)
            })
        };
        for cycle in 0..1000 {
            most.store(cycle, Ordering::SeqCst);
            let address = format!("10.0.{}.{}", 1 + cycle / 250, cycle % 250);
            other.names.endpoints[0].addresses = vec![address.parse().unwrap()];
            lab.client.set(other.names.clone()).await.unwrap();
            least.store(cycle, Ordering::SeqCst);
            assert_eq!(asker.look("web"), found(&[&address]));
            if cycle % 3 == 0 {
                lab.client.remove(&other.names.sandbox).await.unwrap();
                assert_eq!(asker.look("web"), Some((2, vec![])));
            }
        }
        stop.store(true, Ordering::SeqCst);
        let (hits, misses) = thread.join().unwrap();
        assert!(hits > 100 && misses > 10, "{hits} {misses}");
    });
}

#[test]
fn a_process_that_was_killed_is_back_within_a_second() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        let b = lab.sandbox(&net, &["bb"], "10.0.0.2");
        set(&lab, &[&a, &b]).await;
        for _ in 0..3 {
            let old = lab.pid().unwrap();
            kill(Pid::from_raw(old), Signal::SIGKILL).unwrap();
            let began = Instant::now();
            let socket = a.udp();
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            while look(&socket, SERVER, "bb") != found(&["10.0.0.2"]) {
                let promised = Duration::from_secs(1) * sampan_testkit::busy();
                assert!(began.elapsed() < promised, "not back");
            }
            eventually("another process", SOON, || lab.pid().filter(|pid| *pid != old));
        }
    });
}

#[test]
fn it_answers_without_a_daemon_and_is_found_again() {
    run(|| async {
        let (mut lab, net) = (Lab::new(""), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        let b = lab.sandbox(&net, &["bb"], "10.0.0.2");
        set(&lab, &[&a, &b]).await;
        let pid = lab.pid().unwrap();
        lab.restart_daemon();
        assert_eq!(a.look("bb"), found(&["10.0.0.2"]));
        let all = |list: &[&Sandbox]| list.iter().map(|s| s.names.clone()).collect::<Vec<_>>();
        assert!(!lab.client.restore(all(&[&a, &b])).await.unwrap(), "nothing was different");
        assert_eq!(lab.pid(), Some(pid));
        // What somebody took away in a namespace is put back.
        let flushed =
            a.netns.run(|| std::process::Command::new("nft").args(["flush", "ruleset"]).status());
        if flushed.unwrap().is_ok_and(|status| status.success()) {
            assert!(lab.client.restore(all(&[&a, &b])).await.unwrap());
        }
        assert_eq!(a.look("bb"), found(&["10.0.0.2"]));
        assert!(lab.client.restore(all(&[&a])).await.unwrap());
        assert_eq!(a.look("bb"), Some((2, vec![])));
    });
}

#[test]
fn only_what_goes_by_lo_meets_the_rules() {
    use sampan_proxy::redirect::{TABLE, ruleset};
    use sampan_sys::nft::{Batch, Hook, Nft};
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&a]).await;
        let dump = || a.netns.run(|| Nft::open().unwrap().dump(TABLE).unwrap()).unwrap();
        if dump() == Some(ruleset(Hook::Output).sorted()) {
            sampan_testkit::skip("only_what_goes_by_lo", "the kernel has no hook for a link");
            return;
        }
        assert_eq!(dump(), Some(ruleset(Hook::Loopback).sorted()));
        // As an earlier release had them: for each packet that leaves.
        let before = a.netns.run(|| {
            let mut batch = Batch::new();
            batch.replace_table(TABLE, &ruleset(Hook::Output));
            Nft::open().unwrap().commit(batch).unwrap();
        });
        before.unwrap();
        assert_eq!(a.look("aa"), found(&["10.0.0.1"]));
        assert!(lab.client.restore(vec![a.names.clone()]).await.unwrap());
        assert_eq!(dump(), Some(ruleset(Hook::Loopback).sorted()));
        assert_eq!(a.look("aa"), found(&["10.0.0.1"]));
        assert!(!lab.client.restore(vec![a.names.clone()]).await.unwrap());
    });
}

#[test]
fn another_build_takes_over_without_a_gap() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&a]).await;
        let old = lab.pid().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stop, socket) = (Arc::clone(&stop), a.udp());
            std::thread::spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::SeqCst) {
                    assert_eq!(look(&socket, SERVER, "aa"), found(&["10.0.0.1"]), "{count}");
                    count += 1;
                }
                count
            })
        };
        // A copy of the program is another build of it.
        let mut lab = lab;
        let copy = lab.dir.path().join("program");
        std::fs::copy(lab::PROGRAM, &copy).unwrap();
        lab.upgrade(copy);
        lab.client.restore(vec![a.names.clone()]).await.unwrap();
        eventually("the older one is gone", SOON, || {
            let gone = !std::path::Path::new(&format!("/proc/{old}/root")).exists()
                || std::fs::read_to_string(format!("/proc/{old}/stat"))
                    .is_ok_and(|s| s.contains(") Z "));
            (gone && lab.pid().is_some_and(|pid| pid != old)).then_some(())
        });
        stop.store(true, Ordering::SeqCst);
        assert!(thread.join().unwrap() > 10);
    });
}

#[test]
fn a_process_whose_socket_is_gone_is_replaced() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&a]).await;
        let old = lab.pid().unwrap();
        std::fs::remove_file(lab.dir.path().join("proxy.sock")).unwrap();
        eventually("another process", SOON, || lab.pid().filter(|pid| *pid != old));
        eventually("the older one has ended", SOON, || {
            // It is a child of this test's, which may not have been waited for.
            let state = std::fs::read_to_string(format!("/proc/{old}/stat"));
            state.map_or(true, |s| s.contains(") Z ")).then_some(())
        });
        assert_eq!(a.look("aa"), found(&["10.0.0.1"]));
    });
}

#[test]
fn a_sandbox_that_is_not_served_is_left_alone() {
    run(|| async {
        let (lab, net) = (Lab::new(""), NetworkId::random());
        let keeps = lab.sandbox(&net, &["keeps"], "10.0.0.9");
        let mut a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&keeps, &a]).await;
        assert_eq!(a.look("aa"), found(&["10.0.0.1"]));
        a.names.dns.serves = false;
        set(&lab, &[&a]).await;
        let rules = a.netns.run(|| {
            sampan_sys::nft::Nft::open().unwrap().dump(sampan_proxy::redirect::TABLE).unwrap()
        });
        assert_eq!(rules.unwrap(), None);
        eventually("its sockets are closed", SOON, || {
            a.netns.run(|| UdpSocket::bind("127.0.0.11:61053").ok()).unwrap()
        });
        // A namespace of the same name that is another one.
        lab.client.remove(&a.names.sandbox).await.unwrap();
        sampan_sys::netns::remove(&a.names.netns).unwrap();
        let (netns, path) = lab.namespace(&a.names.sandbox);
        assert_ne!(std::fs::metadata(&path).unwrap().ino(), 0);
        let names = SandboxNames { dns: keeps.names.dns.clone(), ..a.names.clone() };
        lab.client.set(names).await.unwrap();
        assert_eq!(look(&lab::udp(&netns), SERVER, "keeps"), found(&["10.0.0.9"]));
    });
}

#[test]
fn addresses_are_in_the_firewall_before_they_are_told() {
    run(|| async {
        if !sampan_testkit::missing_programs(&["nft"]).is_empty() {
            sampan_testkit::skip("addresses_are_in_the_firewall", "nft is missing");
            return;
        }
        let nft = |args: &str| {
            let mut command = std::process::Command::new("nft");
            let output = command.args(args.split(' ')).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        nft("add table inet pol");
        nft("add set inet pol four { type ipv4_addr ; flags timeout ; }");
        nft("add set inet pol six { type ipv6_addr ; flags timeout ; }");
        let _upstream = Upstream::start("127.0.0.53", Mood::Answers)
            .name("www.example", &[[192, 0, 2, 1], [192, 0, 2, 2]])
            .name("example", &[[192, 0, 2, 3]])
            .name("late.example", &[[192, 0, 2, 4]]);
        let (lab, net) = (Lab::new("nameserver 127.0.0.53\n"), NetworkId::random());
        let a = lab.sandbox(&net, &["aa"], "10.0.0.1");
        set(&lab, &[&a]).await;
        let spec = sampan_net::names::NameSet {
            name: "*.example".to_owned(),
            table: "pol".to_owned(),
            set4: "four".to_owned(),
            set6: "six".to_owned(),
        };
        assert_eq!(a.look("late.example"), found(&["192.0.2.4"]), "before anybody asks for it");
        lab.client.fill(vec![spec.clone()]).await.unwrap();
        for _ in 0..2 {
            assert_eq!(a.look("www.example"), found(&["192.0.2.1", "192.0.2.2"]));
            assert_eq!(a.look("example"), found(&["192.0.2.3"]));
            assert_eq!(a.look("late.example"), found(&["192.0.2.4"]));
            let list = nft("list set inet pol four");
            for address in ["192.0.2.1 ", "192.0.2.2 ", "192.0.2.4 "] {
                assert!(list.contains(&format!("{address}timeout")), "{address} in {list}");
            }
            assert!(!list.contains("192.0.2.3"), "{list}");
        }
        // A set that was made anew is filled with what was told before.
        nft("flush set inet pol four");
        lab.client.fill(vec![spec]).await.unwrap();
        assert!(nft("list set inet pol four").contains("192.0.2.2 timeout"));
        lab.client.fill(vec![]).await.unwrap();
    });
}
