//! Pieces of JSON that list and inspect share. Pure.

use std::collections::{BTreeMap, BTreeSet};

use sampan_types::docker;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::record::{
    ContainerRecord, EndpointRecord, MountKind, MountRecord, NetworkMode, PortRecord,
};

/// A container's or image's `Config` as dockerd writes it; `labels` stand
/// there when the configuration has none.
pub(crate) fn config(config: &impl Serialize, labels: Value) -> Value {
    let template = json!({
        "Hostname": "",
        "Domainname": "",
        "User": "",
        "AttachStdin": false,
        "AttachStdout": false,
        "AttachStderr": false,
        "Tty": false,
        "OpenStdin": false,
        "StdinOnce": false,
        "Env": null,
        "Cmd": null,
        "Image": "",
        "Volumes": null,
        "WorkingDir": "",
        "Entrypoint": null,
        "OnBuild": null,
        "Labels": labels,
    });
    let mut out = overlay(template, config, &[]);
    let empty = |v: &Value| v.as_object().is_some_and(serde_json::Map::is_empty);
    if empty(&out["Volumes"]) {
        out["Volumes"] = Value::Null;
    }
    if let Some(fields) = out.as_object_mut() {
        fields.retain(|key, value| key != "ExposedPorts" || !empty(value));
    }
    out
}

/// The fields of `value` that are there, put over `template`'s. A key of
/// `deep` is an object whose own fields are put over the template's.
pub(crate) fn overlay(template: Value, value: &impl Serialize, deep: &[&str]) -> Value {
    let (Value::Object(mut out), Ok(Value::Object(over))) = (template, serde_json::to_value(value))
    else {
        return Value::Null;
    };
    for (key, value) in over {
        match (out.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if deep.contains(&key.as_str()) => {
                old.extend(new);
            }
            (_, value) => {
                out.insert(key, value);
            }
        }
    }
    Value::Object(out)
}

/// `null` for nothing, as Go writes a nil slice or map.
pub(crate) fn null_if_empty<T: Serialize>(list: &[T]) -> Value {
    if list.is_empty() { Value::Null } else { json!(list) }
}

/// The container's mounts: items of `MountPoint`.
pub(crate) fn mounts(record: &ContainerRecord) -> Vec<Value> {
    let shown = |m: &&MountRecord| m.kind != MountKind::Tmpfs || is_mount_option(record, m);
    record.mounts.iter().filter(shown).map(mount).collect()
}

/// `--tmpfs` is not shown among the mounts, `--mount type=tmpfs` is.
fn is_mount_option(record: &ContainerRecord, mount: &MountRecord) -> bool {
    let target = mount.destination.to_string_lossy();
    let mounts = record.host_config.mounts.iter().flatten();
    mounts.filter_map(|m| m.target.as_deref()).any(|t| t == target)
}

fn mount(mount: &MountRecord) -> Value {
    let kind = match mount.kind {
        MountKind::Bind => "bind",
        MountKind::Volume => "volume",
        MountKind::Tmpfs => "tmpfs",
        MountKind::Image => "image",
    };
    let mut out = json!({
        "Type": kind,
        "Source": mount.source.to_string_lossy(),
        "Destination": mount.destination.to_string_lossy(),
        "Mode": mount.mode,
        "RW": mount.rw,
        "Propagation": mount.propagation,
    });
    if let Some(name) = &mount.volume {
        out["Name"] = json!(name);
        out["Driver"] = json!(mount.driver.as_deref().unwrap_or("local"));
    }
    if let Some(image) = &mount.image {
        out["Name"] = json!(image.name);
        out["Source"] = json!(image.id);
    }
    out
}

/// What a container shows of its networks: name to `EndpointSettings`.
pub(crate) fn networks(record: &ContainerRecord) -> Map<String, Value> {
    let endpoints = record.networking.endpoints.iter();
    endpoints.map(|(name, e)| (name.clone(), endpoint(record, name, e))).collect()
}

