//! Everything about one container, as `docker inspect` shows it.
//!
//! Be aware: the templates below are what dockerd 28 answers for a container
//! of which nothing was said. What is known is put over them, so that every
//! field is there and `null`, `[]` and `""` stand where clients expect them.

use std::path::Path;
use std::time::Duration;

use sampan_types::ExecId;
use serde_json::{Value, json};

use super::{json as parts, list};
use crate::container::state::Health;
use crate::record::{ContainerRecord, NetworkMode};
use crate::{Engine, Result};

/// How long an inspection waits to know who can reach published ports.
const EXPOSURE: Duration = Duration::from_millis(250);

impl Engine {
    /// A container as dockerd's `GET /containers/{id}/json` answers.
    ///
    /// # Errors
    /// No such container; with `size`, those of the file system.
    pub async fn container_inspect(&self, id: &str, size: bool) -> Result<Value> {
        let container = self.container(id)?;
        let record = container.record();
        let config = self.config();
        let place = Place {
            data_root: &config.data_root,
            exec_root: &config.exec_root,
            default_runtime: config.default_runtime.as_deref().unwrap_or("sampan"),
        };
        let mut out = inspect(&record, &place, &self.exec_ids(container.id()));
        out["GraphDriver"] = self.graph_driver(&record);
        let links = self.shown_links(&record);
        if !links.is_empty() {
            out["HostConfig"]["Links"] = json!(links);
        }
        self.add_exposure(&record, &mut out).await;
        self.trim_after(record.wished_ports.size());
        if size {
            self.add_sizes(container.id(), &mut out).await?;
        }
        Ok(out)
    }

    /// Says of each published port who can reach it. An answer that takes long
    /// is left out: nobody waits for the network to look at a container.
    async fn add_exposure(&self, record: &ContainerRecord, out: &mut Value) {
        let Some(sandbox) = record.networking.sandbox.as_ref() else { return };
        if record.networking.ports.is_empty() {
            return;
        }
        let known = tokio::time::timeout(EXPOSURE, self.networks().exposure(sandbox)).await;
        let Ok(Ok(exposures)) = known else { return };
        for (port, exposure) in exposures {
            let name = format!("{}/{}", port.container_port, port.protocol);
            let places = out["NetworkSettings"]["Ports"][name].as_array_mut();
            for place in places.into_iter().flatten() {
                let is = |key: &str, value: String| place[key] == value;
                if is("HostIp", port.host_ip.to_string())
                    && is("HostPort", port.host_port.to_string())
                {
                    place["Exposure"] = exposure.to_string().into();
                }
            }
        }
    }

    /// The directories of the container's file system.
    fn graph_driver(&self, record: &ContainerRecord) -> Value {
        let Ok(paths) = self.image_store().snapshot(&record.id) else {
            return json!({ "Data": null, "Name": "overlay2" });
        };
        let lower: Vec<_> = paths.lower.iter().map(|p| p.to_string_lossy()).collect();
        json!({
            "Data": {
                "ID": record.id,
                "LowerDir": lower.join(":"),
                "MergedDir": paths.merged.to_string_lossy(),
                "UpperDir": paths.upper.to_string_lossy(),
                "WorkDir": paths.work.to_string_lossy(),
            },
            "Name": "overlay2",
        })
    }
}

/// What an inspection says about the daemon.
struct Place<'a> {
    data_root: &'a Path,
    exec_root: &'a Path,
    default_runtime: &'a str,
}

/// All but what the image store knows. Pure.
fn inspect(record: &ContainerRecord, place: &Place<'_>, execs: &[ExecId]) -> Value {
    let dir = record.data_dir(place.data_root);
    // The files are made at the first start.
    let file = |name: &str| match record.generation {
        0 => String::new(),
        _ => dir.join(name).to_string_lossy().into_owned(),
    };
    let whole = record.whole();
    json!({
        "Id": record.id,
        "Created": record.created.to_string(),
        "Path": record.path,
        "Args": record.args,
        "State": state(record),
        "Image": record.image,
        "ResolvConfPath": file("resolv.conf"),
        "HostnamePath": file("hostname"),
        "HostsPath": file("hosts"),
        "LogPath": log_file(record).map(|f| file(&f)).unwrap_or_default(),
        "Name": format!("/{}", record.name),
        "RestartCount": record.restart_count,
        "Driver": "overlay2",
        "Platform": record.os,
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": parts::null_if_empty(execs),
        "HostConfig": host_config(&whole, place),
        "GraphDriver": { "Data": null, "Name": "overlay2" },
        "Mounts": parts::mounts(record),
        "Config": parts::config(&whole.config, json!({})),
        "NetworkSettings": network_settings(record, place),
    })
}

