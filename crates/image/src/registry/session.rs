//! A conversation with one repository at one address: requests, and the
//! authorisation that they turn out to need.
//!
//! Be aware:
//! - Nothing is asked in advance: the first request meets the challenge, the
//!   answer to it is kept for the next ones.
//! - Credentials go to the registry itself (Basic) or to the realm that it
//!   names over HTTPS (Bearer), as the token specification wants it:
//!   <https://distribution.github.io/distribution/spec/auth/token/>.
//! - Scopes are ours, never those that the challenge suggests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, StatusCode};
use reqwest::{Response, Url};
use serde::Deserialize;

use super::challenge::{Challenge, challenge_error, challenges, preferred};
use super::config::{AuthConfig, basic_header};
use super::endpoint::Endpoint;
use super::error::RegistryError;
use super::transport::{
    Body, Request, Transport, display_url, host_of, read_limited, status_error,
};

const CLIENT_ID: &str = "sampan";
const MAX_TOKEN_BODY: u64 = 1 << 20;
/// What the token specification says where a server names no life time.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// A token is not used in its last seconds.
const TOKEN_MARGIN: Duration = Duration::from_secs(10);

/// See the module's text.
pub(super) struct Session {
    pub(super) transport: Arc<Transport>,
    pub(super) endpoint: Endpoint,
    /// The path of the repository, as `library/busybox`; empty for a login.
    pub(super) repository: String,
    auth: Option<AuthConfig>,
    scopes: Vec<String>,
    /// What the last challenge brought. Locked for reading and replacing only.
    granted: Mutex<Vec<Grant>>,
}

/// An `Authorization` value and what it is good for.
#[derive(Clone)]
struct Grant {
    scopes: Vec<String>,
    value: HeaderValue,
    expires: Option<Instant>,
}

/// The answer of a token server.
#[derive(Deserialize, Default)]
#[serde(default)]
struct TokenAnswer {
    token: String,
    access_token: String,
    expires_in: Option<u64>,
    refresh_token: String,
}

/// A token, and the refresh token where one was asked for and given.
pub(super) struct Token {
    value: HeaderValue,
    expires: Instant,
    pub(super) refresh: Option<String>,
}

impl Session {
    /// For `actions` ("pull" or "pull,push") on `repository`. Credentials
    /// don't go to mirrors: they are the registry's.
    pub(super) fn new(
        transport: Arc<Transport>,
        endpoint: Endpoint,
        repository: &str,
        actions: &str,
        auth: Option<&AuthConfig>,
    ) -> Self {
        let scopes = if repository.is_empty() {
            Vec::new()
        } else {
            vec![format!("repository:{repository}:{actions}")]
        };
        let auth = auth.filter(|a| !endpoint.mirror && !a.is_empty()).cloned();
        Self {
            transport,
            endpoint,
            repository: repository.to_owned(),
            auth,
            scopes,
            granted: Mutex::default(),
        }
    }

    /// `<base>/v2/<repository>/<rest>`. Repository and rest come from checked
    /// names, so that they can't lead elsewhere.
    pub(super) fn url(&self, rest: &str) -> Url {
        let mut url = self.endpoint.base.clone();
        url.set_path(&format!("/v2/{}/{rest}", self.repository));
        url
    }

    /// Sends a request, authorised as needed; the answer has any status but a
    /// challenge that credentials could meet.
    pub(super) async fn send(&self, request: &Request) -> Result<Response, RegistryError> {
        self.send_scoped(request, &[]).await
    }

    /// As [`Self::send`], for a request that touches another repository too.
    pub(super) async fn send_scoped(
        &self,
        request: &Request,
        more_scopes: &[String],
    ) -> Result<Response, RegistryError> {
        let scopes: Vec<String> = self.scopes.iter().chain(more_scopes).cloned().collect();
        let own = request.url.origin() == self.endpoint.base.origin();
        let known = if own { self.known(&scopes) } else { None };
        let response = self.transport.send(request, known.as_ref()).await?;
        let challenged = response.status() == StatusCode::UNAUTHORIZED
            && own
            && response.url().origin() == self.endpoint.base.origin();
        if !challenged {
            return Ok(response);
        }
        match self.answer(&scopes, &response, request).await? {
            Some(value) => self.transport.send(request, Some(&value)).await,
            None => Ok(response),
        }
    }

    /// Sends a request and refuses every status but `expected`.
    pub(super) async fn expect(
        &self,
        request: &Request,
        expected: &[StatusCode],
    ) -> Result<Response, RegistryError> {
        let response = self.send(request).await?;
        self.check(&request.method, response, expected).await
    }

