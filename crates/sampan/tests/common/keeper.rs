//! A volume plugin.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sampan_testkit::Plugin;
use serde_json::{Value, json};

/// A plugin that keeps volumes in directories below `root`.
pub fn start_keeper(
    socket: &Path,
    root: PathBuf,
    before: impl Fn(&str) + Send + 'static,
) -> Plugin {
    let mut made: BTreeMap<String, Value> = BTreeMap::new();
    made.insert("found".to_owned(), json!({}));
    Plugin::start(socket, move |method, request| {
        before(method);
        let name = request["Name"].as_str().unwrap_or_default().to_owned();
        let place = root.join(&name);
        let known = made.contains_key(&name);
        Ok(match method {
            "Plugin.Activate" => json!({ "Implements": ["VolumeDriver"] }),
            "VolumeDriver.Capabilities" => json!({ "Capabilities": { "Scope": "global" } }),
            "VolumeDriver.Create" if request["Opts"]["bad"].is_string() => {
                return Err("no such option: bad".to_owned());
            }
            "VolumeDriver.Create" => {
                std::fs::create_dir_all(&place).expect("make a volume's directory");
                made.insert(name, request["Opts"].clone());
                json!({ "Err": "" })
            }
            "VolumeDriver.List" => {
                let list: Vec<_> = made.keys().map(|n| json!({ "Name": n })).collect();
                json!({ "Volumes": list })
            }
            "VolumeDriver.Get" | "VolumeDriver.Remove" | "VolumeDriver.Mount" if !known => {
                return Err(format!("volume {name} is unknown"));
            }
            "VolumeDriver.Get" => json!({ "Volume": {
                "Name": name, "Mountpoint": place, "Status": { "opts": made[&name] }
            } }),
            "VolumeDriver.Mount" => {
                std::fs::create_dir_all(&place).expect("make a volume's directory");
                json!({ "Mountpoint": place })
            }
            "VolumeDriver.Remove" => {
                made.remove(&name);
                let _ = std::fs::remove_dir_all(&place);
                json!({})
            }
            _ => json!({}),
        })
    })
}