fn state(record: &ContainerRecord) -> Value {
    let state = &record.state;
    let mut out = json!(state.to_docker());
    if let Some(health) = &state.health {
        out["Health"] = health_json(health);
    }
    out
}

fn health_json(health: &Health) -> Value {
    let log: Vec<Value> = health
        .log
        .iter()
        .map(|probe| {
            json!({
                "Start": probe.start.to_string(),
                "End": probe.end.to_string(),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            })
        })
        .collect();
    json!({
        "Status": health.status.as_str(),
        "FailingStreak": health.failing_streak,
        "Log": log,
    })
}

/// The log's file below the container's directory, if its driver has one.
fn log_file(record: &ContainerRecord) -> Option<String> {
    let driver = record.host_config.log_config.as_ref().and_then(|l| l.typ.as_deref());
    match driver.unwrap_or("json-file") {
        "json-file" | "" => Some(format!("{}-json.log", record.id)),
        "local" => Some("local-logs/container.log".to_owned()),
        _ => None,
    }
}

fn host_config_template() -> Value {
    let general = json!({
        "Binds": null,
        "ContainerIDFile": "",
        "LogConfig": { "Type": "json-file", "Config": {} },
        "NetworkMode": "default",
        "PortBindings": {},
        "RestartPolicy": { "Name": "no", "MaximumRetryCount": 0 },
        "AutoRemove": false,
        "VolumeDriver": "",
        "VolumesFrom": null,
        "ConsoleSize": [0, 0],
        "CapAdd": null,
        "CapDrop": null,
        "CgroupnsMode": "private",
        "Dns": [],
        "DnsOptions": [],
        "DnsSearch": [],
        "ExtraHosts": null,
        "GroupAdd": null,
        "IpcMode": "private",
        "Cgroup": "",
        "Links": null,
        "OomScoreAdj": 0,
        "PidMode": "",
        "Privileged": false,
        "PublishAllPorts": false,
        "ReadonlyRootfs": false,
        "SecurityOpt": null,
        "UTSMode": "",
        "UsernsMode": "",
        "ShmSize": 67_108_864,
        "Runtime": "",
        "Isolation": "",
        "MaskedPaths": null,
        "ReadonlyPaths": null,
    });
    let resources = json!({
        "CpuShares": 0,
        "Memory": 0,
        "NanoCpus": 0,
        "CgroupParent": "",
        "BlkioWeight": 0,
        "BlkioWeightDevice": [],
        "BlkioDeviceReadBps": [],
        "BlkioDeviceWriteBps": [],
        "BlkioDeviceReadIOps": [],
        "BlkioDeviceWriteIOps": [],
        "CpuPeriod": 0,
        "CpuQuota": 0,
        "CpuRealtimePeriod": 0,
        "CpuRealtimeRuntime": 0,
        "CpusetCpus": "",
        "CpusetMems": "",
        "Devices": [],
        "DeviceCgroupRules": null,
        "DeviceRequests": null,
        "MemoryReservation": 0,
        "MemorySwap": 0,
        "MemorySwappiness": null,
        "OomKillDisable": null,
        "PidsLimit": null,
        "Ulimits": [],
        "CpuCount": 0,
        "CpuPercent": 0,
        "IOMaximumIOps": 0,
        "IOMaximumBandwidth": 0,
    });
    parts::overlay(general, &resources, &[])
}

