//! What containers have on a host, as the host shows it and as the daemon's
//! records have it. The two must be the same.
//!
//! Be aware:
//! - The daemon is asked for its records only; everything else is read from
//!   the kernel and the file system.
//! - Each thing is named, so that a difference says what is left or missing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sampan_testkit::Host;
use serde_json::Value;

type Names = BTreeSet<String>;

/// Everything that containers, volumes and networks have on a host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct World {
    /// Shims by container.
    shims: Names,
    /// Shims of execs, and their directories, by exec.
    execs: Names,
    /// Directories of runs below exec-root.
    runs: Names,
    /// Cgroups in any hierarchy.
    cgroups: Names,
    /// The limit of memory that the kernel has, where there is one.
    limits: Names,
    /// Frozen containers.
    frozen: Names,
    /// Mount points below data-root: root file systems.
    mounts: Names,
    /// Names of network namespaces.
    namespaces: Names,
    /// How many links lead into containers.
    links: usize,
    /// Bridges.
    bridges: Names,
    /// Published ports in the firewall.
    published: Names,
    /// Addresses that network policies are about, each behind its policy.
    policies: Names,
    /// File systems, mounted or not, and those on their way out.
    snapshots: Names,
    /// Directories of containers below data-root.
    directories: Names,
    /// Volumes.
    volumes: Names,
}

/// The cgroup below which the containers of a host's daemon are.
///
/// # Panics
/// When a container can't be run.
#[track_caller]
pub fn cgroup_parent(h: &Host) -> String {
    let paths = h.docker("run --rm --net none busybox cat /proc/self/cgroup");
    let parent = paths.split('/').find(|p| p.starts_with("sampan"));
    parent.unwrap_or_else(|| panic!("no cgroup of this daemon in {paths}")).to_owned()
}

/// What is there. `parent` is of [`cgroup_parent`].
pub fn found(h: &Host, parent: &str) -> World {
    let (data, exec) = (h.data_root(), h.exec_root());
    let groups = cgroups(parent);
    let mut world = World {
        runs: names(&exec.join("containers"), is_id),
        cgroups: groups.iter().filter_map(|dir| name(dir)).collect(),
        mounts: mounts(h, &data),
        namespaces: names(&exec.join("netns"), |_| true),
        snapshots: names(&data.join("overlay"), |_| true),
        directories: names(&data.join("containers"), |_| true),
        volumes: names(&data.join("volumes"), |n| n != "metadata.db"),
        ..World::default()
    };
    for run in &world.runs {
        world.execs.extend(names(&exec.join("containers").join(run).join("exec"), |_| true));
    }
    for group in &groups {
        let Some(id) = name(group) else { continue };
        let read = |file: &str| std::fs::read_to_string(group.join(file)).unwrap_or_default();
        if read("freezer.state").trim() == "FROZEN" || read("cgroup.freeze").trim() == "1" {
            world.frozen.insert(id.clone());
        }
        let limit = read("memory.limit_in_bytes") + &read("memory.max");
        match limit.trim().parse::<u64>() {
            Ok(bytes) if bytes < 1 << 60 => drop(world.limits.insert(limit_of(&id, bytes))),
            _ => {}
        }
    }
    for shim in shims(&exec) {
        match shim.split_once(' ') {
            Some((_, exec)) => world.execs.insert(exec.to_owned()),
            None => world.shims.insert(shim),
        };
    }
    let kernel = h.run("ip -o link; echo; nft list ruleset").text();
    let (links, rules) = kernel.split_once("\n\n").unwrap_or((&kernel, ""));
    for line in links.lines() {
        let link = line.split(": ").nth(1).unwrap_or_default();
        if link.starts_with("veth") {
            world.links += 1;
        } else if link == "docker0" || link.starts_with("br-") {
            world.bridges.insert(link.to_owned());
        }
    }
    world.published = published(rules);
    world.policies = policies(rules);
    world
}

/// What the daemon's records say must be there.
pub fn recorded(h: &Host) -> World {
    let mut world = World::default();
    for c in list(h, "/containers/json?all=1").as_array().into_iter().flatten() {
        let id = text(&c["Id"]);
        let c = list(h, &format!("/containers/{id}/json"));
        if c["Id"].is_string() {
            record(&mut world, &id, &c);
        }
    }
    for v in list(h, "/volumes")["Volumes"].as_array().into_iter().flatten() {
        world.volumes.insert(text(&v["Name"]));
    }
    for n in list(h, "/networks").as_array().into_iter().flatten() {
        let bridge = match text(&n["Name"]).as_str() {
            "host" | "none" => continue,
            "bridge" => "docker0".to_owned(),
            _ => format!("br-{}", &text(&n["Id"])[..12]),
        };
        world.bridges.insert(bridge);
    }
    for policy in list(h, "/sampan/policies").as_array().into_iter().flatten() {
        let name = text(&policy["Name"]);
        world.policies.insert(name.clone());
        for container in policy["Containers"].as_array().into_iter().flatten() {
            for address in container["Addresses"].as_array().into_iter().flatten() {
                world.policies.insert(format!("{name} {}", text(address)));
                world.policies.insert(format!("guarded {}", text(address)));
            }
        }
    }
    world
}

