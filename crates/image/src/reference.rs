//! Image references: `[domain/]path[:tag][@digest]`, by the grammar and the
//! normalisation of github.com/distribution/reference.

use std::fmt;
use std::str::FromStr;

use sampan_types::{ErrorKind, Kind};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Digest, DigestError};

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// Why a text is not a reference, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// It would, in lower case.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// There is no name in it.
    #[error("invalid reference format: repository name must have at least one component")]
    Empty,
    /// The name is too long.
    #[error("repository name must not be more than {MAX_NAME} characters")]
    TooLong,
    /// It would be mistaken for an image id.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    Identifier(String),
    /// The digest in it is wrong or of an unknown algorithm.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Kind for ReferenceError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

/// A normalised reference: the domain is always there, `docker.io` if none was
/// given, and official images are below `library/`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// The registry: `docker.io`, `localhost:5000` …
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/busybox`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: `docker.io/library/busybox`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The name as users write it: `busybox`, `user/app`, `localhost:5000/app`.
    #[must_use]
    pub fn familiar_name(&self) -> String {
        let short = match self.path.strip_prefix(OFFICIAL) {
            Some(rest) if !rest.contains('/') => rest,
            _ => &self.path,
        };
        let host = short.split_once('/').is_some_and(|(first, _)| is_explicit_domain(first));
        // Not when it would be read as another registry's, or as an id.
        if self.domain != DEFAULT_DOMAIN || host || is_identifier(short) {
            return self.name();
        }
        short.to_owned()
    }

    /// The reference as users write it: `busybox:1.36`, `app@sha256:…`.
    #[must_use]
    pub fn familiar(&self) -> String {
        self.suffixed(self.familiar_name())
    }

    /// Whether both name the same repository.
    #[must_use]
    pub fn same_repository(&self, other: &Self) -> bool {
        self.domain == other.domain && self.path == other.path
    }

    /// This reference with the tag `latest`, unless it has a tag or a digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this tag and no digest.
    ///
    /// # Errors
    /// When the tag is not of the form `[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}`.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The repository alone.
    #[must_use]
    pub fn repository(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    fn suffixed(&self, mut text: String) -> String {
        if let Some(tag) = &self.tag {
            text.push(':');
            text.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            text.push('@');
            text.push_str(digest.as_str());
        }
        text
    }
}

impl fmt::Display for Reference {
    /// The whole, normalised form.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.suffixed(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        if is_identifier(text) {
            return Err(ReferenceError::Identifier(text.to_owned()));
        }
        if text.is_empty() {
            return Err(ReferenceError::Empty);
        }
        let (domain, remainder) = split_domain(text);
        // A digest holds colons too: cut it off before looking for the tag.
        let (named, digest) = match remainder.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match named.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        if !path.split('/').all(is_component) || !is_domain(&domain) {
            let lower = path.to_ascii_lowercase();
            if lower != path && lower.split('/').all(is_component) && is_domain(&domain) {
                return Err(ReferenceError::Uppercase(path.to_owned()));
            }
            return Err(ReferenceError::Format);
        }
        if tag.is_some_and(|t| !is_tag(t)) {
            return Err(ReferenceError::Format);
        }
        if domain.len() + 1 + path.len() > MAX_NAME {
            return Err(ReferenceError::TooLong);
        }
        let digest = digest.map(parse_digest).transpose()?;
        Ok(Self { path: path.to_owned(), tag: tag.map(str::to_owned), domain, digest })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// The domain and the rest, both normalised.
fn split_domain(text: &str) -> (String, String) {
    let (domain, rest) = match text.split_once('/') {
        Some((first, rest)) if is_explicit_domain(first) => {
            (if first == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { first }, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let official = domain == DEFAULT_DOMAIN && !rest.contains('/');
    (domain.to_owned(), if official { format!("{OFFICIAL}{rest}") } else { rest.to_owned() })
}

/// Whether the part before the first slash names a registry, not a user.
fn is_explicit_domain(first: &str) -> bool {
    first == "localhost"
        || first.contains(['.', ':'])
        || first.bytes().any(|b| b.is_ascii_uppercase())
}

/// Whether it has the form of an image's id.
fn is_identifier(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// Host name, IPv4 or bracketed IPv6 address, with an optional port.
fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, after)) = rest.split_once(']') else { return false };
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return false;
        }
        match after.strip_prefix(':') {
            Some(port) => (None, Some(port)),
            None if after.is_empty() => (None, None),
            None => return false,
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    let label = |l: &str| {
        let b = l.as_bytes();
        !b.is_empty()
            && b[0] != b'-'
            && b[b.len() - 1] != b'-'
            && b.iter().all(|c| c.is_ascii_alphanumeric() || *c == b'-')
    };
    host.is_none_or(|h| h.split('.').all(label))
        && port.is_none_or(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, separated by `.`, `_`, `__` or dashes.
fn is_component(component: &str) -> bool {
    let mut bytes = component.bytes().peekable();
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let mut after_separator = true;
    while let Some(b) = bytes.next() {
        if alphanumeric(b) {
            after_separator = false;
            continue;
        }
        if after_separator {
            return false;
        }
        after_separator = true;
        match b {
            b'.' => {}
            b'_' => {
                bytes.next_if_eq(&b'_');
            }
            b'-' => while bytes.next_if_eq(&b'-').is_some() {},
            _ => return false,
        }
    }
    !after_separator
}

fn is_tag(tag: &str) -> bool {
    let bytes = tag.as_bytes();
    let word = |b: &u8| b.is_ascii_alphanumeric() || *b == b'_';
    (1..=MAX_TAG).contains(&bytes.len())
        && word(&bytes[0])
        && bytes.iter().all(|b| word(b) || matches!(b, b'.' | b'-'))
}

fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    text.parse().map_err(|e| match e {
        DigestError::Unsupported(_) => ReferenceError::Digest(e),
        DigestError::Invalid(_) => ReferenceError::Format,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Reference {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn normalises_as_docker_does() {
        for (text, whole, familiar) in [
            ("busybox", "docker.io/library/busybox", "busybox"),
            ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
            ("user/app", "docker.io/user/app", "user/app"),
            ("index.docker.io/busybox", "docker.io/library/busybox", "busybox"),
            ("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b"),
            ("localhost/app", "localhost/app", "localhost/app"),
            ("localhost:5000/a/b:x", "localhost:5000/a/b:x", "localhost:5000/a/b:x"),
            ("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app"),
            ("Registry/app", "Registry/app", "Registry/app"),
            ("127.0.0.1:5000/app", "127.0.0.1:5000/app", "127.0.0.1:5000/app"),
            ("a__b/c---d.e", "docker.io/a__b/c---d.e", "a__b/c---d.e"),
        ] {
            let r = parse(text);
            assert_eq!((r.to_string().as_str(), r.familiar().as_str()), (whole, familiar));
        }
        let digest = Digest::of(b"");
        let r = parse(&format!("busybox:1@{digest}"));
        assert_eq!((r.tag(), r.digest()), (Some("1"), Some(&digest)));
        assert_eq!(parse("a").or_latest().familiar(), "a:latest");
        assert_eq!(r.clone().or_latest(), r);
        assert_eq!(parse("a:x").with_tag("y").unwrap().familiar(), "a:y");
        assert!(parse("a:x").with_tag("/").is_err());
    }

    #[test]
    fn refuses_what_docker_refuses() {
        let message = |text: &str| text.parse::<Reference>().unwrap_err().to_string();
        for bad in [
            ":x",
            "a:",
            "a@",
            "a b",
            "a//b",
            "/a",
            "a/",
            "-a",
            "a-",
            "a._b",
            "a___b",
            "..",
            "a:-x",
            "a\0",
            "ä",
            "a@sha256:x",
            "http://x/y",
            "a:b:c",
            "[::1/x",
            "x:y/z",
            "a:x/y",
            " a",
        ] {
            assert_eq!(message(bad), "invalid reference format", "{bad}");
        }
        assert_eq!(
            message("user/App"),
            "invalid reference format: repository name (user/App) must be lowercase"
        );
        assert_eq!(
            message("App"),
            "invalid reference format: repository name (library/App) must be lowercase"
        );
        assert!(message(&"a".repeat(64)).contains("64-byte hexadecimal"));
        assert!(message("").contains("at least one component"));
        assert!(message(&"z".repeat(300)).contains("255 characters"));
        assert!(message(&format!("a@sha512:{}", "0".repeat(128))).contains("sha512"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC*") {
            let _ = text.parse::<Reference>();
        }

        #[test]
        fn whole_and_familiar_forms_parse_back(
            domain in "(|localhost/|docker\\.io/|r\\.example(:[0-9]{1,5})?/)",
            path in "[a-z0-9]{1,8}([._-][a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,5}){0,3}",
            tag in "(|:[A-Za-z0-9_][A-Za-z0-9_.-]{0,12})",
            digest in any::<bool>(),
        ) {
            // A first part with a dot is a registry.
            let first = path.split('/').next().unwrap_or_default();
            prop_assume!(!domain.is_empty() || !path.contains('/') || !first.contains('.'));
            let digest = if digest { format!("@{}", Digest::of(path.as_bytes())) } else { String::new() };
            let reference = parse(&format!("{domain}{path}{tag}{digest}"));
            prop_assert_eq!(&parse(&reference.to_string()), &reference);
            prop_assert_eq!(&parse(&reference.familiar()), &reference);
        }
    }
}
