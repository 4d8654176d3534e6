//! Image configurations (image-spec v1.1 `config.md`, with Docker's
//! additions). The blob as it came is what the image id is the digest of;
//! this is the reading of it.

use sampan_types::docker;
use serde::{Deserialize, Serialize};

use crate::{Digest, ImageError, Platform};

/// What a configuration blob says.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ConfigFile {
    /// When the image was made (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// The message given to `commit` or `import`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// `amd64` …
    #[serde(default)]
    pub architecture: String,
    /// `v8` …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// `linux`.
    #[serde(default)]
    pub os: String,
    /// The version of the operating system (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// What a container of this image runs, and how.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<docker::ImageConfig>,
    /// The layers.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How the image came about, oldest step first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub history: Option<Vec<HistoryEntry>>,
}

/// The layers of an image, lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// The digests of the uncompressed archives.
    #[serde(default)]
    pub diff_ids: Vec<Digest>,
}

fn layers() -> String {
    "layers".to_owned()
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: layers(), diff_ids: Vec::new() }
    }
}

/// One step of an image's history.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// By which command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether the step made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ConfigFile {
    /// Reads a configuration blob.
    ///
    /// # Errors
    /// [`ImageError::Broken`] when it is not one.
    pub fn parse(blob: &[u8]) -> Result<Self, ImageError> {
        // A list would be read as the fields in their order.
        if !blob.trim_ascii_start().starts_with(b"{") {
            return Err(ImageError::Broken("image configuration: it is no JSON object".into()));
        }
        let config: Self = serde_json::from_slice(blob)
            .map_err(|e| ImageError::Broken(format!("image configuration: {e}")))?;
        if config.rootfs.kind != "layers" {
            return Err(ImageError::Broken(format!(
                "image configuration: rootfs type {:?} is unknown",
                config.rootfs.kind
            )));
        }
        Ok(config)
    }

    /// The blob, the same for equal configurations.
    ///
    /// # Errors
    /// [`ImageError::Broken`] when it can't be written as JSON.
    pub fn to_blob(&self) -> Result<Vec<u8>, ImageError> {
        // By way of a value, whose maps are sorted: labels and ports are hash
        // maps in the Docker types.
        serde_json::to_value(self)
            .and_then(|value| serde_json::to_vec(&value))
            .map_err(|e| ImageError::Broken(format!("image configuration: {e}")))
    }

    /// The platform that the image is for.
    #[must_use]
    pub fn platform(&self) -> Platform {
        Platform {
            architecture: self.architecture.clone(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            variant: self.variant.clone(),
        }
    }

    /// The chain ids of the layers, lowest first (image-spec `config.md`): what
    /// `docker inspect` and `rmi` call a layer.
    #[must_use]
    pub fn chain_ids(&self) -> Vec<Digest> {
        let mut chain: Vec<Digest> = Vec::with_capacity(self.rootfs.diff_ids.len());
        for diff in &self.rootfs.diff_ids {
            let next = match chain.last() {
                Some(parent) => Digest::of(format!("{parent} {diff}").as_bytes()),
                None => diff.clone(),
            };
            chain.push(next);
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_as_the_specification_says() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let config = ConfigFile {
            rootfs: RootFs { diff_ids: vec![a.clone(), b.clone()], ..RootFs::default() },
            ..ConfigFile::default()
        };
        let chained = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(config.chain_ids(), [a, chained]);
    }

    #[test]
    fn reads_what_docker_writes() {
        let blob = br#"{"architecture":"amd64","os":"linux","container":"x","config":
            {"Hostname":"h","Env":null,"Cmd":["sh"],"ExposedPorts":{"80/tcp":{}},"Volumes":null,
             "Labels":{"b":"2","a":"1"},"OnBuild":null},"docker_version":"20",
            "history":[{"created":"2023-01-01T00:00:00Z","empty_layer":true}],
            "rootfs":{"type":"layers","diff_ids":[]}}"#;
        let config = ConfigFile::parse(blob).unwrap();
        let run = config.config.as_ref().unwrap();
        assert_eq!(run.exposed_ports.as_deref(), Some(&["80/tcp".to_owned()][..]));
        assert_eq!(config.to_blob().unwrap(), config.clone().to_blob().unwrap());
        assert_eq!(ConfigFile::parse(&config.to_blob().unwrap()).unwrap(), config);
        assert!(ConfigFile::parse(b"{}").is_ok());
        assert!(ConfigFile::parse(b"[]").is_err());
    }
}
