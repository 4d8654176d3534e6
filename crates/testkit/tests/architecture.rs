//! Dependencies between the crates point downward only, as ARCHITECTURE.md
//! draws them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// What each crate may use of the others.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("sys", &["types"]),
    ("store", &["types"]),
    ("image", &["sys", "types"]),
    ("runtime", &["sys", "types"]),
    ("plugin", &["types"]),
    ("volume", &["sys", "types", "plugin"]),
    ("backup", &["sys", "types"]),
    ("net", &["sys", "types", "plugin"]),
    ("proxy", &["sys", "types", "net"]),
    (
        "engine",
        &[
            "types", "sys", "store", "image", "runtime", "volume", "net", "plugin", "proxy",
            "backup",
        ],
    ),
    ("api", &["types", "image", "engine"]),
    ("cli", &["types"]),
    ("testkit", &[]),
    // What no command shows alone: the speed of copies.
    ("benches", &["testkit", "volume"]),
];

#[test]
fn dependencies_point_downward_only() {
    // Asked for when the test runs: a checkout elsewhere may take over what
    // was compiled for another one.
    let here = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").unwrap());
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
        .arg(here.join("../../Cargo.toml"))
        .output()
        .unwrap();
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let allowed: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata["packages"].as_array().unwrap() {
        let Some(name) = package["name"].as_str().unwrap().strip_prefix("sampan-") else {
            continue;
        };
        let Some(allowed) = allowed.get(name) else {
            wrong.push(format!("{name} is not in the table of this test"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap().strip_prefix("sampan-");
            let is_test_aid = |u: &&str| dependency["kind"] == "dev" && *u == "testkit";
            if let Some(used) = used.filter(|u| !allowed.contains(u) && !is_test_aid(u)) {
                wrong.push(format!("{name} must not use {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}
