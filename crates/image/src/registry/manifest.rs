//! Manifests and indexes as a registry gives them: fetched, verified, read.
//!
//! Be aware:
//! - The digest of what came is computed here; what the registry says of it
//!   must agree.
//! - A document that could be read both as an index and as a manifest is
//!   refused: its digest would mean two things (CVE-2021-41190).

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use http::{Method, StatusCode};
use serde::Deserialize;

use super::download::Attempts;
use super::error::RegistryError;
use super::platform;
use super::session::Session;
use super::transport::{Request, printable, read_limited};
use crate::{ConfigFile, Digest, Index, Manifest, Platform, ProgressSink, Reference, media};

/// As large as a registry takes one (distribution-spec, "Pushing Manifests").
const MAX_MANIFEST: u64 = 4 << 20;
/// As large as the content store reads one.
const MAX_CONFIG: u64 = 8 << 20;
/// How deep indexes may lie in each other.
const MAX_DEPTH: usize = 3;
const ACCEPTED: &[&str] =
    &[media::DOCKER_MANIFEST, media::DOCKER_INDEX, media::OCI_MANIFEST, media::OCI_INDEX];
/// Layers that can be unpacked.
const LAYERS: &[&str] = &[
    media::OCI_LAYER,
    media::OCI_LAYER_GZIP,
    media::OCI_LAYER_ZSTD,
    media::DOCKER_LAYER_GZIP,
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.diff.tar.zstd",
];
const DIGEST_HEADER: &str = "docker-content-digest";

/// A fetched document.
pub(super) struct Fetched {
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
    pub(super) document: Document,
}

/// What a document is.
pub(super) enum Document {
    Manifest(Box<Manifest>),
    Index(Index),
}

impl Document {
    pub(super) fn media_type(&self) -> &str {
        match self {
            Self::Manifest(m) => m.media_type.as_deref().unwrap_or(media::OCI_MANIFEST),
            Self::Index(i) => i.media_type.as_deref().unwrap_or(media::OCI_INDEX),
        }
    }
}

/// A manifest for one platform, with the way to it.
pub(super) struct Resolved {
    /// What the reference itself is the digest of.
    pub(super) top: Digest,
    /// The manifest's bytes and digest.
    pub(super) bytes: Bytes,
    pub(super) digest: Digest,
    pub(super) manifest: Manifest,
    /// Whether it was chosen from an index.
    pub(super) chosen: bool,
}

/// Fetches what `reference` names, by its digest if it has one.
pub(super) async fn fetch(
    session: &Session,
    reference: &Reference,
) -> Result<Fetched, RegistryError> {
    let wanted = match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.as_str(),
        (None, Some(tag)) => tag,
        (None, None) => "latest",
    };
    let mut request = Request::new(Method::GET, session.url(&format!("manifests/{wanted}")));
    for accepted in ACCEPTED {
        request = request.header(ACCEPT, accepted);
    }
    let name = reference.familiar();
    let response = session
        .expect(&request, &[StatusCode::OK])
        .await
        .map_err(|e| e.of_manifest(&reference.familiar_name(), &name))?;
    let header =
        |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let content_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
    let claimed = header(DIGEST_HEADER);
    let what = format!("manifest of {name}");
    let bytes = read_limited(&session.transport, response, &what, MAX_MANIFEST).await?;
    let digest = Digest::of(&bytes);
    let expected = reference.digest().map(Digest::as_str).or(claimed.as_deref());
    // A digest of another algorithm in the header says nothing to us.
    if let Some(expected) = expected.filter(|e| e.starts_with("sha256:") && *e != digest.as_str()) {
        return Err(RegistryError::WrongDigest {
            what,
            expected: printable(expected),
            actual: digest.to_string(),
        });
    }
    let document = parse(&bytes, &content_type, &name)?;
    Ok(Fetched { bytes, digest, document })
}

/// A small document: fetched again from the start when the connection breaks.
async fn document(
    session: &Session,
    request: &Request,
    what: &str,
    limit: u64,
) -> Result<(HeaderMap, Bytes), RegistryError> {
    let mut attempts = Attempts::new(session.transport.config.max_attempts);
    loop {
        let fetched = async {
            let response = session.expect(request, &[StatusCode::OK]).await?;
            let headers = response.headers().clone();
            Ok((headers, read_limited(&session.transport, response, what, limit).await?))
        };
        match fetched.await {
            Err(error @ RegistryError::Transport { connected: true, .. }) => {
                attempts.again(error, 0, what, &ProgressSink::none()).await?;
            }
            other => return other,
        }
    }
}

