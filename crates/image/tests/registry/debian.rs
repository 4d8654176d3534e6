//! Against Debian's `docker-registry`: what a real registry makes of it.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sampan_image::Digest;
use sampan_image::registry::{AuthConfig, PushRequest};
use tempfile::TempDir;

use crate::fake::Fake;
use crate::images::{Host, layer, noise, publish, request, statuses};
use crate::need_root;

const PROGRAM: &str = "/usr/bin/docker-registry";
/// `ann` with the password `s3cret`.
const HTPASSWD: &str = "ann:$2b$04$uvc5Z0A05J.cqQR4GFm/j.yOAhHnn.V12dvdsw6iolfxjSaTDQzOi\n";

/// A running registry in a directory of its own; killed when dropped.
struct Registry {
    address: String,
    process: Child,
    _dir: TempDir,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Registry {
    /// `None`, said aloud, where it isn't installed.
    fn start(guarded: bool, tls: bool) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            eprintln!("skipped: {PROGRAM} is not installed (package docker-registry)");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        let mut config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            path("data")
        );
        if guarded {
            std::fs::write(path("htpasswd"), HTPASSWD).unwrap();
            config +=
                &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("htpasswd"));
        }
        if tls {
            let own = rcgen::generate_simple_self_signed(["registry.lan".to_owned()]).unwrap();
            std::fs::write(path("tls.crt"), own.cert.pem()).unwrap();
            std::fs::write(path("tls.key"), own.signing_key.serialize_pem()).unwrap();
            let (certificate, key) = (path("tls.crt"), path("tls.key"));
            // Below `http`, which comes last but for `auth`.
            let tls = format!("  tls:\n    certificate: {certificate}\n    key: {key}\n");
            let at = config.find("auth:").unwrap_or(config.len());
            config.insert_str(at, &tls);
        }
        std::fs::write(path("config.yml"), config).unwrap();
        let mut process = Command::new(PROGRAM)
            .args(["serve", &path("config.yml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let address = lines.by_ref().map_while(Result::ok).find_map(|line| {
            let rest = line.split_once("listening on ")?.1;
            rest.split(['"', ' ', ',']).next().map(str::to_owned)
        });
        // Its log must not fill the pipe.
        std::thread::spawn(move || lines.for_each(drop));
        let address = address.expect("docker-registry says where it listens");
        Some(Self { address, process, _dir: dir })
    }
}

fn ann() -> AuthConfig {
    AuthConfig { username: "ann".into(), password: "s3cret".into(), ..AuthConfig::default() }
}

