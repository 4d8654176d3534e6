//! docker's `config.json`: who the user is at which registry.
//!
//! Be aware:
//! - Secrets come from a helper program when one is named, as docker does it:
//!   `docker-credential-NAME get` with the registry on its standard input.
//! - Writing keeps every field that isn't understood here.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Map, Value, json};

/// The name under which docker keeps its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// The file, read.
#[derive(Debug, Clone)]
pub struct Config {
    path: PathBuf,
    value: Value,
}

/// A user at a registry.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The user's name.
    pub username: String,
    /// The password, empty with a token.
    pub password: String,
    /// A token that stands for the password.
    pub identity_token: String,
}

impl Config {
    /// Where the file is looked for when nothing is said.
    #[must_use]
    pub fn default_dir() -> PathBuf {
        let named = std::env::var_os("DOCKER_CONFIG").map(PathBuf::from);
        let home = || PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
        named.unwrap_or_else(|| home().join(".docker"))
    }

    /// Reads the file of a directory; none is an empty one.
    ///
    /// # Errors
    /// When it can't be read or isn't JSON.
    pub fn load(dir: &std::path::Path) -> Result<Self> {
        let path = dir.join("config.json");
        let value = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("read the configuration {}", path.display()))?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => json!({}),
            Err(e) => {
                return Err(e)
                    .with_context(|| format!("read the configuration {}", path.display()));
            }
        };
        Ok(Self { path, value })
    }

    /// The keys that detach, when the file names some.
    #[must_use]
    pub fn detach_keys(&self) -> Option<String> {
        self.text("detachKeys")
    }

    /// The default form of a listing: `psFormat`, `imagesFormat` …
    #[must_use]
    pub fn format(&self, key: &str) -> Option<String> {
        self.text(key)
    }

    fn text(&self, key: &str) -> Option<String> {
        self.value[key].as_str().filter(|t| !t.is_empty()).map(str::to_owned)
    }

    /// Who the user is at `domain`.
    ///
    /// # Errors
    /// When a helper can't be run.
    pub fn credentials(&self, domain: &str) -> Result<Credentials> {
        let key = key_of(domain);
        if let Some(helper) = self.helper(&key, domain) {
            return ask_helper(&helper, &key);
        }
        let auths = self.value["auths"].as_object();
        let entry = auths.and_then(|auths| {
            let same = |k: &&String| host_of(k) == host_of(&key);
            auths.get(&key).or_else(|| auths.keys().find(same).and_then(|k| auths.get(k)))
        });
        Ok(entry.map(from_entry).unwrap_or_default())
    }

    fn helper(&self, key: &str, domain: &str) -> Option<String> {
        let helpers = &self.value["credHelpers"];
        let own = helpers[domain].as_str().or_else(|| helpers[key].as_str());
        own.map(str::to_owned).or_else(|| self.text("credsStore"))
    }

    /// The value of `X-Registry-Auth` for `domain`.
    ///
    /// # Errors
    /// As [`Config::credentials`].
    pub fn auth_header(&self, domain: &str) -> Result<String> {
        Ok(URL_SAFE.encode(self.credentials(domain)?.body(domain).to_string()))
    }

    /// Remembers who the user is at `domain`; returns where that is written in
    /// plain text, if it is.
    ///
    /// # Errors
    /// When a helper refuses or the file can't be written.
    pub fn store(&mut self, domain: &str, credentials: &Credentials) -> Result<Option<PathBuf>> {
        let key = key_of(domain);
        if let Some(helper) = self.helper(&key, domain) {
            let has_token = !credentials.identity_token.is_empty();
            let (user, secret) = if has_token {
                ("<token>", &credentials.identity_token)
            } else {
                (credentials.username.as_str(), &credentials.password)
            };
            let input = json!({"ServerURL": key, "Username": user, "Secret": secret});
            run_helper(&helper, "store", &input.to_string())?;
            self.object("auths").insert(key, json!({}));
            self.save()?;
            return Ok(None);
        }
        let auth = STANDARD.encode(format!("{}:{}", credentials.username, credentials.password));
        let mut entry = json!({"auth": auth});
        if !credentials.identity_token.is_empty() {
            entry["identitytoken"] = credentials.identity_token.as_str().into();
        }
        self.object("auths").insert(key, entry);
        self.save()?;
        Ok(Some(self.path.clone()))
    }

    /// Forgets who the user is at `domain`; whether anything was known.
    ///
    /// # Errors
    /// When a helper refuses or the file can't be written.
    pub fn erase(&mut self, domain: &str) -> Result<bool> {
        let key = key_of(domain);
        if let Some(helper) = self.helper(&key, domain) {
            run_helper(&helper, "erase", &key)?;
        }
        let was_known = self.object("auths").remove(&key).is_some();
        if was_known {
            self.save()?;
        }
        Ok(was_known)
    }

    fn object(&mut self, key: &str) -> &mut Map<String, Value> {
        if !self.value[key].is_object() {
            self.value[key] = json!({});
        }
        match &mut self.value[key] {
            Value::Object(map) => map,
            _ => unreachable!("made an object above"),
        }
    }

    /// Replaces the file at once; only its owner may read it.
    fn save(&self) -> Result<()> {
        use std::os::unix::fs::OpenOptionsExt;
        let failed = || format!("write the configuration {}", self.path.display());
        let dir = self.path.parent().context("the configuration has no directory")?;
        std::fs::create_dir_all(dir).with_context(failed)?;
        // A link stays a link.
        let target = std::fs::canonicalize(&self.path).unwrap_or_else(|_| self.path.clone());
        let temporary = target.with_extension(format!("json.{}", std::process::id()));
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary).with_context(failed)?;
        file.write_all(serde_json::to_string_pretty(&self.value)?.as_bytes())
            .and_then(|()| file.sync_all())
            .with_context(failed)?;
        std::fs::rename(&temporary, &target).with_context(failed)
    }
}