fn host_config(record: &ContainerRecord, place: &Place<'_>) -> Value {
    let deep = ["LogConfig", "RestartPolicy"];
    let mut out = parts::overlay(host_config_template(), &record.host_config, &deep);
    out["NetworkMode"] = json!(list::network_mode(record));
    if out["Runtime"] == "" {
        out["Runtime"] = json!(place.default_runtime);
    }
    // dockerd writes both fields of a binding, whichever was given.
    for bindings in out["PortBindings"].as_object_mut().into_iter().flat_map(|m| m.values_mut()) {
        for binding in bindings.as_array_mut().into_iter().flatten() {
            *binding = parts::overlay(json!({ "HostIp": "", "HostPort": "" }), binding, &[]);
        }
    }
    out
}

fn network_settings(record: &ContainerRecord, place: &Place<'_>) -> Value {
    let networking = &record.networking;
    let networks = parts::networks(record);
    let key = match (&networking.mode, &networking.sandbox) {
        (NetworkMode::Host, _) => place.exec_root.join("netns/default"),
        (_, Some(sandbox)) => place.exec_root.join("netns").join(sandbox.as_str()),
        (_, None) => Default::default(),
    };
    let mut out = json!({
        "Bridge": "",
        "SandboxID": networking.sandbox.as_ref().map_or("", |s| s.as_str()),
        "SandboxKey": key.to_string_lossy(),
        "Ports": parts::port_map(record),
        "HairpinMode": false,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "SecondaryIPAddresses": null,
        "SecondaryIPv6Addresses": null,
        "EndpointID": "",
        "Gateway": "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": "",
        "IPPrefixLen": 0,
        "IPv6Gateway": "",
        "MacAddress": "",
    });
    // The default bridge's endpoint is shown at the top as well.
    if let Some(bridge) = networks.get("bridge") {
        for key in [
            "EndpointID",
            "Gateway",
            "GlobalIPv6Address",
            "GlobalIPv6PrefixLen",
            "IPAddress",
            "IPPrefixLen",
            "IPv6Gateway",
            "MacAddress",
        ] {
            out[key] = bridge[key].clone();
        }
    }
    out["Networks"] = Value::Object(networks);
    out
}

#[cfg(test)]
mod tests {
    use sampan_net::Protocol;
    use sampan_types::{EndpointId, NetworkId, SandboxId, Timestamp, docker};

    use super::*;
    use crate::container::tests::record as blank;
    use crate::record::{EndpointLive, EndpointRecord, PortRecord, Status, WishedPorts};

    fn shown(record: &ContainerRecord) -> Value {
        let place = Place {
            data_root: Path::new("/data"),
            exec_root: Path::new("/run"),
            default_runtime: "sampan",
        };
        inspect(record, &place, &[])
    }

    fn sorted_keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_new_container_has_dockerds_shape() {
        let out = shown(&blank(&"ab".repeat(32), "web"));
        assert_eq!(
            sorted_keys(&out).join(" "),
            "AppArmorProfile Args Config Created Driver ExecIDs GraphDriver HostConfig HostnamePath \
             HostsPath Id Image LogPath MountLabel Mounts Name NetworkSettings Path Platform \
             ProcessLabel ResolvConfPath RestartCount State"
        );
        assert_eq!(
            sorted_keys(&out["State"]).join(" "),
            "Dead Error ExitCode FinishedAt OOMKilled Paused Pid Restarting Running StartedAt Status"
        );
        assert_eq!(
            sorted_keys(&out["Config"]).join(" "),
            "AttachStderr AttachStdin AttachStdout Cmd Domainname Entrypoint Env Hostname Image \
             Labels OnBuild OpenStdin StdinOnce Tty User Volumes WorkingDir"
        );
        assert_eq!(sorted_keys(&out["HostConfig"]), sorted_keys(&host_config_template()));
        assert_eq!(out["Name"], "/web");
        assert_eq!(out["State"]["StartedAt"], "0001-01-01T00:00:00Z");
        for (pointer, value) in [
            ("/Args", json!([])),
            ("/ExecIDs", json!(null)),
            ("/Mounts", json!([])),
            ("/LogPath", json!("")),
            ("/Config/Volumes", json!(null)),
            ("/Config/Labels", json!({})),
            ("/HostConfig/Binds", json!(null)),
            ("/HostConfig/Dns", json!([])),
            ("/HostConfig/PortBindings", json!({})),
            ("/HostConfig/RestartPolicy", json!({"Name": "no", "MaximumRetryCount": 0})),
            ("/NetworkSettings/Ports", json!({})),
            ("/NetworkSettings/SandboxID", json!("")),
            ("/NetworkSettings/SecondaryIPAddresses", json!(null)),
        ] {
            assert_eq!(out.pointer(pointer), Some(&value), "{pointer}");
        }
    }

