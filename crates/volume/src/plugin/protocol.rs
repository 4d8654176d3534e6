//! The requests and answers of `VolumeDriver`.
//!
//! Source: Docker's documentation of the volume plugin protocol.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};

/// `VolumeDriver.Create`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Create<'a> {
    pub name: &'a str,
    pub opts: &'a BTreeMap<String, String>,
}

/// `VolumeDriver.Get`, `.Remove`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Named<'a> {
    pub name: &'a str,
}

/// `VolumeDriver.Mount`, `.Unmount`
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Used<'a> {
    pub name: &'a str,
    #[serde(rename = "ID")]
    pub id: &'a str,
}

/// `VolumeDriver.List`
#[derive(Debug, Serialize)]
pub(super) struct List {}

/// An answer that says nothing.
#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

/// The answer to `Mount`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Mounted {
    #[serde(default)]
    pub mountpoint: PathBuf,
}

/// A volume as plugins tell of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Told {
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub mountpoint: PathBuf,
    #[serde(default, deserialize_with = "or_default")]
    pub status: serde_json::Map<String, serde_json::Value>,
}

/// The answer to `Get`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Got {
    pub volume: Option<Told>,
}

/// The answer to `List`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    #[serde(default, deserialize_with = "or_default")]
    pub volumes: Vec<Told>,
}

/// The answer to `Capabilities`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Capable {
    pub capabilities: Capabilities,
}

/// What a plugin says of itself.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Capabilities {
    #[serde(default)]
    pub scope: String,
}

/// Plugins written in Go say `null` for what is empty.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    from: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}