impl Credentials {
    /// The API's form.
    #[must_use]
    pub fn body(&self, domain: &str) -> Value {
        let mut body = json!({"serveraddress": key_of(domain)});
        let fields = [
            ("username", &self.username),
            ("password", &self.password),
            ("identitytoken", &self.identity_token),
        ];
        for (key, text) in fields {
            if !text.is_empty() {
                body[key] = text.as_str().into();
            }
        }
        body
    }
}

/// docker's registry has a URL for a key, all others their host.
pub fn key_of(domain: &str) -> String {
    match host_of(domain) {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB.to_owned(),
        host => host.to_owned(),
    }
}

fn host_of(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

fn from_entry(entry: &Value) -> Credentials {
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let decoded = STANDARD.decode(text("auth")).ok().and_then(|b| String::from_utf8(b).ok());
    let (username, password) = match decoded.as_deref().and_then(|d| d.split_once(':')) {
        Some((user, password)) => (user.to_owned(), password.trim_end_matches('\0').to_owned()),
        None => (text("username"), text("password")),
    };
    Credentials { username, password, identity_token: text("identitytoken") }
}

fn ask_helper(helper: &str, key: &str) -> Result<Credentials> {
    let Some(answer) = run_helper(helper, "get", key)? else { return Ok(Credentials::default()) };
    let answer: Value = serde_json::from_str(&answer)
        .with_context(|| format!("read the answer of docker-credential-{helper}"))?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    let (username, secret) = (text("Username"), text("Secret"));
    Ok(if username == "<token>" {
        Credentials { identity_token: secret, ..Credentials::default() }
    } else {
        Credentials { username, password: secret, identity_token: String::new() }
    })
}

/// What the helper printed; `None` when it knows nothing about the registry.
fn run_helper(helper: &str, action: &str, input: &str) -> Result<Option<String>> {
    if helper.contains('/') {
        bail!("credential helper {helper:?}: a name is expected, not a path");
    }
    let program = format!("docker-credential-{helper}");
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("run the credential helper {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that needs no input may be gone already.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() {
        return Ok(Some(text));
    }
    if text.contains("credentials not found") {
        return Ok(None);
    }
    bail!("error getting credentials - err: {}, out: `{text}`", output.status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_and_found() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), r#"{"other": 1}"#).unwrap();
        let mut config = Config::load(dir.path()).unwrap();
        let me = Credentials {
            username: "me".into(),
            password: "a:b".into(),
            identity_token: String::new(),
        };
        assert!(config.store("localhost:5000", &me).unwrap().is_some());
        let mut again = Config::load(dir.path()).unwrap();
        assert_eq!(again.credentials("localhost:5000").unwrap(), me);
        assert_eq!(again.credentials("docker.io").unwrap(), Credentials::default());
        assert_eq!(again.value["other"], 1);
        assert!(again.erase("localhost:5000").unwrap());
        assert!(!again.erase("localhost:5000").unwrap());
    }

    #[test]
    fn the_hub_has_a_url() {
        assert_eq!(key_of("docker.io"), DOCKER_HUB);
        assert_eq!(key_of("https://x:1/v2/"), "x:1");
        let entry = json!({"auth": STANDARD.encode("u:p")});
        assert_eq!(from_entry(&entry).password, "p");
    }
}