    /// Refuses every status but `expected`.
    pub(super) async fn check(
        &self,
        method: &Method,
        response: Response,
        expected: &[StatusCode],
    ) -> Result<Response, RegistryError> {
        if expected.contains(&response.status()) {
            return Ok(response);
        }
        let code = challenge_error(response.headers());
        Err(status_error(&self.transport, method, response, code).await)
    }

    fn known(&self, scopes: &[String]) -> Option<HeaderValue> {
        if let Some(auth) = self.auth.as_ref().filter(|a| !a.registrytoken.is_empty()) {
            return bearer(&auth.registrytoken);
        }
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        granted
            .iter()
            .find(|g| g.scopes == scopes && g.expires.is_none_or(|e| e > now))
            .map(|g| g.value.clone())
    }

    /// Meets the challenge of a 401, and keeps what it got.
    async fn answer(
        &self,
        scopes: &[String],
        response: &Response,
        request: &Request,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        if self.auth.as_ref().is_some_and(|a| !a.registrytoken.is_empty()) {
            return Ok(None);
        }
        let challenges = challenges(response.headers());
        let grant = match preferred(&challenges) {
            Some(Challenge::Basic) => {
                let (name, password) =
                    self.auth.as_ref().and_then(AuthConfig::basic).ok_or_else(|| {
                        RegistryError::NoCredentials {
                            method: super::transport::verb(&request.method),
                            url: display_url(&request.url),
                        }
                    })?;
                let Some(value) = secret(&basic_header(&name, &password)) else { return Ok(None) };
                Grant { scopes: scopes.to_vec(), value, expires: None }
            }
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(realm, service.as_deref(), scopes, false).await?;
                Grant { scopes: scopes.to_vec(), value: token.value, expires: Some(token.expires) }
            }
            None => return Ok(None),
        };
        let value = grant.value.clone();
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.retain(|g| g.scopes != grant.scopes);
        granted.push(grant);
        Ok(Some(value))
    }

    /// For a login: proves the credentials at `GET /v2/`. The refresh token,
    /// where the registry gives one.
    pub(super) async fn prove(&self) -> Result<Option<String>, RegistryError> {
        let mut url = self.endpoint.base.clone();
        url.set_path("/v2/");
        let request = Request::new(Method::GET, url);
        let response = self.transport.send(&request, None).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.proven(&request, response).await.map(|()| None);
        }
        let challenges = challenges(response.headers());
        let (value, refresh) = match preferred(&challenges) {
            Some(Challenge::Bearer { realm, service }) => {
                let token = self.token(realm, service.as_deref(), &[], true).await?;
                (Some(token.value), token.refresh)
            }
            Some(Challenge::Basic) => {
                let basic = self.auth.as_ref().and_then(AuthConfig::basic);
                (basic.and_then(|(name, password)| secret(&basic_header(&name, &password))), None)
            }
            None => (None, None),
        };
        let response = match value {
            Some(value) => self.transport.send(&request, Some(&value)).await?,
            None => response,
        };
        self.proven(&request, response).await.map(|()| refresh)
    }

    async fn proven(&self, request: &Request, response: Response) -> Result<(), RegistryError> {
        match response.status() {
            StatusCode::OK => Ok(()),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(RegistryError::LoginRefused {
                    url: display_url(&request.url),
                    status: status.to_string(),
                })
            }
            _ => Err(status_error(&self.transport, &request.method, response, None).await),
        }
    }

    /// Asks the token server: with the refresh token by POST, with name and
    /// password by GET, or anonymously.
    async fn token(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        offline: bool,
    ) -> Result<Token, RegistryError> {
        let realm = self.checked_realm(realm).await?;
        let identity =
            self.auth.as_ref().map(|a| a.identitytoken.as_str()).filter(|t| !t.is_empty());
        let basic = self.auth.as_ref().and_then(AuthConfig::basic);
        let (request, authorization) = if let Some(identity) = identity {
            (refresh_request(realm, service, scopes, identity), None)
        } else {
            let account = basic.as_ref().map(|(name, _)| name.as_str());
            let request = token_request(realm, service, scopes, account, offline);
            (request, basic.and_then(|(name, password)| secret(&basic_header(&name, &password))))
        };
        let response = self.transport.send(&request, authorization.as_ref()).await?;
        let status = response.status();
        if status != StatusCode::OK {
            let refused = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN);
            let error = status_error(&self.transport, &request.method, response, None).await;
            return Err(if offline && refused {
                RegistryError::LoginRefused {
                    url: display_url(&self.endpoint.base),
                    status: error.to_string(),
                }
            } else {
                error
            });
        }
        let url = display_url(&request.url);
        let what = format!("token of {url}");
        let body = read_limited(&self.transport, response, &what, MAX_TOKEN_BODY).await?;
        read_token(&body, what)
    }

    async fn checked_realm(&self, realm: &str) -> Result<Url, RegistryError> {
        let refuse = |target: String, reason| RegistryError::UnsafeRedirect {
            method: "Authorize".into(),
            url: display_url(&self.endpoint.base),
            target,
            reason,
        };
        let url = self
            .endpoint
            .base
            .join(realm)
            .map_err(|_| refuse(super::transport::printable(realm), "it is not an address"))?;
        let plain_allowed = self.endpoint.base.scheme() == "http"
            || self.transport.is_insecure(&host_of(&url)).await;
        match url.scheme() {
            "https" => Ok(url),
            "http" if plain_allowed => Ok(url),
            "http" => Err(refuse(display_url(&url), "credentials would be sent in plain HTTP")),
            _ => Err(refuse(display_url(&url), "it is neither HTTP nor HTTPS")),
        }
    }
}

