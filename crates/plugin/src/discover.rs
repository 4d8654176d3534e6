//! Where plugins are: `NAME.sock` in a directory of sockets, `NAME.spec` with
//! an address or `NAME.json` with a description in the directories of these.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::error::PluginError;

/// The directory of sockets, and those of descriptions, that dockerd looks at.
const PLACES: [&str; 3] = ["/run/docker/plugins", "/etc/docker/plugins", "/usr/lib/docker/plugins"];

/// The longest description that is read.
const LONGEST: u64 = 64 * 1024;

/// Where a plugin listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A unix socket.
    Unix(PathBuf),
    /// A TCP port without TLS.
    Tcp(SocketAddr),
}

/// The directories in which plugins are looked for, in their order.
#[derive(Debug)]
pub struct Places(Vec<PathBuf>);

/// `NAME.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Description {
    addr: String,
    #[serde(rename = "TLSConfig")]
    tls: Option<serde_json::Value>,
}

impl Places {
    /// `further` directories before dockerd's.
    #[must_use]
    pub fn with(further: Vec<PathBuf>) -> Self {
        Self(further.into_iter().chain(PLACES.map(PathBuf::from)).collect())
    }

    /// Only these directories.
    #[must_use]
    pub fn only(places: Vec<PathBuf>) -> Self {
        Self(places)
    }

    /// The names of all plugins, sorted.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let mut names = BTreeSet::new();
        for place in &self.0 {
            for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
                let path = entry.path();
                let nested = || nested_socket(&path).exists();
                let known =
                    path.extension().is_some_and(|e| e == "sock" || e == "spec" || e == "json");
                if let Some(stem) = path.file_stem().filter(|_| known || nested()) {
                    names.insert(stem.to_string_lossy().into_owned());
                }
            }
        }
        names.into_iter().collect()
    }

    /// Where the plugin of this name listens.
    ///
    /// # Errors
    /// There is none, or its description makes no sense.
    pub fn find(&self, name: &str) -> Result<Address, PluginError> {
        // A name that leads elsewhere is none of a plugin.
        let plain = !name.is_empty() && !name.contains('/') && !name.starts_with('.');
        for place in self.0.iter().filter(|_| plain) {
            let socket = place.join(format!("{name}.sock"));
            for socket in [socket, nested_socket(&place.join(name))] {
                if socket.exists() {
                    return Ok(Address::Unix(socket));
                }
            }
            for (extension, read) in [("spec", spec as Reader), ("json", description)] {
                let path = place.join(format!("{name}.{extension}"));
                if path.exists() {
                    return read_file(&path).and_then(|text| read(&text)).map_err(|reason| {
                        PluginError::Description { name: name.to_owned(), path, reason }
                    });
                }
            }
        }
        Err(PluginError::NotFound { name: name.to_owned(), places: self.0.clone() })
    }
}

type Reader = fn(&str) -> Result<Address, String>;

/// `NAME/NAME.sock`.
fn nested_socket(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    dir.join(format!("{name}.sock"))
}

fn read_file(path: &Path) -> Result<String, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > LONGEST {
        return Err(format!("{length} bytes are more than a description can have"));
    }
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

fn spec(text: &str) -> Result<Address, String> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix://") {
        return Ok(Address::Unix(PathBuf::from(path)));
    }
    let Some(place) = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("http://")) else {
        return Err(format!("{text:?} is no address: unix:///PATH or tcp://ADDRESS:PORT expected"));
    };
    let place =
        place.strip_prefix("localhost").map_or(place.to_owned(), |p| format!("127.0.0.1{p}"));
    let place = place.trim_end_matches('/').to_owned();
    place.parse().map(Address::Tcp).map_err(|_| {
        format!("{place:?} is no address with a port: names are not looked up for plugins")
    })
}

fn description(text: &str) -> Result<Address, String> {
    let description: Description = serde_json::from_str(text).map_err(|e| e.to_string())?;
    if description.tls.is_some_and(|t| !t.is_null()) {
        return Err("TLSConfig is not supported: use a unix socket".to_owned());
    }
    spec(&description.addr)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(files: &[(&str, &str)]) -> (tempfile::TempDir, Places) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let places = Places::only(vec![dir.path().join("absent"), dir.path().to_owned()]);
        (dir, places)
    }

    #[test]
    fn every_form_is_found() {
        let (dir, places) = places(&[
            ("one.sock", ""),
            ("two/two.sock", ""),
            ("three.spec", "unix:///x/y.sock\n"),
            ("four.spec", "tcp://localhost:8080"),
            ("five.json", r#"{"Name":"five","Addr":"http://10.0.0.1:99/"}"#),
            ("other/readme", ""),
        ]);
        let unix = |path: &str| Address::Unix(dir.path().join(path));
        assert_eq!(places.find("one").unwrap(), unix("one.sock"));
        assert_eq!(places.find("two").unwrap(), unix("two/two.sock"));
        assert_eq!(places.find("three").unwrap(), Address::Unix("/x/y.sock".into()));
        assert_eq!(places.find("four").unwrap(), Address::Tcp("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(places.find("five").unwrap(), Address::Tcp("10.0.0.1:99".parse().unwrap()));
        assert_eq!(places.names(), ["five", "four", "one", "three", "two"]);
    }

    #[test]
    fn others_are_refused_with_the_reason() {
        let (_dir, places) = places(&[
            ("what.spec", "what"),
            ("name.spec", "tcp://example.org:80"),
            ("tls.json", r#"{"Addr":"tcp://1.2.3.4:5","TLSConfig":{"CAFile":"x"}}"#),
            ("json.json", "{"),
        ]);
        let reason = |name: &str| places.find(name).unwrap_err().to_string();
        assert!(reason("what").contains("what.spec: \"what\" is no address"));
        assert!(reason("name").contains("not looked up"));
        assert!(reason("tls").contains("TLSConfig is not supported"));
        assert!(reason("json").contains("EOF"));
        let absent = reason("none");
        assert!(absent.contains("\"none\" not found") && absent.contains("none.sock"), "{absent}");
        for name in ["", "../what", ".", "a/b"] {
            assert!(matches!(places.find(name), Err(PluginError::NotFound { .. })), "{name:?}");
        }
    }
}
