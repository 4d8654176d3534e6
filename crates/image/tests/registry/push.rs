//! Pushes: what is sent, what is not, and what happens when it breaks.

use http::Method;
use sampan_image::registry::{AuthConfig, PushRequest, RegistryError};
use sampan_image::{Digest, Progress};
use sampan_types::{ErrorKind, Kind};
use serde_json::json;

use crate::fake::{Fake, Guard};
use crate::images::{Host, Layer, layer, noise, publish, request, statuses};
use crate::need_root;

/// A host with an image of these layers, and the digest of its manifest.
async fn stocked(layers: &[Layer]) -> (Fake, Host, Digest) {
    let (source, host) = (Fake::start().await, Host::plain().await);
    let digest = publish(&source, "source", "latest", layers);
    host.pull(request(&format!("{}/source", source.address))).await.0.unwrap();
    (source, host, digest)
}

fn to(name: &str) -> PushRequest {
    PushRequest { reference: name.parse().unwrap(), auth: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn says_what_docker_says_and_keeps_digests() {
    need_root!();
    let layers = [layer("a", b"a"), layer("b", &noise(400_000, 1))];
    let (source, host, digest) = stocked(&layers).await;
    let target = Fake::start().await;
    let name = format!("{}/team/app:2", target.address);
    host.tag(&format!("{}/source", source.address), &name).await;

    let (result, messages) = host.push(to(&name)).await;
    result.unwrap();
    let size = target.state().manifests[&("team/app".to_owned(), "2".to_owned())].1.len();
    assert_eq!(
        statuses(&messages, None),
        [
            format!("The push refers to repository [{}/team/app]", target.address),
            format!("2: digest: {digest} size: {size}"),
        ]
    );
    assert_eq!(
        messages.last().unwrap(),
        &Progress {
            aux: Some(json!({ "Tag": "2", "Digest": digest, "Size": size })),
            ..Progress::default()
        }
    );
    for l in &layers {
        let about = statuses(&messages, Some(l.diff_id.short()));
        assert_eq!(about.first().map(String::as_str), Some("Preparing"), "{about:?}");
        assert_eq!(about.last().map(String::as_str), Some("Pushed"), "{about:?}");
        let blob = Digest::of(&l.blob).to_string();
        assert_eq!(target.state().blobs[&blob], l.blob, "the original bytes");
    }
    let id = host.images.resolve(&name).unwrap();
    let known = host.images.inspect(&id).unwrap();
    assert!(
        known.digests.iter().any(|d| d.domain() == target.address && d.digest() == Some(&digest))
    );

    // Once more, and under another tag: nothing is sent but the manifest.
    let other = format!("{}/team/app:3", target.address);
    host.tag(&name, &other).await;
    target.state().seen.clear();
    let (result, messages) = host.push(to(&format!("{}/team/app", target.address))).await;
    result.unwrap();
    assert!(target.seen(&Method::POST, "/uploads/").is_empty());
    assert_eq!(target.seen(&Method::PUT, "/manifests/").len(), 2, "all tags");
    let about = statuses(&messages, Some(layers[0].diff_id.short()));
    assert!(about.contains(&"Layer already exists".to_owned()), "{about:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn goes_on_where_the_connection_broke_or_starts_again() {
    need_root!();
    let layers = [layer("big", &noise(3_000_000, 2))];
    let (source, host, _) = stocked(&layers).await;
    for (breaks, forget) in
        [(vec![(1_000_000, false), (2_500_000, false)], false), (vec![(1_000_000, true)], true)]
    {
        let target = Fake::start().await;
        target.state().upload_breaks = breaks.into();
        let name = format!("{}/app:latest", target.address);
        host.tag(&format!("{}/source", source.address), &name).await;
        host.push(to(&name)).await.0.unwrap();
        let blob = Digest::of(&layers[0].blob).to_string();
        assert_eq!(target.state().blobs[&blob], layers[0].blob);
        let ranges: Vec<String> = target
            .seen(&Method::PATCH, "/uploads/")
            .iter()
            .filter_map(|s| s.header("content-range").map(str::to_owned))
            .collect();
        let end = layers[0].blob.len() - 1;
        if forget {
            assert!(ranges.is_empty(), "{ranges:?}");
        } else {
            assert_eq!(ranges, [format!("1000000-{end}"), format!("2500000-{end}")]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mounts_what_another_repository_has() {
    need_root!();
    let layers = [layer("a", &noise(100_000, 3))];
    let (source, host, _) = stocked(&layers).await;
    source.state().mounts = true;
    source.state().guard = Guard::Bearer("ann", "s3cret");
    let name = format!("{}/other/app:latest", source.address);
    host.tag(&format!("{}/source", source.address), &name).await;
    let mut push = to(&name);
    push.auth = Some(AuthConfig {
        username: "ann".into(),
        password: "s3cret".into(),
        ..AuthConfig::default()
    });
    source.state().hidden = Some("other/app".into());
    let (result, messages) = host.push(push).await;
    result.unwrap();
    let about = statuses(&messages, Some(layers[0].diff_id.short()));
    assert_eq!(about.last().map(String::as_str), Some("Mounted from source"), "{about:?}");
    let mount = source.seen(&Method::POST, "mount=").pop().unwrap();
    assert!(mount.target.contains("from=source"), "{}", mount.target);
    let scope = mount.header("authorization").unwrap();
    assert!(scope.contains("repository%3Asource%3Apull"), "{scope}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_can_not_be_pushed() {
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let name = format!("{}/none:latest", fake.address);
    let error = host.push(to(&name)).await.0.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("An image does not exist locally with the tag: {}/none", fake.address)
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let pinned = format!("{}/none@{}", fake.address, Digest::of(b""));
    let error = host.push(to(&pinned)).await.0.unwrap_err();
    assert!(matches!(error, RegistryError::Invalid { .. }), "{error}");
}
