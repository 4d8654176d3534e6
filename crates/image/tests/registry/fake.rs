//! A registry that misbehaves on demand.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use sampan_image::Digest;
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

type Body = BoxBody<Bytes, std::io::Error>;

/// Who may do what.
#[derive(Clone, Default)]
pub enum Guard {
    #[default]
    Open,
    /// Name and password at the registry itself.
    Basic(&'static str, &'static str),
    /// A token of the server's own `/token`, for this name and password (or
    /// the refresh token `refresh-ann`).
    Bearer(&'static str, &'static str),
    /// A challenge with this header.
    Challenge(String),
}

/// What the server has, does and saw.
#[derive(Default)]
pub struct State {
    pub guard: Guard,
    pub blobs: HashMap<String, Bytes>,
    /// By repository and tag or digest: media type and bytes.
    pub manifests: HashMap<(String, String), (String, Bytes)>,
    /// After how many bytes the next answers with this blob break.
    pub breaks: HashMap<String, VecDeque<usize>>,
    /// Whether `Range` is ignored.
    pub no_ranges: bool,
    /// Where blobs are redirected to.
    pub redirect: Option<String>,
    /// After how many bytes the next uploads break, and whether the upload is
    /// forgotten then.
    pub upload_breaks: VecDeque<(usize, bool)>,
    /// Whether mounts from other repositories are made.
    pub mounts: bool,
    /// The repository whose blobs are not there until they are mounted or sent.
    pub hidden: Option<String>,
    /// Sends garbage without end instead of a manifest.
    pub endless_manifest: bool,
    pub uploads: HashMap<String, Vec<u8>>,
    pub seen: Vec<Seen>,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// A running server; stops when dropped.
pub struct Fake {
    pub address: String,
    state: Arc<Mutex<State>>,
    task: AbortHandle,
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Fake {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State::default()));
        let (served, own) = (Arc::clone(&state), address.clone());
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (state, own) = (Arc::clone(&served), own.clone());
                tokio::spawn(async move {
                    let service = hyper::service::service_fn(move |request| {
                        let (state, own) = (Arc::clone(&state), own.clone());
                        async move { answer(&state, &own, request).await }
                    });
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        })
        .abort_handle();
        Self { address, state, task }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub fn add_blob(&self, bytes: impl Into<Bytes>) -> Digest {
        let bytes = bytes.into();
        let digest = Digest::of(&bytes);
        self.state().blobs.insert(digest.to_string(), bytes);
        digest
    }

    pub fn add_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Digest {
        let digest = Digest::of(&bytes);
        let entry = (media_type.to_owned(), Bytes::from(bytes));
        let mut state = self.state();
        state.manifests.insert((repository.into(), digest.to_string()), entry.clone());
        if !tag.is_empty() {
            state.manifests.insert((repository.into(), tag.into()), entry);
        }
        digest
    }

    /// The requests for targets that contain `part`.
    pub fn seen(&self, method: &Method, part: &str) -> Vec<Seen> {
        let state = self.state();
        state
            .seen
            .iter()
            .filter(|s| s.method == method && s.target.contains(part))
            .cloned()
            .collect()
    }
}

async fn answer(
    state: &Mutex<State>,
    own: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let target = request.uri().to_string();
    let method = request.method().clone();
    state.lock().unwrap().seen.push(Seen {
        method: method.clone(),
        target: target.clone(),
        headers: request.headers().clone(),
    });
    let path = request.uri().path().to_owned();
    if path == "/token" {
        return Ok(token(state, request).await);
    }
    if let Some(refusal) = guard(&state.lock().unwrap(), own, request.headers()) {
        return Ok(refusal);
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return Ok(error(404, "NAME_UNKNOWN", "no")) };
    if rest.is_empty() {
        return Ok(response(200, "{}"));
    }
    for part in ["manifests/", "blobs/uploads/", "blobs/", "tags/list"] {
        let Some((repository, name)) = rest.split_once(&format!("/{part}")) else { continue };
        let (repository, name) = (repository.to_owned(), name.to_owned());
        return match part {
            "manifests/" => Ok(manifest(state, &repository, &name, request).await),
            "tags/list" => Ok(tags(&state.lock().unwrap(), &repository, &target)),
            "blobs/" => Ok(blob(&mut state.lock().unwrap(), &name, &request)),
            _ => upload(state, &repository, &name, request).await,
        };
    }
    Ok(error(404, "NAME_UNKNOWN", "repository name not known to registry"))
}

