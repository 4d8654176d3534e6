//! Names of containers, as containers ask for them: with the daemon, without
//! it, and while things change.

mod common;

use common::{SOON, crash_and_restart, field, has, host};
use sampan_testkit::{Host, eventually};

/// The addresses that a container finds for a name, sorted; none when it is
/// told that there are none.
fn look(h: &Host, from: &str, name: &str) -> Vec<String> {
    let out = h.run(&format!("docker exec {from} nslookup {name} 2>&1")).text();
    // After the server's own address.
    let answer = out.split_once("Name:").map_or("", |(_, answer)| answer);
    let words = answer.split_whitespace();
    let mut found: Vec<String> =
        words.filter(|w| w.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect();
    found.sort();
    found.dedup();
    found
}

fn address(h: &Host, name: &str, network: &str) -> String {
    field(h, name, &format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}"))
}

#[track_caller]
fn finds(h: &Host, from: &str, name: &str, wanted: &[&String]) {
    let mut wanted: Vec<String> = wanted.iter().map(|w| (*w).clone()).collect();
    wanted.sort();
    eventually(&format!("{from} finds {name}"), SOON, || {
        (look(h, from, name) == wanted).then_some(())
    });
}

/// Answers `to` to every question that reaches `at`:53 in the network
/// namespace of a process of the host's.
fn serve_names(h: &Host, process: &str, at: &str, to: &str) {
    let server = r#"
        socket(S, 2, 2, 17) or die; bind(S, pack("SnC4x8", 2, 53, split(/\./, $ARGV[0]))) or die;
        while (defined($peer = recv(S, $m, 512, 0))) {
            my $r = substr($m, 0, 2) . pack("n5", 0x8180, 1, 1, 0, 0) . substr($m, 12);
            $r .= pack("n3Nn", 0xc00c, 1, 1, 0, 4) . pack("C4", split(/\./, $ARGV[1]));
            send(S, $r, 0, $peer);
        }"#;
    let script = h.dir().join("names.pl");
    std::fs::write(&script, server).expect("write the server's script");
    let script = script.display();
    h.sh(&format!("nsenter -t {process} -n perl {script} {at} {to} >/dev/null 2>&1 </dev/null &"));
}

#[test]
fn containers_find_one_another() {
    let Some((_lan, h)) = host("containers_find_one_another") else { return };
    h.docker("network create n1");
    h.docker("network create n2");
    h.docker("run -d --name web1 --net n1 --network-alias web busybox sleep 1000");
    h.docker("run -d --name web2 --net n1 --network-alias web busybox sleep 1000");
    h.docker("run -d --name db --net n2 busybox sleep 1000");
    h.docker("run -d --name cl --net n1 busybox sleep 1000");
    let (w1, w2, db) =
        (address(&h, "web1", "n1"), address(&h, "web2", "n1"), address(&h, "db", "n2"));
    finds(&h, "cl", "web1", &[&w1]);
    finds(&h, "cl", "WEB2", &[&w2]);
    finds(&h, "cl", "web", &[&w1, &w2]);
    finds(&h, "cl", "web1.n1", &[&w1]);
    let id = field(&h, "web1", "{{.Id}}");
    finds(&h, "cl", &id[..12], &[&w1]);
    finds(&h, "cl", "db", &[]);
    has(&h.docker(&format!("exec cl nslookup {w1}")), &["web1.n1"]);
    has(&h.docker("exec cl ping -c1 -W2 web2"), &[&w2]);
    // Connected while they run.
    h.docker("network connect --alias store n2 cl");
    finds(&h, "cl", "db", &[&db]);
    finds(&h, "db", "store", &[&address(&h, "cl", "n2")]);
    finds(&h, "db", "web1", &[]);
    h.docker("network disconnect n2 cl");
    finds(&h, "cl", "db", &[]);
    // Another name, no process, a process again.
    h.docker("rename web1 shop");
    finds(&h, "cl", "shop", &[&w1]);
    finds(&h, "cl", "web1", &[]);
    h.docker("stop -t0 shop");
    finds(&h, "cl", "shop", &[]);
    finds(&h, "cl", "web", &[&w2]);
    h.docker("start shop");
    finds(&h, "cl", "shop", &[&address(&h, "shop", "n1")]);
}

#[test]
fn names_are_answered_while_the_daemon_is_dead() {
    let Some((_lan, mut h)) = host("names_are_answered_while_the_daemon_is_dead") else { return };
    h.docker("network create n1");
    h.docker("run -d --name aa --net n1 busybox sleep 1000");
    h.docker("run -d --name bb --net n1 busybox sh -c \
        'while :; do nslookup aa >/tmp/out.new 2>&1; mv /tmp/out.new /tmp/out; echo x >>/tmp/count; usleep 20000; done'");
    let aa = address(&h, "aa", "n1");
    finds(&h, "bb", "aa", &[&aa]);
    let process = proxy(&h);
    let pid = field(&h, "bb", "{{.State.Pid}}");
    let read = |h: &Host, file: &str| h.run(&format!("cat /proc/{pid}/root/tmp/{file}")).text();
    h.stop_daemon("KILL");
    let before = read(&h, "count").len();
    eventually("questions are asked and answered", SOON, || {
        (read(&h, "count").len() > before + 20 && read(&h, "out").contains(&aa)).then_some(())
    });
    h.start_daemon(common::SAMPAN, &[]);
    assert_eq!(proxy(&h), process, "the same process goes on");
    finds(&h, "bb", "aa", &[&aa]);
    // And what came after the restart is known as well.
    h.docker("run -d --name cc --net n1 busybox sleep 1000");
    finds(&h, "bb", "cc", &[&address(&h, "cc", "n1")]);
    h.sh(&format!("kill -9 {process}"));
    eventually("another process answers", SOON, || {
        let now = h.run(&format!("cat {}/proxy.log", h.exec_root().display())).text();
        (now.matches("the host's name servers").count() > 1).then_some(())
    });
    finds(&h, "bb", "cc", &[&address(&h, "cc", "n1")]);
    assert_ne!(proxy(&h), process);
    crash_and_restart(&mut h);
    finds(&h, "bb", "aa", &[&aa]);
    // Nothing is left when nothing is needed.
    h.docker("rm -f aa bb cc");
    h.stop_daemon("TERM");
    eventually("the process ends by itself", SOON, || {
        h.run("pgrep -f 'sampan [p]roxy --exec-root'").text().is_empty().then_some(())
    });
}

/// The process that answers for names, as the host sees it.
fn proxy(h: &Host) -> String {
    let found = h.sh("pgrep -f 'sampan [p]roxy --exec-root'");
    assert_eq!(found.lines().count(), 1, "{found}");
    found
}

#[test]
fn a_container_may_serve_names_itself() {
    let Some((_lan, h)) = host("a_container_may_serve_names_itself") else { return };
    h.docker("network create n1");
    h.docker("network create --internal inner");
    h.docker("run -d --name ns --net n1 busybox sleep 1000");
    serve_names(&h, &field(&h, "ns", "{{.State.Pid}}"), "0.0.0.0", "192.0.2.77");
    h.docker("run -d --name aa --net n1 busybox sleep 1000");
    let (ns, aa) = (address(&h, "ns", "n1"), address(&h, "aa", "n1"));
    finds(&h, "ns", "aa", &[&aa]);
    let own = "192.0.2.77".to_owned();
    eventually("the container's own server", SOON, || {
        let out = h.run(&format!("docker exec aa nslookup -type=a own.test {ns} 2>&1")).text();
        out.contains(&own).then_some(())
    });
    // Who names it as its server asks it, from inside.
    h.docker(&format!("run -d --name cl --net n1 --dns {ns} busybox sleep 1000"));
    eventually("a server in a container", SOON, || {
        let out = h.run("docker exec cl nslookup -type=a own.test 2>&1").text();
        out.contains(&own).then_some(())
    });
    finds(&h, "cl", "aa", &[&aa]);
    // Nothing leads out of an internal network, names in it are answered.
    h.docker("run -d --name in1 --net inner busybox sleep 1000");
    h.docker("run -d --name in2 --net inner busybox sleep 1000");
    finds(&h, "in1", "in2", &[&address(&h, "in2", "inner")]);
    has(&h.run("docker exec in1 nslookup -type=a own.test 2>&1").text(), &["SERVFAIL"]);
}

#[test]
fn the_hosts_servers_are_asked_and_followed() {
    let Some((_lan, h)) = host("the_hosts_servers_are_asked_and_followed") else { return };
    serve_names(&h, "1", "127.0.0.53", "192.0.2.1");
    serve_names(&h, "1", "127.0.0.54", "192.0.2.2");
    h.sh("echo 'nameserver 127.0.0.53' >/etc/resolv.conf");
    h.docker("network create n1");
    h.docker("run -d --name cl --net n1 busybox sleep 1000");
    let asks = |wanted: &str| {
        eventually(wanted, SOON, || {
            let out = h.run("docker exec cl nslookup -type=a one.test 2>&1").text();
            out.contains(wanted).then_some(())
        });
    };
    asks("192.0.2.1");
    has(
        &h.docker("exec cl cat /etc/resolv.conf"),
        &["nameserver 127.0.0.11", "options ndots:0", "# ExtServers: [host(127.0.0.53)]"],
    );
    h.sh("echo 'nameserver 127.0.0.54' >/etc/resolv.conf");
    asks("192.0.2.2");
}

#[test]
fn a_container_of_the_default_bridge_gets_the_service_with_a_network() {
    let test = "a_container_of_the_default_bridge_gets_the_service_with_a_network";
    let Some((_lan, h)) = host(test) else { return };
    h.docker("network create n1");
    h.docker("run -d --name aa --net n1 busybox sleep 1000");
    for name in ["bb", "own"] {
        h.docker(&format!("run -d --name {name} --dns 192.0.2.53 busybox sleep 1000"));
    }
    has(&h.docker("exec bb cat /etc/resolv.conf"), &["nameserver 192.0.2.53", "(legacy)"]);
    h.docker("exec own sh -c 'echo \"nameserver 192.0.2.99\" >/etc/resolv.conf'");
    h.docker("network connect n1 bb");
    h.docker("network connect n1 own");
    has(
        &h.docker("exec bb cat /etc/resolv.conf"),
        &["nameserver 127.0.0.11", "# ExtServers: [192.0.2.53]"],
    );
    finds(&h, "bb", "aa", &[&address(&h, "aa", "n1")]);
    has(&h.docker("exec own cat /etc/resolv.conf"), &["nameserver 192.0.2.99"]);
    h.docker("network disconnect n1 bb");
    has(&h.docker("exec bb cat /etc/resolv.conf"), &["nameserver 192.0.2.53", "(legacy)"]);
    assert_eq!(
        h.docker("run --rm --net host busybox cat /etc/resolv.conf"),
        h.sh("cat /etc/resolv.conf")
    );
}
