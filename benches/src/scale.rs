//! What networks and endpoints cost, few of them and many.

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::{median, median_of, timed};

const NETWORKS: usize = 1000;
const ENDPOINTS: usize = 4000;
/// Containers among which the endpoints are divided.
const CONTAINERS: usize = 40;
const TIMES: usize = 20;

fn create_network(engine: &Engine<'_>, name: &str) -> Result<String, String> {
    let answer = engine.api("POST", "/networks/create", &json!({ "Name": name }))?;
    answer["Id"].as_str().map(str::to_owned).ok_or_else(|| format!("network create: {answer}"))
}

fn delete_network(engine: &Engine<'_>, id: &str) -> Result<(), String> {
    engine.api("DELETE", &format!("/networks/{id}"), &Value::Null).map(drop)
}

fn connect(engine: &Engine<'_>, network: &str, container: &str) -> Result<(), String> {
    let body = json!({ "Container": container });
    engine.api("POST", &format!("/networks/{network}/connect"), &body).map(drop)
}

fn disconnect(engine: &Engine<'_>, network: &str, container: &str) -> Result<(), String> {
    let body = json!({ "Container": container, "Force": true });
    engine.api("POST", &format!("/networks/{network}/disconnect"), &body).map(drop)
}

fn start(engine: &Engine<'_>) -> Result<String, String> {
    let id = engine.create(&json!({}))?;
    engine.start(&id)?;
    Ok(id)
}

/// `POST /networks/create`.
pub fn network_create(engine: &Engine<'_>) -> Result<f64, String> {
    median_of(TIMES, || {
        let mut id = String::new();
        let figure = timed(|| {
            id = create_network(engine, "bench")?;
            Ok(())
        });
        delete_network(engine, &id)?;
        figure
    })
}

/// `POST /networks/ID/connect` of a running container.
pub fn attach(engine: &Engine<'_>) -> Result<f64, String> {
    let network = create_network(engine, "bench")?;
    let container = start(engine)?;
    median_of(TIMES, || {
        let figure = timed(|| connect(engine, &network, &container));
        disconnect(engine, &network, &container)?;
        figure
    })
}

/// The same when the host has a thousand networks with four thousand
/// endpoints: the median of the last hundred that were attached.
pub fn attach_at_4000(engine: &Engine<'_>) -> Result<f64, String> {
    if engine.name == "docker" {
        return Err("not taken: its address pools end at 31 networks".to_owned());
    }
    let containers: Vec<String> =
        (0..CONTAINERS).map(|_| start(engine)).collect::<Result<_, _>>()?;
    let mut figures = Vec::with_capacity(ENDPOINTS);
    let mut networks = Vec::with_capacity(NETWORKS);
    let per_network = ENDPOINTS / NETWORKS;
    for number in 0..NETWORKS {
        let network = create_network(engine, &format!("bench{number}"))?;
        for member in 0..per_network {
            let container = &containers[(number * per_network + member) % CONTAINERS];
            figures.push(timed(|| connect(engine, &network, container))?);
        }
        networks.push(network);
    }
    let first = median(figures[..100].to_vec());
    let last = median(figures.split_off(ENDPOINTS - 100));
    eprintln!("attach, first hundred: {first:.2?} ms; last hundred of {ENDPOINTS}: {last:.2?} ms");
    engine.clear();
    last.ok_or_else(|| "no figure".to_owned())
}

/// Start of a container with 10,000 published ports, less that of one with
/// none.
pub fn publish_10000(engine: &Engine<'_>) -> Result<f64, String> {
    if engine.name == "docker" {
        return Err("not taken: it needs a proxy process for each port".to_owned());
    }
    let ports: serde_json::Map<_, _> = (20_000..30_000)
        .map(|p| (format!("{p}/tcp"), json!([{ "HostPort": p.to_string() }])))
        .collect();
    let bare = engine.create(&json!({}))?;
    let many = engine.create(&json!({ "PortBindings": ports }))?;
    let base = timed(|| engine.start(&bare))?;
    Ok(timed(|| engine.start(&many))? - base)
}