    fn serving() -> ContainerRecord {
        let mut record = blank(&"ab".repeat(32), "web");
        record.generation = 1;
        record.state.status = Status::Running;
        record.state.started = Timestamp::from_nanos(1_700_000_000_000_000_000);
        record.state.health = Some(Health::default());
        let exposed = ["80/tcp".to_owned(), "53/udp".to_owned()];
        let binding = docker::PortBinding { host_ip: None, host_port: Some("8080".to_owned()) };
        let bindings = [("80/tcp".to_owned(), Some(vec![binding]))].into();
        record.wished_ports = WishedPorts::new(Some(&exposed), Some(&bindings));
        record.networking.sandbox = Some(SandboxId::random());
        record.networking.ports.push(PortRecord {
            proto: Protocol::Tcp,
            container_port: 80,
            host_ip: "0.0.0.0".parse().unwrap(),
            host_port: 8080,
        });
        let mut endpoint =
            EndpointRecord::new(NetworkId::random(), docker::EndpointSettings::default(), 0);
        endpoint.live = Some(EndpointLive {
            endpoint: EndpointId::random(),
            address: Some("172.17.0.2/16".parse().unwrap()),
            address6: None,
            gateway: Some("172.17.0.1".parse().unwrap()),
            gateway6: None,
            mac: Some("02:42:ac:11:00:02".to_owned()),
        });
        record.networking.endpoints.insert("bridge".to_owned(), endpoint.clone());
        record.networking.endpoints.insert("mine".to_owned(), endpoint);
        record
    }

    #[test]
    fn a_running_container_shows_its_network() {
        let record = serving();
        let out = shown(&record);
        let network = &out["NetworkSettings"];
        assert_eq!(
            network["Ports"],
            json!({"53/udp": null, "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]})
        );
        assert_eq!(
            (&network["IPAddress"], &network["IPPrefixLen"]),
            (&json!("172.17.0.2"), &json!(16))
        );
        assert_eq!(
            sorted_keys(&network["Networks"]["bridge"]).join(" "),
            "Aliases DNSNames DriverOpts EndpointID Gateway GlobalIPv6Address GlobalIPv6PrefixLen \
             GwPriority IPAMConfig IPAddress IPPrefixLen IPv6Gateway Links MacAddress NetworkID"
        );
        assert_eq!(network["Networks"]["bridge"]["DNSNames"], json!(null));
        assert_eq!(network["Networks"]["mine"]["DNSNames"], json!(["web", "abababababab"]));
        assert_eq!(
            out["HostConfig"]["PortBindings"],
            json!({"80/tcp": [{"HostIp": "", "HostPort": "8080"}]})
        );
        assert_eq!(
            out["State"]["Health"],
            json!({"Status": "starting", "FailingStreak": 0, "Log": []})
        );
        let id = &record.id;
        assert_eq!(out["LogPath"], json!(format!("/data/containers/{id}/{id}-json.log")));
        let sandbox = record.networking.sandbox.as_ref().unwrap();
        assert_eq!(network["SandboxKey"], json!(format!("/run/netns/{sandbox}")));
    }

    #[test]
    fn an_ended_container_shows_no_address() {
        let mut record = serving();
        record.state.status = Status::Exited;
        record.networking.sandbox = None;
        for endpoint in record.networking.endpoints.values_mut() {
            endpoint.live = None;
        }
        let out = shown(&record);
        assert_eq!(out["NetworkSettings"]["Ports"], json!({}));
        assert_eq!(out["NetworkSettings"]["IPAddress"], "");
        assert_eq!(out["NetworkSettings"]["Networks"]["bridge"]["IPPrefixLen"], 0);
    }
}