/// Follows indexes to the manifest for `platform`, or this machine's.
pub(super) async fn resolve(
    session: &Session,
    reference: &Reference,
    platform: Option<&Platform>,
) -> Result<Resolved, RegistryError> {
    let wanted = platform.cloned().unwrap_or_else(Platform::host);
    let mut fetched = fetch(session, reference).await?;
    let top = fetched.digest.clone();
    let mut chosen = false;
    for _ in 0..MAX_DEPTH {
        let index = match fetched.document {
            Document::Manifest(manifest) => {
                let Fetched { bytes, digest, .. } = fetched;
                return Ok(Resolved { top, bytes, digest, manifest: *manifest, chosen });
            }
            Document::Index(index) => index,
        };
        let entry = platform::select(&index.manifests, &wanted)
            .ok_or_else(|| RegistryError::NoMatchingManifest { platform: wanted.to_string() })?;
        fetched = fetch(session, &reference.with_digest(entry.digest.clone())).await?;
        check_size(&format!("manifest {}", entry.digest), entry.size, fetched.bytes.len())?;
        chosen = true;
    }
    Err(RegistryError::BadContent {
        what: format!("manifest of {}", reference.familiar()),
        reason: "its indexes lie too deep in each other".into(),
    })
}

/// Fetches the image configuration that a manifest names, verified.
pub(super) async fn fetch_config(
    session: &Session,
    manifest: &Manifest,
) -> Result<(Bytes, ConfigFile), RegistryError> {
    let digest = &manifest.config.digest;
    let what = format!("image configuration {digest}");
    if manifest.config.size > MAX_CONFIG {
        return Err(RegistryError::TooLarge { what, limit: MAX_CONFIG });
    }
    let request = Request::new(Method::GET, session.url(&format!("blobs/{digest}")));
    let (_, bytes) = document(session, &request, &what, manifest.config.size.max(1)).await?;
    check_size(&what, manifest.config.size, bytes.len())?;
    let actual = Digest::of(&bytes);
    if actual != *digest {
        return Err(RegistryError::WrongDigest {
            what,
            expected: digest.to_string(),
            actual: actual.to_string(),
        });
    }
    let config = ConfigFile::parse(&bytes)?;
    if config.rootfs.diff_ids.len() != manifest.layers.len() {
        return Err(RegistryError::BadContent {
            what,
            reason: format!(
                "it names {} layers, the manifest {}",
                config.rootfs.diff_ids.len(),
                manifest.layers.len()
            ),
        });
    }
    Ok((bytes, config))
}

fn check_size(what: &str, expected: u64, actual: usize) -> Result<(), RegistryError> {
    let actual = actual as u64;
    if expected == actual {
        Ok(())
    } else {
        Err(RegistryError::WrongSize { what: what.into(), expected, actual })
    }
}

/// Tells manifest and index apart, and refuses what can't be run.
pub(super) fn parse(
    bytes: &[u8],
    content_type: &str,
    name: &str,
) -> Result<Document, RegistryError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        #[serde(default)]
        schema_version: u32,
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        config: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        layers: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
        #[serde(default)]
        fs_layers: Option<serde::de::IgnoredAny>,
    }
    let bad =
        |reason: String| RegistryError::BadContent { what: format!("manifest of {name}"), reason };
    let json = |e: serde_json::Error| bad(e.to_string());
    let shape: Shape = serde_json::from_slice(bytes).map_err(json)?;
    if shape.schema_version == 1 || shape.fs_layers.is_some() {
        return Err(RegistryError::SchemaOne { reference: name.into() });
    }
    if shape.schema_version != 2 {
        return Err(bad(format!("schema version {} is unknown", shape.schema_version)));
    }
    let is_index = shape.manifests.is_some();
    let is_manifest = shape.config.is_some() || shape.layers.is_some();
    if is_index == is_manifest {
        return Err(bad("it is not clearly either a manifest or an index".into()));
    }
    let header = content_type.split(';').next().unwrap_or_default().trim();
    let media_type = shape.media_type.as_deref().unwrap_or(header);
    let expected: &[&str] = if is_index {
        &[media::OCI_INDEX, media::DOCKER_INDEX]
    } else {
        &[media::OCI_MANIFEST, media::DOCKER_MANIFEST]
    };
    let generic =
        matches!(media_type, "" | "application/json" | "text/plain" | "application/octet-stream");
    if !expected.contains(&media_type) && !generic {
        return Err(bad(format!("unsupported media type {:?}", printable(media_type))));
    }
    let known = expected.contains(&media_type).then(|| media_type.to_owned());
    if is_index {
        let mut index: Index = serde_json::from_slice(bytes).map_err(json)?;
        index.media_type = known;
        Ok(Document::Index(index))
    } else {
        let mut manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
        manifest.media_type = known;
        Ok(Document::Manifest(Box::new(manifest)))
    }
}