fn record(world: &mut World, id: &str, c: &Value) {
    world.snapshots.insert(id.to_owned());
    world.directories.insert(id.to_owned());
    if c["State"]["Pid"].as_u64().unwrap_or(0) > 0 {
        processes(world, id, c);
    }
    // Also of one that does not run, when another one is in its namespace.
    let net = &c["NetworkSettings"];
    world.namespaces.extend(Some(text(&net["SandboxID"])).filter(|id| !id.is_empty()));
    let endpoints = net["Networks"].as_object().into_iter().flatten();
    let addresses: Vec<String> =
        endpoints.map(|(_, e)| text(&e["IPAddress"])).filter(|a| !a.is_empty()).collect();
    world.links += addresses.len();
    let main = text(&net["Networks"]["bridge"]["IPAddress"]);
    for (port, bindings) in net["Ports"].as_object().into_iter().flatten() {
        let Some((port, proto)) = port.split_once('/') else { continue };
        for binding in bindings.as_array().into_iter().flatten() {
            let on_host = text(&binding["HostPort"]);
            // Of a port on all addresses there is a binding for IPv6 too.
            if !text(&binding["HostIp"]).contains(':') {
                world.published.insert(format!("{proto} . {on_host} -> {main} . {port}"));
            }
        }
    }
}

fn processes(world: &mut World, id: &str, c: &Value) {
    for set in [&mut world.shims, &mut world.runs, &mut world.cgroups] {
        set.insert(id.to_owned());
    }
    world.mounts.insert(format!("overlay/{id}/merged"));
    for (number, mount) in c["Mounts"].as_array().into_iter().flatten().enumerate() {
        if text(&mount["Mode"]).contains("idmap=") {
            world.mounts.insert(format!("containers/{id}/owners/{number}"));
        }
    }
    if c["State"]["Paused"] == true {
        world.frozen.insert(id.to_owned());
    }
    match c["HostConfig"]["Memory"].as_u64() {
        Some(bytes) if bytes > 0 => drop(world.limits.insert(limit_of(id, bytes))),
        _ => {}
    }
}

fn list(h: &Host, path: &str) -> Value {
    h.api("GET", path, None).json()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn limit_of(id: &str, bytes: u64) -> String {
    format!("{id} {bytes}")
}

fn name(path: &Path) -> Option<String> {
    Some(path.file_name()?.to_str()?.to_owned())
}

fn is_id(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}

fn names(dir: &Path, wanted: impl Fn(&str) -> bool) -> Names {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| name(&e.path())).filter(|n| wanted(n)).collect()
}

/// The containers' cgroups, in every hierarchy.
fn cgroups(parent: &str) -> Vec<PathBuf> {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path());
    let dirs = hierarchies.chain([root.to_owned()]).map(|h| h.join(parent));
    dirs.flat_map(|dir| {
        names(&dir, is_id).into_iter().map(move |id| dir.join(id)).collect::<Vec<_>>()
    })
    .collect()
}

/// The mount points below `dir`, as the host sees them.
fn mounts(h: &Host, dir: &Path) -> Names {
    let table = std::fs::read_to_string(format!("/proc/{}/mountinfo", h.pid())).unwrap_or_default();
    let points = table.lines().filter_map(|l| l.split(' ').nth(4));
    let below = points.filter_map(|p| Path::new(p).strip_prefix(dir).ok());
    below.map(|p| p.display().to_string()).collect()
}

/// The shims of an exec-root: `CONTAINER` or `CONTAINER EXEC`.
fn shims(exec_root: &Path) -> Vec<String> {
    let argument = |words: &[&str], flag: &str| {
        words
            .iter()
            .position(|w| *w == flag)
            .and_then(|at| words.get(at + 1))
            .map(|w| (*w).to_owned())
    };
    let shim = |process: PathBuf| {
        let line = std::fs::read_to_string(process.join("cmdline")).ok()?;
        let words: Vec<&str> = line.split('\0').collect();
        let own = words.get(1) == Some(&"shim")
            && argument(&words, "--exec-root").as_deref() == exec_root.to_str();
        let id = argument(&words, "--id").filter(|_| own)?;
        Some(match argument(&words, "--exec") {
            Some(exec) => format!("{id} {exec}"),
            None => id,
        })
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes.map(|e| e.path()).filter_map(shim).collect()
}

/// The elements `tcp . 8080 comment "ID" : 172.17.0.2 . 80` of a ruleset.
fn published(rules: &str) -> Names {
    let pieces: Vec<&str> = rules.split(" comment \"").collect();
    let element = |pair: &[&str]| {
        let (_, target) = pair[1].split_once("\" : ")?;
        let mut target = target.split_whitespace();
        let address: std::net::Ipv4Addr = target.next()?.parse().ok()?;
        let port = target.nth(1)?.trim_end_matches(',');
        let key: Vec<&str> = pair[0].rsplit(['{', ',']).next()?.split_whitespace().collect();
        Some(format!("{} -> {address} . {port}", key.join(" ")))
    };
    pieces.windows(2).filter_map(element).collect()
}

/// The policies of a ruleset, the IPv4 addresses that each is about, and those
/// of endpoints that can't go around them.
fn policies(rules: &str) -> Names {
    let mut found = Names::new();
    for set in rules.split("\tset ").skip(1) {
        let name = set.split(' ').next().unwrap_or_default();
        let of = match name.strip_prefix("of4.") {
            Some(policy) => {
                found.insert(policy.to_owned());
                policy
            }
            None if name == "guarded4" => "guarded",
            None => continue,
        };
        let body = set.split("\n\t}").next().unwrap_or_default();
        let elements = body.split("elements = {").nth(1).unwrap_or_default();
        for word in elements.split([' ', ',', '}', '\n', '\t']) {
            if word.parse::<std::net::Ipv4Addr>().is_ok() {
                found.insert(format!("{of} {word}"));
            }
        }
    }
    found
}
