//! Measures an engine from its users' side. Every figure is taken in turns
//! from all engines, so that the ratios of one run mean something on a machine
//! whose speed varies.
//!
//! `sampan-benches SAMPAN-BINARY [NAME…]`
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)]

mod backup;
mod client;
mod copy;
mod engine;
mod oci;
mod scale;
mod traffic;
mod volumes;

use std::time::{Duration, Instant};

use engine::Engine;

/// One figure of one engine; `None` when the engine can't do it.
type Measure = fn(&Engine<'_>) -> Result<f64, String>;

const ROUNDS: usize = 3;

const MEASURES: &[(&str, &str, Measure)] = &[
    ("run_true", "ms", run_true),
    ("start_by_api", "ms", start_by_api),
    ("exec_true", "ms", exec_true),
    ("parallel_50", "ms", parallel_50),
    ("memory_30", "MiB", memory_30),
    ("publish_500", "ms", publish_500),
    ("tcp_bare", "Gbit/s", traffic::bare),
    ("tcp_neighbours", "Gbit/s", traffic::neighbours),
    ("tcp_internal", "Gbit/s", traffic::internal),
    ("tcp_host", "Gbit/s", traffic::host_from_outside),
    ("tcp_published", "Gbit/s", traffic::published_from_outside),
    ("tcp_local", "Gbit/s", traffic::published_on_loopback),
    ("http_keepalive", "req/s", traffic::http_keepalive),
    ("http_new", "req/s", traffic::http_new),
    ("dns_names", "q/s", traffic::dns_names),
    ("network_create", "ms", scale::network_create),
    ("attach", "ms", scale::attach),
    ("attach_at_4000", "ms", scale::attach_at_4000),
    ("publish_10000", "ms", scale::publish_10000),
    ("volume_ls_10000", "ms", volumes::list),
];

/// Those of them that are also taken with the bridge alone.
const ALSO_PLAIN: [&str; 2] = ["tcp_neighbours", "tcp_internal"];

fn main() {
    let mut args = std::env::args().skip(1);
    let Some(sampan) = args.next() else {
        eprintln!("usage: sampan-benches SAMPAN-BINARY [NAME…]");
        std::process::exit(2);
    };
    let wanted: Vec<String> = args.collect();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| name.contains(w));

    if is_wanted("copy") {
        copy::compare();
    }
    // What needs no engine was all that was wanted.
    if wanted == ["copy"] {
        return;
    }
    let lan = sampan_testkit::Lan::new(1500);
    let mut engines = vec![Engine::sampan(&lan, "sampan", &sampan, &[])];
    engines.extend(Engine::docker(&lan));
    if ALSO_PLAIN.into_iter().any(is_wanted) {
        engines.push(Engine::sampan(&lan, "plain", &sampan, &["--network-redirect=false"]));
    }
    println!("{:<16} {:>6} {}", "", "", names(&engines));
    for (name, unit, measure) in MEASURES.iter().filter(|(name, ..)| is_wanted(name)) {
        let figures = rounds(&engines, name, *measure);
        println!("{name:<16} {unit:>6} {}", row(&figures));
    }
    if is_wanted("oci") {
        oci::compare(&engines[0]);
    }
    if is_wanted("volume_io") {
        volumes::compare_io(&engines[0]);
    }
    if is_wanted("backup") {
        backup::compare(&engines[0]);
    }
}

fn names(engines: &[Engine<'_>]) -> String {
    engines.iter().map(|e| format!("{:>12}", e.name)).collect()
}

fn rounds(engines: &[Engine<'_>], name: &str, measure: Measure) -> Vec<Option<f64>> {
    let mut figures = vec![Vec::new(); engines.len()];
    for _ in 0..ROUNDS {
        for (engine, figures) in engines.iter().zip(&mut figures) {
            if engine.name == "plain" && !ALSO_PLAIN.contains(&name) {
                continue;
            }
            match measure(engine) {
                Ok(figure) => figures.push(figure),
                Err(e) => eprintln!("{}: {e}", engine.name),
            }
            engine.clear();
        }
    }
    figures.into_iter().map(median).collect()
}

fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

fn row(figures: &[Option<f64>]) -> String {
    let mut text: String = figures
        .iter()
        .map(|f| f.map_or(format!("{:>12}", "-"), |f| format!("{f:>12.2}")))
        .collect();
    if let [Some(ours), Some(theirs), ..] = figures {
        text.push_str(&format!("   ratio {:.4}", ours / theirs));
    }
    text
}

fn timed(mut f: impl FnMut() -> Result<(), String>) -> Result<f64, String> {
    let began = Instant::now();
    f()?;
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn median_of(times: usize, mut f: impl FnMut() -> Result<f64, String>) -> Result<f64, String> {
    let figures = (0..times).map(|_| f()).collect::<Result<Vec<_>, _>>()?;
    median(figures).ok_or_else(|| "no figure".to_owned())
}

/// `docker run --rm busybox true` on the default bridge, with the command's own time.
fn run_true(engine: &Engine<'_>) -> Result<f64, String> {
    median_of(10, || timed(|| engine.shell("docker run --rm busybox true").map(drop)))
}

/// `POST /containers/ID/start` on the default bridge.
fn start_by_api(engine: &Engine<'_>) -> Result<f64, String> {
    let mut ids = Vec::new();
    let figure = median_of(15, || {
        let id = engine.create(&serde_json::json!({}))?;
        ids.push(id.clone());
        timed(|| engine.start(&id))
    })?;
    engine.remove(&ids);
    Ok(figure)
}

/// `docker exec` of `true`, with the command's own time.
fn exec_true(engine: &Engine<'_>) -> Result<f64, String> {
    let id = engine.create(&serde_json::json!({}))?;
    engine.start(&id)?;
    median_of(10, || timed(|| engine.shell(&format!("docker exec {id} true")).map(drop)))
}

/// 50 containers created and started from 10 threads.
fn parallel_50(engine: &Engine<'_>) -> Result<f64, String> {
    timed(|| {
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..10)
                .map(|_| {
                    scope.spawn(|| {
                        (0..5).try_for_each(|_| {
                            let id = engine.create(&serde_json::json!({}))?;
                            engine.start(&id)
                        })
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|t| t.join().unwrap_or_else(|_| Err("a thread panicked".to_owned())))
        })
    })
}

/// Resident memory (PSS) of the engine's own processes at 30 containers.
fn memory_30(engine: &Engine<'_>) -> Result<f64, String> {
    for _ in 0..30 {
        let id = engine.create(&serde_json::json!({}))?;
        engine.start(&id)?;
    }
    // What the start left to the background has ended by then.
    std::thread::sleep(Duration::from_secs(1));
    engine.own_memory()
}

/// Start of a container with 500 published ports.
fn publish_500(engine: &Engine<'_>) -> Result<f64, String> {
    let ports: serde_json::Map<_, _> = (20_000..20_500)
        .map(|p| (format!("{p}/tcp"), serde_json::json!([{"HostPort": p.to_string()}])))
        .collect();
    let id = engine.create(&serde_json::json!({ "PortBindings": ports }))?;
    timed(|| engine.start(&id))
}
