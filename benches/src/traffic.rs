//! Traffic: one TCP stream, HTTP, names. Beside each engine's figures stands
//! what the machine gives without any engine, taken in the same rounds.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::engine::Engine;

/// What makes traffic, copied into the image `bench`.
pub const PROGRAMS: &[&str] = &["iperf3", "wrk", "dnsperf", "nginx"];
const SECONDS: u32 = 3;
const TCP: u16 = 5201;
const HTTP: u16 = 8080;

/// Configures nginx in the image: one worker that answers two bytes.
pub fn configure(root: &Path) -> io::Result<()> {
    for dir in ["var/log/nginx", "var/lib/nginx", "etc/nginx"] {
        std::fs::create_dir_all(root.join(dir))?;
    }
    std::fs::write(
        root.join("etc/nginx/bench.conf"),
        "daemon off; worker_processes 1; error_log /dev/null; pid /tmp/nginx.pid; user root;\n\
         events { worker_connections 4096; }\n\
         http { access_log off; keepalive_requests 1000000;\n\
           server { listen 80; location / { return 200 'ok'; } } }\n",
    )
}

/// The word or number that follows `key`, in iperf3's JSON or a report.
fn after<'a>(text: &'a str, key: &str) -> Result<&'a str, String> {
    let found = text.split_once(key).map(|(_, rest)| rest.trim_start_matches([':', ' ', '\t']));
    let word = found.and_then(|rest| rest.split([',', ' ', '\n', '\t', '}']).next());
    word.ok_or_else(|| format!("no {key:?} in: {text}"))
}

fn number(text: &str, key: &str) -> Result<f64, String> {
    after(text, key)?.parse().map_err(|e| format!("{key:?}: {e}"))
}

/// What a receiver got of one stream, in Gbit/s.
fn received(json: &str) -> Result<f64, String> {
    let end = json.split_once("\"sum_received\"").map_or("", |(_, end)| end);
    Ok(number(end, "\"bits_per_second\"")? / 1e9)
}

fn iperf(address: &str, port: u16) -> String {
    format!("iperf3 -c {address} -p {port} -t {SECONDS} -J")
}

/// Starts a container that serves, and waits until it does.
fn serve(engine: &Engine<'_>, options: &str, command: &str, port: u16) -> Result<String, String> {
    let id = engine.shell(&format!("docker run -d {options} bench {command}"))?;
    let id = id.trim().to_owned();
    let pid = engine.shell(&format!("docker inspect -f '{{{{.State.Pid}}}}' {id}"))?;
    let listens = format!(
        "nsenter -t {} -n grep -qiE ':{port:04X} 0+:0000 0A' /proc/net/tcp /proc/net/tcp6",
        pid.trim()
    );
    let began = Instant::now();
    while engine.shell(&listens).is_err() {
        if began.elapsed() > Duration::from_secs(10) {
            return Err(format!("{command} does not listen"));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(id)
}

fn serve_tcp(engine: &Engine<'_>, options: &str) -> Result<String, String> {
    serve(engine, options, "iperf3 -s", TCP)
}

/// One stream between two namespaces that a pair of links joins.
pub fn bare(engine: &Engine<'_>) -> Result<f64, String> {
    let client = iperf("198.18.99.2", TCP);
    let json = engine.shell(&format!(
        "unshare -n sleep 60 & a=$!; unshare -n sleep 60 & b=$!; trap 'kill $a $b' EXIT
         until [ \"$(readlink /proc/$a/ns/net)\" != \"$(readlink /proc/$$/ns/net)\" ] &&
               [ \"$(readlink /proc/$b/ns/net)\" != \"$(readlink /proc/$$/ns/net)\" ]; do :; done
         ip link add bench0 type veth peer name bench1
         ip link set bench0 netns $a; ip link set bench1 netns $b
         nsenter -t $a -n sh -c 'ip addr add 198.18.99.1/24 dev bench0; ip link set bench0 up'
         nsenter -t $b -n sh -c 'ip addr add 198.18.99.2/24 dev bench1; ip link set bench1 up'
         nsenter -t $b -n iperf3 -s -1 >/dev/null & s=$!
         until nsenter -t $b -n grep -qi ':{TCP:04X} ' /proc/net/tcp6; do :; done
         nsenter -t $a -n {client}; wait $s"
    ))?;
    received(&json)
}

/// One stream between two containers of a user's network.
pub fn neighbours(engine: &Engine<'_>) -> Result<f64, String> {
    between(engine, "")
}

/// The same on a network that nothing leaves.
pub fn internal(engine: &Engine<'_>) -> Result<f64, String> {
    between(engine, "--internal")
}

fn between(engine: &Engine<'_>, options: &str) -> Result<f64, String> {
    engine.shell(&format!("docker network create {options} bench"))?;
    serve_tcp(engine, "--net bench --name server")?;
    let address = engine.shell(
        "docker inspect -f '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' server",
    )?;
    let client = iperf(address.trim(), TCP);
    received(&engine.shell(&format!("docker run --rm --net bench bench {client}"))?)
}

/// One stream from outside to a container in the host's namespace: what the
/// uplink gives.
pub fn host_from_outside(engine: &Engine<'_>) -> Result<f64, String> {
    serve_tcp(engine, "--net host")?;
    received(&engine.outside(&iperf(&engine.host().ip, TCP))?)
}

/// One stream from outside through a published port.
pub fn published_from_outside(engine: &Engine<'_>) -> Result<f64, String> {
    serve_tcp(engine, &format!("-p {TCP}:{TCP}"))?;
    received(&engine.outside(&iperf(&engine.host().ip, TCP))?)
}

/// One stream from the host through a published port of 127.0.0.1.
pub fn published_on_loopback(engine: &Engine<'_>) -> Result<f64, String> {
    serve_tcp(engine, &format!("-p {TCP}:{TCP}"))?;
    received(&engine.shell(&iperf("127.0.0.1", TCP))?)
}

fn http(engine: &Engine<'_>, options: &str) -> Result<f64, String> {
    serve(engine, &format!("-p {HTTP}:80"), "nginx -c /etc/nginx/bench.conf", 80)?;
    let address = &engine.host().ip;
    let report =
        engine.outside(&format!("wrk -t1 -c64 -d{SECONDS}s {options} http://{address}:{HTTP}/"))?;
    number(&report, "Requests/sec:")
}

/// HTTP through a published port, 64 connections that stay.
pub fn http_keepalive(engine: &Engine<'_>) -> Result<f64, String> {
    http(engine, "")
}

/// HTTP through a published port, a connection for each request.
pub fn http_new(engine: &Engine<'_>) -> Result<f64, String> {
    http(engine, "-H 'Connection: close'")
}

/// Questions for a container's name that the embedded server answers.
pub fn dns_names(engine: &Engine<'_>) -> Result<f64, String> {
    engine.shell("docker network create bench")?;
    engine.shell("docker run -d --name target --net bench bench sleep 100000")?;
    let report = engine.shell(&format!(
        "docker run --rm --net bench bench sh -c \
         \"echo 'target A' > /tmp/q; dnsperf -s 127.0.0.11 -d /tmp/q -l {SECONDS} -c 4\""
    ))?;
    number(&report, "Queries per second:")
}
