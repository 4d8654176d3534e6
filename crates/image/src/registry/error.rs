//! What can go wrong between this engine and a registry.
//!
//! Be aware:
//! - Clients of Docker match on some of these texts ("manifest for … not
//!   found", "pull access denied for …"): they are kept word for word.
//! - No text holds a secret: URLs are written without their query, and
//!   credentials and tokens never become part of an error.

use std::path::PathBuf;

use sampan_types::{ErrorKind, Kind};

/// A failed talk with a registry, or a refused answer of one.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The name or the options of the request are wrong.
    #[error("invalid {what} {value:?}: {reason}")]
    Invalid {
        /// What is wrong, as "registry mirror".
        what: &'static str,
        /// The value as given.
        value: String,
        /// Why it is refused.
        reason: String,
    },
    /// The registry has no such tag or digest.
    #[error("manifest for {reference} not found: {detail}")]
    ManifestNotFound {
        /// The familiar reference.
        reference: String,
        /// The registry's own words.
        detail: String,
    },
    /// The registry has no such repository.
    #[error("repository {name} not found: {detail}")]
    RepositoryNotFound {
        /// The familiar name.
        name: String,
        /// The registry's own words.
        detail: String,
    },
    /// The registry doesn't say whether the repository exists.
    #[error(
        "pull access denied for {name}, repository does not exist or may require 'docker login': {detail}"
    )]
    AccessDenied {
        /// The familiar name.
        name: String,
        /// The registry's own words.
        detail: String,
    },
    /// There is nothing here to push.
    #[error("An image does not exist locally with the tag: {name}")]
    NoLocalImage {
        /// The familiar name.
        name: String,
    },
    /// The registry asks for credentials and there are none.
    #[error("{method} \"{url}\": no basic auth credentials")]
    NoCredentials {
        /// The method of the request.
        method: String,
        /// The URL without its query.
        url: String,
    },
    /// The registry refuses the credentials of a login.
    #[error("login attempt to {url} failed with status: {status}")]
    LoginRefused {
        /// The URL that was asked.
        url: String,
        /// The status line, or the registry's own words.
        status: String,
    },
    /// An index has no image for the platform.
    #[error("no matching manifest for {platform} in the manifest list entries")]
    NoMatchingManifest {
        /// The wanted platform.
        platform: String,
    },
    /// The only image behind the name is for another platform.
    #[error(
        "image with reference {reference} was found but does not match the specified platform: wanted {wanted}, actual: {actual}"
    )]
    OtherPlatform {
        /// The familiar reference.
        reference: String,
        /// The wanted platform.
        wanted: String,
        /// The platform of the image.
        actual: String,
    },
    /// Content doesn't have the digest that it was asked by.
    #[error("{what} fails verification: its digest is {actual}, not {expected}")]
    WrongDigest {
        /// What was fetched.
        what: String,
        /// The digest asked for.
        expected: String,
        /// The digest of what came.
        actual: String,
    },
    /// Content isn't as long as its descriptor says.
    #[error("{what} fails verification: it has {actual} bytes, not {expected}")]
    WrongSize {
        /// What was fetched.
        what: String,
        /// The size in the descriptor.
        expected: u64,
        /// The size of what came; at least this much when it was cut off.
        actual: u64,
    },
    /// An answer is larger than this engine takes into memory.
    #[error("{what} is larger than the limit of {limit} bytes")]
    TooLarge {
        /// What was fetched.
        what: String,
        /// The limit in bytes.
        limit: u64,
    },
    /// A manifest, an index or an image configuration makes no sense.
    #[error("invalid {what}: {reason}")]
    BadContent {
        /// What was read.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A manifest of the format that Docker removed.
    #[error(
        "manifest of {reference} is of the removed schema 1 format: push the image again with a current engine, \
         or ask the registry's owner to convert it"
    )]
    SchemaOne {
        /// The familiar reference.
        reference: String,
    },
    /// A layer that the registry wants fetched from somewhere else.
    #[error("layer {digest} has foreign URLs: refused, layers are fetched from the registry only")]
    ForeignLayer {
        /// The layer's digest.
        digest: String,
    },
    /// The registry answers with an error.
    #[error("{0}")]
    Status(Box<StatusError>),
    /// The registry was not reached, or the connection broke.
    #[error("{method} \"{url}\": {cause}")]
    Transport {
        /// The method of the request.
        method: String,
        /// The URL without its query.
        url: String,
        /// The innermost causes.
        cause: String,
        /// Whether a connection had been made.
        connected: bool,
    },
    /// A redirect or an authorisation address that would lead somewhere unsafe.
    #[error("{method} \"{url}\": refused to follow to {target}: {reason}")]
    UnsafeRedirect {
        /// The method of the request.
        method: String,
        /// The URL without its query.
        url: String,
        /// Where it should lead, without query.
        target: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// Certificates or keys of a registry can't be used.
    #[error("cannot use TLS material {}: {reason}", path.display())]
    Tls {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file of the content store can't be read or written.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// The operation, as "write".
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The local image can't be read or written.
    #[error(transparent)]
    Image(#[from] crate::ImageError),
    /// Work on another thread was cut off (the daemon is stopping).
    #[error("{0} was interrupted")]
    Interrupted(&'static str),
}

/// A registry's answer that reports an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusError {
    /// The method of the request.
    pub method: String,
    /// The URL without its query.
    pub url: String,
    /// The HTTP status code.
    pub status: u16,
    /// The first error of the body, or what the challenge says.
    pub code: Option<Code>,
}

/// One error in a registry's answer, as the distribution specification has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    /// As "MANIFEST_UNKNOWN".
    pub code: String,
    /// The registry's own words.
    pub message: String,
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = self.code.to_lowercase().replace('_', " ");
        write!(f, "{code}: {}", if self.message.is_empty() { &code } else { &self.message })
    }
}