/// What is pushed to it comes back the same on another host.
async fn there_and_back(auth: Option<AuthConfig>, tls: bool) {
    let Some(registry) = Registry::start(auth.is_some(), tls) else { return };
    let (source, first, second) = (Fake::start().await, Host::plain().await, Host::plain().await);
    let layers = [layer("one", b"first"), layer("two", &noise(2_000_000, 1)), layer("e", b"")];
    let digest = publish(&source, "app", "latest", &layers);
    first.pull(request(&format!("{}/app", source.address))).await.0.unwrap();
    let name = format!("{}/team/app:1", registry.address);
    first.tag(&format!("{}/app", source.address), &name).await;

    let push = PushRequest { reference: name.parse().unwrap(), auth: auth.clone() };
    let (result, messages) = first.push(push.clone()).await;
    result.unwrap();
    let closing = statuses(&messages, None);
    assert!(closing[1].starts_with(&format!("1: digest: {digest} size: ")), "{closing:?}");
    let (result, messages) = first.push(push).await;
    result.unwrap();
    for l in &layers {
        let about = statuses(&messages, Some(l.diff_id.short()));
        assert_eq!(about.last().map(String::as_str), Some("Layer already exists"), "{about:?}");
    }

    // The same layers in another repository are mounted there.
    let other = format!("{}/other:1", registry.address);
    first.tag(&name, &other).await;
    let push = PushRequest { reference: other.parse().unwrap(), auth: auth.clone() };
    let (result, messages) = first.push(push).await;
    result.unwrap();
    let about = statuses(&messages, Some(layers[1].diff_id.short()));
    assert_eq!(about.last().map(String::as_str), Some("Mounted from team/app"), "{about:?}");

    for name in [name.clone(), format!("{}/other@{digest}", registry.address)] {
        let mut wanted = request(&name);
        wanted.auth = auth.clone();
        let (pulled, _) = second.pull(wanted).await;
        assert_eq!(pulled.unwrap().images, [first.images.resolve(&other).unwrap()]);
    }
    assert_eq!(second.file(&layers[1], "two"), noise(2_000_000, 1));
    let inspected =
        second.registry.distribution_inspect(&name.parse().unwrap(), auth.as_ref()).await.unwrap();
    assert_eq!(inspected.descriptor.digest.as_deref(), Some(digest.as_str()));
    assert_eq!(inspected.platforms[0].os.as_deref(), Some("linux"));

    let mut missing = request(&format!("{}/team/app:nope", registry.address));
    missing.auth = auth.clone();
    let error = second.pull(missing).await.0.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "manifest for {}/team/app:nope not found: manifest unknown: manifest unknown",
            registry.address
        )
    );
    if auth.is_some() {
        let error = second.pull(request(&name)).await.0.unwrap_err().to_string();
        assert!(error.ends_with("no basic auth credentials"), "{error}");
        let mut login = ann();
        login.serveraddress = registry.address.clone();
        assert_eq!(second.registry.login(&login).await.unwrap().status, "Login Succeeded");
        login.password = "wrong".into();
        second.registry.login(&login).await.unwrap_err();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_registry() {
    need_root!();
    there_and_back(None, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_passwords() {
    need_root!();
    there_and_back(Some(ann()), false).await;
}

/// Loopback may show any certificate; HTTPS is tried before plain HTTP.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_with_a_certificate_of_its_own() {
    need_root!();
    there_and_back(Some(ann()), true).await;
}

/// An uncompressed layer, as `import` may make one, is compressed on the way,
/// always to the same bytes.
#[tokio::test(flavor = "multi_thread")]
async fn uncompressed_layers_are_compressed() {
    need_root!();
    let Some(registry) = Registry::start(false, false) else { return };
    let (source, first, second) = (Fake::start().await, Host::plain().await, Host::plain().await);
    let mut plain = layer("a", &vec![b'a'; 500_000]);
    let mut tar = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&plain.blob[..]), &mut tar)
        .unwrap();
    assert_eq!(Digest::of(&tar), plain.diff_id);
    plain.blob = tar;
    let size = plain.blob.len();
    let mut image = crate::images::manifest(&source, &[plain], crate::images::host_architecture());
    image["mediaType"] = sampan_image::media::OCI_MANIFEST.into();
    image["layers"][0]["mediaType"] = sampan_image::media::OCI_LAYER.into();
    let bytes = image.to_string().into_bytes();
    source.add_manifest("app", "latest", sampan_image::media::OCI_MANIFEST, bytes);
    let from = format!("{}/app", source.address);
    first.pull(request(&from)).await.0.unwrap();
    let name = format!("{}/app:1", registry.address);
    first.tag(&from, &name).await;
    let push = PushRequest { reference: name.parse().unwrap(), auth: None };
    let (result, once) = first.push(push.clone()).await;
    result.unwrap();
    let (result, twice) = first.push(push).await;
    result.unwrap();
    assert_eq!(statuses(&once, None), statuses(&twice, None), "the same digest");
    let (pulled, _) = second.pull(request(&name)).await;
    let id = pulled.unwrap().images[0].clone();
    assert_eq!(id, first.images.resolve(&from).unwrap());
    let (_, manifest) = second.images.manifest(&id).unwrap();
    assert_eq!(manifest.layers[0].media_type, sampan_image::media::OCI_LAYER_GZIP);
    assert!(manifest.layers[0].size < size as u64 / 10);
}
