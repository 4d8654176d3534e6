//! Pulls: what arrives, what is said, what happens when it breaks.

use http::Method;
use sampan_image::registry::{Mirror, RegistryConfig, RegistryError};
use sampan_image::{Digest, Progress, media};
use sampan_types::{ErrorKind, ImageId, Kind};
use serde_json::json;

use crate::fake::Fake;
use crate::images::{
    Host, Layer, host_architecture, layer, manifest, noise, publish, request, statuses,
};
use crate::need_root;

fn two_layers() -> [Layer; 2] {
    [layer("one", b"first"), layer("two", &noise(300_000, 2))]
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_docker_says() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let layers = two_layers();
    let digest = publish(&fake, "team/app", "1.0", &layers);
    let name = format!("{}/team/app:1.0", fake.address);

    let (pulled, messages) = host.pull(request(&name)).await;
    let pulled = pulled.unwrap();
    assert!(pulled.newer);
    assert_eq!(messages[0], Progress::about("1.0", "Pulling from team/app"));
    let closing = statuses(&messages, None);
    assert_eq!(
        closing,
        [format!("Digest: {digest}"), format!("Status: Downloaded newer image for {name}")]
    );
    for l in &layers {
        let about = statuses(&messages, Some(Digest::of(&l.blob).short()));
        assert_eq!(about.first().map(String::as_str), Some("Pulling fs layer"), "{about:?}");
        assert_eq!(about.last().map(String::as_str), Some("Pull complete"), "{about:?}");
        for status in ["Downloading", "Verifying Checksum", "Download complete", "Extracting"] {
            assert!(about.iter().any(|s| s == status), "{status} is missing in {about:?}");
        }
    }
    assert_eq!(host.file(&layers[0], "one"), b"first");
    assert_eq!(host.file(&layers[1], "two"), noise(300_000, 2));
    let record = host.images.inspect(&pulled.images[0]).unwrap();
    assert_eq!(record.tags, [name.parse().unwrap()]);
    assert_eq!(record.digests[0].digest(), Some(&digest));

    // Once more: nothing but the manifest is fetched.
    fake.state().seen.clear();
    let (again, messages) = host.pull(request(&name)).await;
    assert!(!again.unwrap().newer);
    assert_eq!(statuses(&messages, None)[1], format!("Status: Image is up to date for {name}"));
    assert!(fake.seen(&Method::GET, "/blobs/").is_empty());

    // An image on top of it: the known layer is not fetched again.
    let [one, _] = two_layers();
    publish(&fake, "team/app", "2.0", &[one, layer("three", b"third")]);
    let (next, messages) = host.pull(request(&format!("{}/team/app:2.0", fake.address))).await;
    next.unwrap();
    let known = Digest::of(&layers[0].blob);
    assert_eq!(statuses(&messages, Some(known.short())), ["Already exists"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_where_the_connection_broke() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let layers = [layer("big", &noise(2_000_000, 3))];
    publish(&fake, "app", "latest", &layers);
    let digest = Digest::of(&layers[0].blob);
    fake.state().breaks.insert(digest.to_string(), [700_000, 400_000, 0].into());

    let (pulled, _) = host.pull(request(&format!("{}/app", fake.address))).await;
    pulled.unwrap();
    assert_eq!(host.file(&layers[0], "big"), noise(2_000_000, 3));
    let ranges: Vec<Option<String>> = fake
        .seen(&Method::GET, &format!("/blobs/{digest}"))
        .iter()
        .map(|s| s.header("range").map(str::to_owned))
        .collect();
    assert_eq!(ranges.len(), 4, "{ranges:?}");
    assert_eq!(ranges[0], None);
    assert_eq!(ranges[1].as_deref(), Some("bytes=700000-"));
    assert_eq!(ranges[2].as_deref(), Some("bytes=1100000-"));
    assert_eq!(ranges[3], ranges[2], "nothing arrived in between");
}

#[tokio::test(flavor = "multi_thread")]
async fn gives_up_after_a_while_and_the_next_pull_goes_on() {
    need_root!();
    let fake = Fake::start().await;
    let host = Host::new(RegistryConfig { max_attempts: 2, ..RegistryConfig::default() }).await;
    let layers = [layer("big", &noise(500_000, 4))];
    publish(&fake, "app", "latest", &layers);
    let digest = Digest::of(&layers[0].blob);
    fake.state().breaks.insert(digest.to_string(), [100_000, 0, 0, 0].into());

    let name = format!("{}/app", fake.address);
    let error = host.pull(request(&name)).await.0.unwrap_err();
    assert!(matches!(error, RegistryError::Transport { .. }), "{error}");
    assert!(host.images.list().is_empty());

    fake.state().breaks.clear();
    fake.state().seen.clear();
    host.pull(request(&name)).await.0.unwrap();
    let seen = fake.seen(&Method::GET, &format!("/blobs/{digest}"));
    assert_eq!(seen[0].header("range"), Some("bytes=100000-"));
    assert_eq!(host.file(&layers[0], "big"), noise(500_000, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_again_where_ranges_are_unknown() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let layers = [layer("big", &noise(500_000, 5))];
    publish(&fake, "app", "latest", &layers);
    let digest = Digest::of(&layers[0].blob);
    fake.state().breaks.insert(digest.to_string(), [100_000].into());
    fake.state().no_ranges = true;
    host.pull(request(&format!("{}/app", fake.address))).await.0.unwrap();
    assert_eq!(host.file(&layers[0], "big"), noise(500_000, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_pull_leaves_what_the_next_one_can_use() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let layers = [layer("big", &noise(3_000_000, 6))];
    publish(&fake, "app", "latest", &layers);
    let name = format!("{}/app", fake.address);
    let (sink, _messages) = crate::images::collect();
    {
        let wanted = request(&name);
        let pull = host.registry.pull(&wanted, &sink);
        // Long enough to begin; whether it ends in time doesn't matter.
        let _ = tokio::time::timeout(std::time::Duration::from_millis(30), pull).await;
    }
    host.pull(request(&name)).await.0.unwrap();
    assert_eq!(host.file(&layers[0], "big"), noise(3_000_000, 6));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_pulls_at_once_fetch_each_layer_once() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let layers = [layer("a", &noise(400_000, 7)), layer("b", &noise(400_000, 8))];
    publish(&fake, "app", "latest", &layers);
    let name = format!("{}/app", fake.address);
    let (a, b) = tokio::join!(host.pull(request(&name)), host.pull(request(&name)));
    assert_eq!(a.0.unwrap().images, b.0.unwrap().images);
    for l in &layers {
        let digest = Digest::of(&l.blob);
        assert_eq!(fake.seen(&Method::GET, &format!("/blobs/{digest}")).len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn chooses_the_platform_from_an_index() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let mut entries = Vec::new();
    let mut ids = Vec::new();
    for (architecture, variant) in [("s390x", ""), ("arm", "v7"), (host_architecture(), "")] {
        let layers = [layer("arch", architecture.as_bytes())];
        let image = manifest(&fake, &layers, architecture);
        let bytes = image.to_string().into_bytes();
        let size = bytes.len();
        let digest = fake.add_manifest("multi", "", media::OCI_MANIFEST, bytes);
        ids.push(image["config"]["digest"].as_str().unwrap().parse::<ImageId>().unwrap());
        let mut platform = json!({ "os": "linux", "architecture": architecture });
        if !variant.is_empty() {
            platform["variant"] = json!(variant);
        }
        entries.push(json!({
            "mediaType": media::DOCKER_MANIFEST, "digest": digest, "size": size, "platform": platform,
        }));
    }
    let index = json!({ "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries });
    let top =
        fake.add_manifest("multi", "latest", media::OCI_INDEX, index.to_string().into_bytes());
    // The manifests have a type of their own in the documents.
    let name = format!("{}/multi", fake.address);

    let (pulled, messages) = host.pull(request(&name)).await;
    assert_eq!(pulled.unwrap().images, [ids[2].clone()]);
    assert!(statuses(&messages, None).contains(&format!("Digest: {top}")));
    let record = host.images.inspect(&ids[2]).unwrap();
    assert_eq!(record.digests[0].digest(), Some(&top), "known by the digest of the index");

    let mut other = request(&name);
    other.platform = Some("linux/arm/v7".parse().unwrap());
    assert_eq!(host.pull(other.clone()).await.0.unwrap().images, [ids[1].clone()]);
    other.platform = Some("linux/riscv64".parse().unwrap());
    let error = host.pull(other).await.0.unwrap_err();
    assert_eq!(
        error.to_string(),
        "no matching manifest for linux/riscv64 in the manifest list entries"
    );

    let inspected = host.registry.distribution_inspect(&name.parse().unwrap(), None).await.unwrap();
    assert_eq!(inspected.descriptor.digest.as_deref(), Some(top.as_str()));
    assert_eq!(inspected.descriptor.media_type.as_deref(), Some(media::OCI_INDEX));
    assert_eq!(inspected.platforms.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_for_another_machine_must_be_asked_for() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    publish(&fake, "app", "latest", &[layer("a", b"a")]);
    let mut wanted = request(&format!("{}/app", fake.address));
    wanted.platform = Some("linux/s390x".parse().unwrap());
    let error = host.pull(wanted).await.0.unwrap_err().to_string();
    assert!(error.contains("does not match the specified platform: wanted linux/s390x"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pulls_by_digest_and_all_tags() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let digest = publish(&fake, "app", "a", &[layer("a", b"a")]);
    publish(&fake, "app", "b", &[layer("b", b"b")]);
    let pinned = format!("{}/app@{digest}", fake.address);
    let (pulled, messages) = host.pull(request(&pinned)).await;
    let pulled = pulled.unwrap();
    assert!(pulled.newer);
    assert_eq!(messages[0], Progress::about(&pinned, "Pulling from app"));
    assert!(host.images.inspect(&pulled.images[0]).unwrap().tags.is_empty());
    assert!(!host.pull(request(&pinned)).await.0.unwrap().newer);

    let mut all = request(&format!("{}/app", fake.address));
    all.all_tags = true;
    let (pulled, messages) = host.pull(all.clone()).await;
    assert_eq!(pulled.unwrap().images.len(), 2);
    assert_eq!(
        statuses(&messages, None).last().unwrap(),
        &format!("Status: Downloaded newer image for {}/app", fake.address)
    );
    all.reference = all.reference.with_tag("a").unwrap();
    assert_eq!(host.pull(all).await.0.unwrap_err().kind(), ErrorKind::InvalidParameter);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_said_in_dockers_words() {
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let name = format!("{}/none:1", fake.address);
    let (result, messages) = host.pull(request(&name)).await;
    let error = result.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("manifest for {name} not found: manifest unknown: manifest unknown")
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(messages.is_empty(), "nothing is shown before the manifest is here");

    let (result, _) = host.pull(request("127.0.0.1:1/none")).await;
    let error = result.unwrap_err().to_string();
    assert!(error.starts_with("Get \"http://127.0.0.1:1/v2/none/manifests/latest\""), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mirrors_come_first_and_may_fail() {
    need_root!();
    let (empty, full) = (Fake::start().await, Fake::start().await);
    publish(&full, "library/app", "latest", &[layer("a", b"a")]);
    let mirrors =
        [&empty, &full].map(|f| Mirror::parse(&format!("http://{}", f.address)).unwrap()).to_vec();
    let host = Host::new(RegistryConfig { mirrors, ..RegistryConfig::default() }).await;
    let mut wanted = request("app");
    wanted.auth = Some(sampan_image::registry::AuthConfig {
        username: "ann".into(),
        password: "s3cret".into(),
        ..Default::default()
    });
    let (pulled, messages) = host.pull(wanted).await;
    let pulled = pulled.unwrap();
    assert_eq!(messages[0], Progress::about("latest", "Pulling from library/app"));
    assert_eq!(statuses(&messages, None)[1], "Status: Downloaded newer image for app:latest");
    assert_eq!(host.images.resolve("app").unwrap(), pulled.images[0]);
    assert_eq!(empty.seen(&Method::GET, "/v2/library/app/manifests/latest").len(), 1);
    let sent =
        [&empty, &full].map(|f| f.state().seen.iter().any(|s| s.header("authorization").is_some()));
    assert_eq!(sent, [false, false], "credentials are not for mirrors");
}