/// One `EndpointSettings` as dockerd writes it: every field is there.
pub(crate) fn endpoint(record: &ContainerRecord, network: &str, e: &EndpointRecord) -> Value {
    let template = json!({
        "IPAMConfig": null,
        "Links": null,
        "Aliases": null,
        "MacAddress": "",
        "DriverOpts": null,
        "GwPriority": 0,
        "NetworkID": "",
        "EndpointID": "",
        "Gateway": "",
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "DNSNames": null,
    });
    let mut out = overlay(template, &e.config, &[]);
    out["NetworkID"] = json!(e.network);
    if !super::super::networks::PREDEFINED.contains(&network) {
        out["DNSNames"] = json!(dns_names(record, e));
    }
    let Some(live) = &e.live else {
        for key in ["Gateway", "IPAddress", "IPv6Gateway", "GlobalIPv6Address", "EndpointID"] {
            out[key] = json!("");
        }
        out["IPPrefixLen"] = json!(0);
        out["GlobalIPv6PrefixLen"] = json!(0);
        return out;
    };
    let text = |v: Option<String>| json!(v.unwrap_or_default());
    out["EndpointID"] = json!(live.endpoint);
    out["IPAddress"] = text(live.address.map(|a| a.addr().to_string()));
    out["IPPrefixLen"] = json!(live.address.map_or(0, |a| a.prefix_len()));
    out["Gateway"] = text(live.gateway.map(|a| a.to_string()));
    out["GlobalIPv6Address"] = text(live.address6.map(|a| a.addr().to_string()));
    out["GlobalIPv6PrefixLen"] = json!(live.address6.map_or(0, |a| a.prefix_len()));
    out["IPv6Gateway"] = text(live.gateway6.map(|a| a.to_string()));
    out["MacAddress"] = text(live.mac.clone());
    out
}

/// The names by which others on a user's network know a container.
pub(crate) fn dns_names(record: &ContainerRecord, e: &EndpointRecord) -> Vec<String> {
    let mut names = vec![record.name.to_string()];
    names.extend(e.config.aliases.iter().flatten().cloned());
    names.push(record.id.short().to_owned());
    names.extend(record.config.hostname.clone().filter(|h| !h.is_empty()));
    let mut seen = BTreeSet::new();
    names.retain(|n| seen.insert(n.clone()));
    names
}

/// The ports that a container exposes or publishes, `80/tcp`, each with the
/// places on the host that lead to it.
fn ports(record: &ContainerRecord) -> BTreeMap<(u16, String), Vec<&PortRecord>> {
    let mut all: BTreeMap<(u16, String), Vec<&PortRecord>> = BTreeMap::new();
    // Of one that does not run, others may be in the namespace.
    let lives = record.state.has_process() || record.networking.sandbox.is_some();
    if record.networking.mode != NetworkMode::Private || !lives {
        return all;
    }
    let wished = &record.wished_ports;
    for text in wished.exposed().into_iter().chain(wished.bindings().into_keys()) {
        if let Some(port) = parse_port(&text) {
            all.entry(port).or_default();
        }
    }
    for port in &record.networking.ports {
        all.entry((port.container_port, port.proto.to_string())).or_default().push(port);
    }
    all
}

/// `80/udp`, or `80` for tcp.
fn parse_port(text: &str) -> Option<(u16, String)> {
    let (port, proto) = text.split_once('/').unwrap_or((text, "tcp"));
    Some((port.parse().ok()?, proto.to_ascii_lowercase()))
}

/// The ports as inspect shows them: `null` for what is only exposed.
pub(crate) fn port_map(record: &ContainerRecord) -> Value {
    let shown = ports(record).into_iter().map(|((port, proto), places)| {
        let places: Vec<Value> = places
            .iter()
            .map(
                |p| json!({ "HostIp": p.host_ip.to_string(), "HostPort": p.host_port.to_string() }),
            )
            .collect();
        (format!("{port}/{proto}"), null_if_empty(&places))
    });
    Value::Object(shown.collect())
}

/// The ports as the list shows them: items of `PortSummary`.
pub(crate) fn port_list(record: &ContainerRecord) -> Vec<docker::PortSummary> {
    let summary = |port, proto: &str, place: Option<&PortRecord>| docker::PortSummary {
        ip: place.map(|p| p.host_ip.to_string()),
        private_port: port,
        public_port: place.map(|p| p.host_port),
        typ: proto.parse().ok(),
    };
    let mut out = Vec::new();
    for ((port, proto), places) in ports(record) {
        if places.is_empty() {
            out.push(summary(port, &proto, None));
        }
        out.extend(places.into_iter().map(|p| summary(port, &proto, Some(p))));
    }
    out
}
