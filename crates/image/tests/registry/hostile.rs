//! Registries that lie: nothing of it gets in.

use bytes::Bytes;
use sampan_image::registry::RegistryError;
use sampan_image::{Digest, media};
use sampan_types::{ErrorKind, Kind};
use serde_json::{Value, json};

use crate::fake::{Fake, Guard};
use crate::images::{Host, host_architecture, layer, manifest, noise, publish, request};
use crate::need_root;

/// Pulls `app` from a fake registry after `spoil` had its way.
async fn refused(spoil: impl FnOnce(&Fake)) -> RegistryError {
    let (fake, host) = (Fake::start().await, Host::plain().await);
    spoil(&fake);
    let error = host.pull(request(&format!("{}/app", fake.address))).await.0.unwrap_err();
    assert!(host.images.list().is_empty());
    error
}

fn published(fake: &Fake, change: impl FnOnce(&mut Value)) {
    let mut image = manifest(fake, &[layer("a", &noise(10_000, 1))], host_architecture());
    change(&mut image);
    fake.add_manifest("app", "latest", media::DOCKER_MANIFEST, image.to_string().into_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_another_digest() {
    need_root!();
    let error = refused(|fake| {
        let l = layer("a", &noise(10_000, 1));
        publish(fake, "app", "latest", &[layer("a", &noise(10_000, 1))]);
        let mut wrong = l.blob.clone();
        wrong[5000] ^= 1;
        fake.state().blobs.insert(Digest::of(&l.blob).to_string(), wrong.into());
    })
    .await;
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_of_another_size() {
    need_root!();
    for change in [1_i64, -1] {
        let error = refused(|fake| {
            published(fake, |image| {
                let size = image["layers"][0]["size"].as_i64().unwrap();
                image["layers"][0]["size"] = json!(size + change);
            });
        })
        .await;
        assert!(matches!(error, RegistryError::WrongSize { .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_unpack_to_something_else() {
    need_root!();
    let error = refused(|fake| {
        let mut l = layer("a", b"x");
        l.diff_id = Digest::of(b"something else");
        publish(fake, "app", "latest", &[l]);
    })
    .await;
    assert!(matches!(error, RegistryError::Image(_)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn configurations_of_another_digest_size_or_shape() {
    let error = refused(|fake| {
        published(fake, |_| {});
        let mut state = fake.state();
        let config = state.blobs.iter().find(|(_, b)| b.starts_with(b"{")).unwrap().0.clone();
        let same_size = vec![b' '; state.blobs[&config].len()];
        state.blobs.insert(config, same_size.into());
    })
    .await;
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error}");
    let error = refused(|fake| {
        published(fake, |image| image["config"]["size"] = json!(1_u64 << 40));
    })
    .await;
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");
    let error = refused(|fake| {
        published(fake, |image| {
            let twice = image["layers"][0].clone();
            image["layers"].as_array_mut().unwrap().push(twice);
        });
    })
    .await;
    assert!(error.to_string().contains("names 1 layers, the manifest 2"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_another_digest_or_without_end() {
    let error = refused(|fake| fake.state().endless_manifest = true).await;
    assert!(matches!(error, RegistryError::TooLarge { .. }), "{error}");

    let (fake, host) = (Fake::start().await, Host::plain().await);
    let digest = publish(&fake, "app", "latest", &[layer("a", b"a")]);
    let key = ("app".to_owned(), digest.to_string());
    let bytes = fake.state().manifests[&key].1.clone();
    let longer = Bytes::from([&bytes[..], b"\n"].concat());
    fake.state().manifests.insert(key, (media::DOCKER_MANIFEST.into(), longer));
    let error = host.pull(request(&format!("{}/app@{digest}", fake.address))).await.0.unwrap_err();
    assert!(matches!(error, RegistryError::WrongDigest { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_from_elsewhere_and_old_formats() {
    let error = refused(|fake| {
        published(fake, |image| image["layers"][0]["urls"] = json!(["http://169.254.169.254/"]));
    })
    .await;
    assert!(matches!(error, RegistryError::ForeignLayer { .. }), "{error}");
    let error = refused(|fake| {
        let one = json!({ "schemaVersion": 1, "name": "app", "fsLayers": [], "history": [] });
        let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        fake.add_manifest("app", "latest", signed, one.to_string().into_bytes());
    })
    .await;
    assert!(error.to_string().contains("schema 1"), "{error}");
    assert_eq!(error.kind(), ErrorKind::NotImplemented);
    let error = refused(|fake| {
        published(fake, |image| image["layers"][0]["digest"] = json!("sha256:../../etc/passwd"));
    })
    .await;
    assert!(matches!(error, RegistryError::BadContent { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn words_of_a_registry_are_tamed() {
    let error = refused(|fake| {
        fake.state().guard =
            Guard::Challenge(format!("Bearer realm=\"file:///{}\"", "x".repeat(5000)));
    })
    .await;
    assert!(error.to_string().contains("neither HTTP nor HTTPS"), "{error}");
    assert!(error.to_string().len() < 6000);
}
