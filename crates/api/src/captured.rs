//! Bodies that real clients sent, captured from the docker CLI 28.2 at several
//! API versions and from docker-compose 1.29, must all be understood.

use sampan_types::docker::{
    ContainerCreateBody, ContainerUpdateBody, ExecConfig, NetworkCreateRequest,
};

use crate::create::{parse, parse_create_body};
use crate::lenient::from_slice;
use crate::version::ApiVersion;

macro_rules! body {
    ($name:literal) => {
        include_bytes!(concat!("../tests/bodies/", $name, ".json")).as_slice()
    };
}

#[test]
fn everything_that_the_cli_can_say() {
    let body = parse_create_body(body!("create-cli28-api1.50-full")).unwrap();
    assert_eq!(body.user.as_deref(), Some("nobody:users"));
    assert_eq!(body.entrypoint, Some(vec!["/bin/sh".to_owned()]));
    assert_eq!(body.healthcheck.unwrap().start_interval, Some(2_000_000_000));
    let host = body.host_config.unwrap();
    assert_eq!(host.nano_cpus, Some(1_500_000_000));
    assert_eq!(host.memory_swappiness, Some(3));
    assert_eq!(host.mounts.unwrap().len(), 3);
    assert_eq!(host.device_requests.unwrap()[0].count, Some(-1));
    assert_eq!(host.port_bindings.unwrap()["80/tcp"].as_ref().unwrap().len(), 1);
    let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
    let endpoint = &endpoints["mynet"];
    assert_eq!(endpoint.mac_address.as_deref(), Some("02:42:ac:11:00:09"));
    let addresses = endpoint.ipam_config.as_ref().unwrap();
    assert_eq!(addresses.ipv4_address.as_deref(), Some("172.20.0.5"));
}

#[test]
fn the_plainest_container_at_every_version() {
    for (text, minor) in [
        (body!("create-cli28-api1.24-plain"), 24),
        (body!("create-cli28-api1.40-plain"), 40),
        (body!("create-cli28-api1.50-plain"), 50),
    ] {
        let body = parse(text, ApiVersion::one(minor)).unwrap();
        assert_eq!(body.cmd, None);
        let host = body.host_config.unwrap();
        assert_eq!((host.masked_paths, host.pids_limit), (None, None));
        assert_eq!(host.console_size, Some(vec![0, 0]));
    }
}

#[test]
fn compose_containers() {
    let body = parse(body!("create-compose1-a"), ApiVersion::one(41)).unwrap();
    let mut ports = body.exposed_ports.clone().unwrap();
    ports.sort();
    assert_eq!(ports, ["53/udp", "80/tcp", "99/tcp"]);
    assert_eq!(body.healthcheck.as_ref().unwrap().timeout, None);
    let endpoints = body.networking_config.unwrap().endpoints_config.unwrap();
    assert_eq!(endpoints["p_default"].mac_address.as_deref(), Some("02:42:ac:11:00:09"));
    assert!(parse(body!("create-compose1-b"), ApiVersion::one(41)).is_ok());
}

#[test]
fn other_nouns() {
    for text in [body!("exec-cli28-api1.40"), body!("exec-cli28-api1.50")] {
        let exec: ExecConfig = from_slice(text).unwrap();
        assert_eq!(exec.cmd, Some(vec!["ls".to_owned()]));
    }
    for text in [body!("update-cli28-api1.40"), body!("update-cli28-api1.50")] {
        let update: ContainerUpdateBody = from_slice(text).unwrap();
        assert_eq!(update.pids_limit, Some(-1));
    }
    for text in [body!("network-compose1-default"), body!("network-compose1-n2")] {
        assert!(from_slice::<NetworkCreateRequest>(text).is_ok());
    }
}

#[test]
fn clients_of_other_times() {
    // docker-py's exec with its own case, and fields that left the API since.
    let exec: ExecConfig = from_slice(
        br#"{"Container":"c","Cmd":["sh"],"detachKeys":"ctrl-a","Env":null,"Detach":false}"#,
    )
    .unwrap();
    assert_eq!(exec.detach_keys.as_deref(), Some("ctrl-a"));
    let old =
        br#"{"Image":"busybox","Cmd":"top","HostConfig":{"KernelMemory":0,"KernelMemoryTCP":0,
        "Capabilities":null,"DiskQuota":0,"RestartPolicy":{"Name":"","MaximumRetryCount":0}}}"#;
    let body: ContainerCreateBody = parse_create_body(old).unwrap();
    assert_eq!(body.cmd, Some(vec!["top".to_owned()]));
}

proptest::proptest! {
    /// Whatever comes, it is read or refused; never a panic.
    #[test]
    fn any_bytes(text in proptest::collection::vec(proptest::arbitrary::any::<u8>(), 0..200)) {
        let _ = parse_create_body(&text);
    }

    /// JSON that is nearly right.
    #[test]
    fn nearly_right(
        key in "(Cmd|HostConfig|hostconfig|Mounts|NetworkingConfig|Tty|Labels|ExposedPorts)",
        value in r#"(null|1|-1|1\.5|true|""|"x"|\[\]|\[null\]|\{\}|\{"a":null\}|\{"Mounts":\[\{\}\]\})"#,
    ) {
        let _ = parse_create_body(format!("{{\"{key}\":{value}}}").as_bytes());
    }
}
