//! Credentials: given where they belong, nowhere else, and never shown.

use http::Method;
use sampan_image::registry::{AuthConfig, RegistryError};
use sampan_types::{ErrorKind, Kind};

use crate::fake::{Fake, Guard, basic};
use crate::images::{Host, layer, publish, request};
use crate::need_root;

fn ann(password: &str) -> AuthConfig {
    AuthConfig { username: "ann".into(), password: password.into(), ..AuthConfig::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_fetched_once_for_what_is_needed() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    publish(&fake, "team/app", "latest", &[layer("a", b"a"), layer("b", b"b")]);
    fake.state().guard = Guard::Bearer("ann", "s3cret");
    let mut wanted = request(&format!("{}/team/app", fake.address));
    wanted.auth = Some(ann("s3cret"));
    host.pull(wanted).await.0.unwrap();
    let tokens = fake.seen(&Method::GET, "/token");
    assert_eq!(tokens.len(), 1);
    assert!(
        tokens[0].target.contains("scope=repository%3Ateam%2Fapp%3Apull"),
        "{}",
        tokens[0].target
    );
    assert!(tokens[0].target.contains("service=fake&"));
    assert_eq!(tokens[0].header("authorization"), Some(basic("ann", "s3cret").as_str()));
    let registry = fake.state().seen.iter().any(|s| {
        s.target.starts_with("/v2/")
            && s.header("authorization").is_some_and(|a| a.starts_with("Basic"))
    });
    assert!(!registry, "the password goes to the token server only");
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_tokens_identity_tokens_and_ready_tokens_work() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    publish(&fake, "app", "latest", &[layer("a", b"a")]);
    let mut wanted = request(&format!("{}/app", fake.address));
    fake.state().guard = Guard::Bearer("", "");
    host.pull(wanted.clone()).await.0.unwrap();

    fake.state().guard = Guard::Bearer("ann", "s3cret");
    wanted.auth = Some(AuthConfig { identitytoken: "refresh-ann".into(), ..AuthConfig::default() });
    host.pull(wanted.clone()).await.0.unwrap();
    assert_eq!(fake.seen(&Method::POST, "/token").len(), 1);

    fake.state().seen.clear();
    wanted.auth =
        Some(AuthConfig { registrytoken: "token-for all".into(), ..AuthConfig::default() });
    host.pull(wanted.clone()).await.0.unwrap();
    assert!(fake.seen(&Method::GET, "/token").is_empty());

    wanted.auth = Some(ann("wr0ng-secret"));
    let error = host.pull(wanted).await.0.unwrap_err().to_string();
    assert_eq!(error, "unauthorized: incorrect username or password");
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_needs_credentials() {
    need_root!();
    let (fake, host) = (Fake::start().await, Host::plain().await);
    publish(&fake, "app", "latest", &[layer("a", b"a")]);
    fake.state().guard = Guard::Basic("ann", "s3cret");
    let mut wanted = request(&format!("{}/app", fake.address));
    let error = host.pull(wanted.clone()).await.0.unwrap_err().to_string();
    assert_eq!(
        error,
        format!(
            "Get \"http://{}/v2/app/manifests/latest\": no basic auth credentials",
            fake.address
        )
    );
    wanted.auth = Some(ann("wr0ng-secret"));
    let error = host.pull(wanted.clone()).await.0.unwrap_err();
    assert_eq!(error.to_string(), "unauthorized: authentication required");
    assert!(!format!("{error:?}").contains("wr0ng"));
    wanted.auth = Some(ann("s3cret"));
    host.pull(wanted).await.0.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_scope_is_access_denied() {
    let (fake, host) = (Fake::start().await, Host::plain().await);
    fake.state().guard = Guard::Challenge(
        "Bearer realm=\"http://127.0.0.1:1/token\",error=\"insufficient_scope\"".into(),
    );
    let mut wanted = request(&format!("{}/team/app", fake.address));
    wanted.auth = Some(AuthConfig { registrytoken: "weak".into(), ..AuthConfig::default() });
    let error = host.pull(wanted).await.0.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "pull access denied for {}/team/app, repository does not exist or may require \
             'docker login': denied: requested access to the resource is denied",
            fake.address
        )
    );
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_followed_without_credentials() {
    need_root!();
    let (fake, storage, host) = (Fake::start().await, Fake::start().await, Host::plain().await);
    let layers = [layer("a", b"a")];
    publish(&fake, "app", "latest", &layers);
    storage.state().blobs = fake.state().blobs.clone();
    fake.state().guard = Guard::Basic("ann", "s3cret");
    fake.state().redirect = Some(format!("http://{}", storage.address));
    let mut wanted = request(&format!("{}/app", fake.address));
    wanted.auth = Some(ann("s3cret"));
    host.pull(wanted.clone()).await.0.unwrap();
    let seen = storage.seen(&Method::GET, "/blobs/");
    assert!(seen.len() >= 2, "configuration and layer came from the storage");
    assert!(seen.iter().all(|s| s.header("authorization").is_none()));

    // A loop ends, and what is signed in addresses isn't shown.
    let other = Host::plain().await;
    fake.state().redirect = Some(format!("http://{}", fake.address));
    let error = other.pull(wanted.clone()).await.0.unwrap_err().to_string();
    assert!(error.contains("too many redirects") && !error.contains("s3cret"), "{error}");
    fake.state().redirect = Some("ftp://127.0.0.1".into());
    let error = other.pull(wanted).await.0.unwrap_err().to_string();
    assert!(error.contains("neither HTTP nor HTTPS") && !error.contains("s3cret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_succeed_or_say_why_not() {
    let (fake, host) = (Fake::start().await, Host::plain().await);
    let login = async |password: &str| {
        let auth = AuthConfig { serveraddress: fake.address.clone(), ..ann(password) };
        host.registry.login(&auth).await
    };
    fake.state().guard = Guard::Basic("ann", "s3cret");
    let status = login("s3cret").await.unwrap();
    assert_eq!((status.status.as_str(), status.identity_token.as_str()), ("Login Succeeded", ""));
    let error = login("wr0ng-secret").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "login attempt to http://{}/v2/ failed with status: 401 Unauthorized",
            fake.address
        )
    );
    assert_eq!(error.kind(), ErrorKind::Unauthorized);

    fake.state().guard = Guard::Bearer("ann", "s3cret");
    let status = login("s3cret").await.unwrap();
    assert_eq!(status.identity_token, "refresh-ann");
    assert!(!format!("{status:?}").contains("refresh-ann"));
    let error = login("wr0ng-secret").await.unwrap_err();
    assert!(matches!(error, RegistryError::LoginRefused { .. }), "{error}");
    assert!(error.to_string().contains("incorrect username or password"), "{error}");

    fake.state().guard = Guard::Open;
    assert_eq!(login("whatever").await.unwrap().status, "Login Succeeded");
}