fn guard(state: &State, own: &str, headers: &HeaderMap) -> Option<Response<Body>> {
    let sent = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (fine, challenge) = match &state.guard {
        Guard::Open => return None,
        Guard::Basic(name, password) => {
            (sent == basic(name, password), "Basic realm=\"fake\"".into())
        }
        Guard::Bearer(..) => (
            sent.starts_with("Bearer token-for"),
            format!("Bearer realm=\"http://{own}/token\",service=\"fake\""),
        ),
        Guard::Challenge(text) => (false, text.clone()),
    };
    if fine {
        return None;
    }
    let mut refusal = error(401, "UNAUTHORIZED", "authentication required");
    refusal.headers_mut().insert("www-authenticate", challenge.parse().unwrap());
    Some(refusal)
}

async fn token(state: &Mutex<State>, request: Request<Incoming>) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default().to_owned();
    let headers = request.headers().clone();
    let posted = request.method() == Method::POST;
    let form = request.into_body().collect().await.unwrap().to_bytes();
    let form = String::from_utf8_lossy(&form).into_owned();
    let Guard::Bearer(name, password) = state.lock().unwrap().guard.clone() else {
        return error(404, "NAME_UNKNOWN", "no tokens here");
    };
    let sent = headers.get("authorization").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let fine = if posted {
        form.contains("grant_type=refresh_token") && form.contains("refresh_token=refresh-ann")
    } else {
        name.is_empty() || sent == basic(name, password)
    };
    if !fine {
        return response(401, r#"{"details":"incorrect username or password"}"#);
    }
    let asked = if posted { form } else { query };
    let scopes: Vec<&str> = asked.split('&').filter_map(|p| p.strip_prefix("scope=")).collect();
    let refresh =
        if asked.contains("offline_token=true") { r#","refresh_token":"refresh-ann""# } else { "" };
    response(
        200,
        format!(r#"{{"token":"token-for {}","expires_in":300{refresh}}}"#, scopes.join(" ")),
    )
}

async fn manifest(
    state: &Mutex<State>,
    repository: &str,
    name: &str,
    request: Request<Incoming>,
) -> Response<Body> {
    let key = (repository.to_owned(), name.to_owned());
    if request.method() == Method::PUT {
        let media_type = request.headers()["content-type"].to_str().unwrap().to_owned();
        let bytes = request.into_body().collect().await.unwrap().to_bytes();
        let digest = Digest::of(&bytes).to_string();
        let mut state = state.lock().unwrap();
        state
            .manifests
            .insert((repository.to_owned(), digest.clone()), (media_type.clone(), bytes.clone()));
        state.manifests.insert(key, (media_type, bytes));
        let mut created = response(201, "");
        created.headers_mut().insert("docker-content-digest", digest.parse().unwrap());
        return created;
    }
    let state = state.lock().unwrap();
    if state.endless_manifest {
        let chunk = Bytes::from(vec![b' '; 64 << 10]);
        let body = futures_util::stream::repeat_with(move || Ok(Frame::data(chunk.clone())));
        return Response::new(StreamBody::new(body).boxed());
    }
    let Some((media_type, bytes)) = state.manifests.get(&key) else {
        return error(404, "MANIFEST_UNKNOWN", "manifest unknown");
    };
    let mut found = response(200, bytes.clone());
    found.headers_mut().insert("content-type", media_type.parse().unwrap());
    found
}

fn tags(state: &State, repository: &str, target: &str) -> Response<Body> {
    let mut tags: Vec<&str> = state
        .manifests
        .keys()
        .filter(|(r, t)| r == repository && !t.contains(':'))
        .map(|(_, t)| t.as_str())
        .collect();
    tags.sort_unstable();
    // One tag on each page.
    let page = target.split_once("page=").and_then(|(_, n)| n.parse().ok()).unwrap_or(0);
    let shown: Vec<&str> = tags.iter().skip(page).take(1).copied().collect();
    let mut found =
        response(200, serde_json::json!({ "name": repository, "tags": shown }).to_string());
    if page + 1 < tags.len() {
        let link = format!("</v2/{repository}/tags/list?page={}>; rel=\"next\"", page + 1);
        found.headers_mut().insert("link", link.parse().unwrap());
    }
    found
}

fn blob(state: &mut State, name: &str, request: &Request<Incoming>) -> Response<Body> {
    if let Some(base) = &state.redirect {
        let mut moved = response(307, "");
        moved
            .headers_mut()
            .insert("location", format!("{base}/v2/x/blobs/{name}?sig=s3cret").parse().unwrap());
        return moved;
    }
    let Some(bytes) = state.blobs.get(name).cloned() else {
        return error(404, "BLOB_UNKNOWN", "blob unknown to registry");
    };
    if request.method() == Method::HEAD {
        let hidden =
            state.hidden.as_ref().is_some_and(|r| request.uri().path().contains(r.as_str()));
        if hidden {
            return error(404, "BLOB_UNKNOWN", "");
        }
        return response(200, "");
    }
    let range = request.headers().get("range").and_then(|v| v.to_str().ok());
    let start: usize = range
        .filter(|_| !state.no_ranges)
        .and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .unwrap_or(0);
    let (total, bytes) = (bytes.len(), bytes.slice(start..));
    let broken = state.breaks.get_mut(name).and_then(VecDeque::pop_front);
    let body = match broken {
        Some(after) => breaking(bytes.slice(..after.min(bytes.len()))),
        None => full(bytes.clone()),
    };
    let mut builder = Response::builder().header("content-length", bytes.len());
    if start > 0 {
        builder = builder
            .status(206)
            .header("content-range", format!("bytes {start}-{}/{total}", total - 1));
    }
    builder.body(body).unwrap()
}

async fn upload(
    state: &Mutex<State>,
    repository: &str,
    id: &str,
    request: Request<Incoming>,
) -> Result<Response<Body>, std::io::Error> {
    let method = request.method().clone();
    let query = request.uri().query().unwrap_or_default().to_owned();
    let at = |status: u16, id: &str, length: usize| {
        let mut answer = response(status, "");
        let location = format!("/v2/{repository}/blobs/uploads/{id}?state=s");
        answer.headers_mut().insert("location", location.parse().unwrap());
        let range = format!("0-{}", length.saturating_sub(1));
        answer.headers_mut().insert("range", range.parse().unwrap());
        answer
    };
    if method == Method::POST {
        let mut state = state.lock().unwrap();
        let mounted = query.contains("mount=") && state.mounts;
        if mounted {
            let digest = query.split("mount=").nth(1).unwrap().split('&').next().unwrap();
            let digest = digest.replace("%3A", ":");
            if state.blobs.contains_key(&digest) {
                return Ok(at(201, "mounted", 0));
            }
        }
        let id = format!("u{}", state.uploads.len());
        state.uploads.insert(id.clone(), Vec::new());
        return Ok(at(202, &id, 0));
    }
    if !state.lock().unwrap().uploads.contains_key(id) {
        return Ok(error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"));
    }
    if method == Method::GET {
        let length = state.lock().unwrap().uploads[id].len();
        return Ok(at(204, id, length));
    }
    if method == Method::DELETE {
        state.lock().unwrap().uploads.remove(id);
        return Ok(response(204, ""));
    }
    let breaks = if method == Method::PATCH {
        state.lock().unwrap().upload_breaks.pop_front()
    } else {
        None
    };
    let mut body = request.into_body();
    while let Some(frame) = body.frame().await {
        let Ok(Ok(data)) = frame.map(Frame::into_data) else { break };
        let mut state = state.lock().unwrap();
        let Some(upload) = state.uploads.get_mut(id) else { break };
        upload.extend_from_slice(&data);
        if let Some((after, forget)) = breaks
            && upload.len() >= after
        {
            upload.truncate(after);
            if forget {
                state.uploads.remove(id);
            }
            // An error of the service closes the connection.
            return Err(std::io::Error::other("broken on demand"));
        }
    }
    let mut state = state.lock().unwrap();
    if method == Method::PATCH {
        let length = state.uploads[id].len();
        return Ok(at(202, id, length));
    }
    let content = Bytes::from(state.uploads.remove(id).unwrap_or_default());
    let digest = Digest::of(&content).to_string();
    if !query.replace("%3A", ":").contains(&digest) {
        return Ok(error(400, "DIGEST_INVALID", "provided digest did not match uploaded content"));
    }
    state.blobs.insert(digest, content);
    Ok(response(201, ""))
}

pub fn basic(name: &str, password: &str) -> String {
    use base64::Engine as _;
    let engine = base64::engine::general_purpose::STANDARD;
    format!("Basic {}", engine.encode(format!("{name}:{password}")))
}

fn full(bytes: impl Into<Bytes>) -> Body {
    http_body_util::Full::new(bytes.into()).map_err(|e: Infallible| match e {}).boxed()
}

/// A body that breaks off after `bytes`.
fn breaking(bytes: Bytes) -> Body {
    let frames = futures_util::stream::unfold(Some(bytes), |rest| async {
        match rest {
            Some(bytes) if !bytes.is_empty() => Some((Ok(Frame::data(bytes)), Some(Bytes::new()))),
            // What was given is sent only when there is nothing more for now.
            Some(_) => {
                tokio::task::yield_now().await;
                Some((Err(std::io::Error::other("broken on demand")), None))
            }
            None => None,
        }
    });
    StreamBody::new(Box::pin(frames)).boxed()
}

fn response(status: u16, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

fn error(status: u16, code: &str, message: &str) -> Response<Body> {
    let body = serde_json::json!({ "errors": [{ "code": code, "message": message }] });
    response(status, body.to_string())
}