impl std::fmt::Display for StatusError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.code {
            Some(code) => write!(f, "{code}"),
            None => {
                let status = http::StatusCode::from_u16(self.status)
                    .map_or_else(|_| self.status.to_string(), |s| s.to_string());
                write!(
                    f,
                    "{} \"{}\": received unexpected HTTP status: {status}",
                    self.method, self.url
                )
            }
        }
    }
}

impl RegistryError {
    /// Whether another attempt at the same registry can succeed: broken
    /// connections and overload, not refusals.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Transport { .. } => true,
            Self::Status(e) => matches!(e.status, 408 | 425 | 429 | 500 | 502 | 503 | 504),
            _ => false,
        }
    }

    /// Whether no connection came about, so that another address of the same
    /// registry (plain HTTP instead of HTTPS) is worth a try.
    #[must_use]
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Transport { connected: false, .. })
    }

    pub(super) fn io(
        operation: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { operation, path, source }
    }

    /// Docker's words for what a registry answers to the request for a manifest.
    pub(super) fn of_manifest(self, name: &str, reference: &str) -> Self {
        let Self::Status(status) = &self else { return self };
        let code = status.code.as_ref();
        let detail = code.map_or_else(String::new, ToString::to_string);
        match code.map(|c| c.code.as_str()) {
            Some("MANIFEST_UNKNOWN") => {
                Self::ManifestNotFound { reference: reference.into(), detail }
            }
            Some("NAME_UNKNOWN") => Self::RepositoryNotFound { name: name.into(), detail },
            Some("DENIED") => Self::AccessDenied { name: name.into(), detail },
            _ if status.status == 404 => Self::ManifestNotFound {
                reference: reference.into(),
                detail: "manifest unknown: manifest unknown".into(),
            },
            _ => self,
        }
    }
}

impl Kind for RegistryError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::InvalidParameter,
            Self::ManifestNotFound { .. }
            | Self::RepositoryNotFound { .. }
            | Self::AccessDenied { .. }
            | Self::NoLocalImage { .. }
            | Self::NoMatchingManifest { .. }
            | Self::OtherPlatform { .. } => ErrorKind::NotFound,
            Self::LoginRefused { .. } => ErrorKind::Unauthorized,
            Self::SchemaOne { .. } | Self::ForeignLayer { .. } => ErrorKind::NotImplemented,
            Self::Image(e) => e.kind(),
            Self::NoCredentials { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::TooLarge { .. }
            | Self::BadContent { .. }
            | Self::Status(_)
            | Self::Transport { .. }
            | Self::UnsafeRedirect { .. }
            | Self::Tls { .. }
            | Self::Io { .. }
            | Self::Interrupted(_) => ErrorKind::System,
        }
    }
}