/// Refuses an image whose parts can't be fetched here or aren't an image's.
pub(super) fn check_parts(manifest: &Manifest, name: &str) -> Result<(), RegistryError> {
    let bad =
        |reason: String| RegistryError::BadContent { what: format!("manifest of {name}"), reason };
    let config = manifest.config.media_type.as_str();
    if !matches!(config, "" | media::OCI_CONFIG | media::DOCKER_CONFIG | "application/octet-stream")
    {
        return Err(bad(format!(
            "it is no container image: its configuration is {:?}",
            printable(config)
        )));
    }
    for layer in &manifest.layers {
        let foreign = layer.urls.as_ref().is_some_and(|u| !u.is_empty());
        if foreign
            || layer.media_type.contains("foreign")
            || layer.media_type.contains("nondistributable")
        {
            return Err(RegistryError::ForeignLayer { digest: layer.digest.to_string() });
        }
        if !LAYERS.contains(&layer.media_type.as_str()) {
            return Err(bad(format!(
                "unsupported media type {:?} of a layer",
                printable(&layer.media_type)
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(layer: &str) -> String {
        format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"{}","digest":"{DIGEST}","size":2}},
               "layers":[{{"mediaType":"{layer}","digest":"{DIGEST}","size":2}}]}}"#,
            media::OCI_CONFIG
        )
    }

    #[test]
    fn tells_documents_apart() {
        let text = manifest(media::OCI_LAYER_GZIP);
        let read = |text: &str, content_type: &str| parse(text.as_bytes(), content_type, "x:y");
        assert!(matches!(read(&text, media::OCI_MANIFEST), Ok(Document::Manifest(_))));
        assert!(matches!(read(&text, ""), Ok(Document::Manifest(_))));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(read(index, "application/json; charset=utf-8"), Ok(Document::Index(_))));
        assert!(read(&text, media::OCI_INDEX).is_err(), "the type contradicts the content");
        let both = text.replacen('{', r#"{"manifests":[],"#, 1);
        assert!(read(&both, "").is_err(), "both at once");
        let one = r#"{"schemaVersion":1,"fsLayers":[],"name":"x"}"#;
        assert!(matches!(read(one, ""), Err(RegistryError::SchemaOne { .. })));
        for nonsense in ["", "[]", "{}", r#"{"schemaVersion":2}"#, r#"{"schemaVersion":"2"}"#] {
            assert!(read(nonsense, "").is_err(), "{nonsense}");
        }
    }

    #[test]
    fn refuses_what_is_elsewhere_or_no_image() {
        let read = |text: &str| match parse(text.as_bytes(), "", "x:y") {
            Ok(Document::Manifest(m)) => check_parts(&m, "x:y"),
            _ => panic!("not a manifest"),
        };
        assert!(read(&manifest(media::OCI_LAYER_ZSTD)).is_ok());
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert!(matches!(read(&manifest(foreign)), Err(RegistryError::ForeignLayer { .. })));
        let urls = manifest(media::OCI_LAYER)
            .replace(r#""size":2}]"#, r#""size":2,"urls":["http://169.254.169.254/"]}]"#);
        assert!(matches!(read(&urls), Err(RegistryError::ForeignLayer { .. })));
        assert!(read(&manifest("application/x-evil")).is_err());
        let helm =
            manifest(media::OCI_LAYER).replace(media::OCI_CONFIG, "application/vnd.cncf.helm");
        assert!(read(&helm).is_err());
    }
}