fn token_request(
    mut url: Url,
    service: Option<&str>,
    scopes: &[String],
    account: Option<&str>,
    offline: bool,
) -> Request {
    {
        let mut query = url.query_pairs_mut();
        if let Some(account) = account {
            query.append_pair("account", account);
        }
        if let Some(service) = service {
            query.append_pair("service", service);
        }
        for scope in scopes {
            query.append_pair("scope", scope);
        }
        if offline {
            query.append_pair("client_id", CLIENT_ID).append_pair("offline_token", "true");
        }
    }
    Request::new(Method::GET, url)
}

fn refresh_request(url: Url, service: Option<&str>, scopes: &[String], identity: &str) -> Request {
    // A form is what a query is; the address serves as its encoder only.
    let mut form = url.clone();
    form.set_query(None);
    form.query_pairs_mut()
        .append_pair("grant_type", "refresh_token")
        .append_pair("client_id", CLIENT_ID)
        .append_pair("service", service.unwrap_or_default())
        .append_pair("scope", &scopes.join(" "))
        .append_pair("refresh_token", identity);
    let body = Bytes::from(form.query().unwrap_or_default().to_owned());
    Request::new(Method::POST, url)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::Bytes(body))
}

fn read_token(body: &[u8], what: String) -> Result<Token, RegistryError> {
    // The parser's own message could repeat a part of the token.
    let bad =
        |reason: &str| RegistryError::BadContent { what: what.clone(), reason: reason.into() };
    let answer: TokenAnswer =
        serde_json::from_slice(body).map_err(|_| bad("it is not the JSON of a token"))?;
    let text = if answer.token.is_empty() { &answer.access_token } else { &answer.token };
    let value = Some(text)
        .filter(|t| !t.is_empty())
        .and_then(|t| bearer(t))
        .ok_or_else(|| bad("it holds no usable token"))?;
    let life = answer.expires_in.map_or(TOKEN_LIFE, |s| Duration::from_secs(s.min(86_400)));
    Ok(Token {
        value,
        expires: Instant::now() + life.saturating_sub(TOKEN_MARGIN),
        refresh: Some(answer.refresh_token).filter(|t| !t.is_empty()),
    })
}

fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

/// A header value that debug output doesn't show.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn token_requests_carry_scopes_and_no_secret_in_the_address() {
        let realm = Url::parse("https://auth.example/token?x=1").unwrap();
        let scopes = ["repository:a/b:pull".to_owned(), "repository:c:pull".to_owned()];
        let request = token_request(realm.clone(), Some("s"), &scopes, Some("ann"), true);
        assert_eq!(
            request.url.as_str(),
            "https://auth.example/token?x=1&account=ann&service=s&scope=repository%3Aa%2Fb%3Apull\
             &scope=repository%3Ac%3Apull&client_id=sampan&offline_token=true"
        );
        let request = refresh_request(realm, None, &scopes, "r&t");
        assert!(!request.url.as_str().contains("r&t"));
        let Body::Bytes(body) = request.body else { panic!("no body") };
        assert!(body.ends_with(b"refresh_token=r%26t"));
    }

    #[test]
    fn tokens_have_two_names_and_are_not_repeated_in_errors() {
        let name = || "token".to_owned();
        let token = read_token(br#"{"access_token":"abc","refresh_token":"r"}"#, name()).unwrap();
        assert_eq!(token.value, "Bearer abc");
        assert!(token.value.is_sensitive());
        assert_eq!(token.refresh.as_deref(), Some("r"));
        let error = read_token(br#"{"token":"s3cret", x}"#, name()).err().unwrap().to_string();
        assert!(!error.contains("s3cret"));
        assert!(read_token(br#"{"token":"a\nb"}"#, name()).is_err());
    }
}
