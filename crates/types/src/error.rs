//! What kind of failure an error is, from the caller's point of view.

/// The kinds of failure that a caller can tell apart. Each has one HTTP
/// status in the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The named object does not exist (404).
    NotFound,
    /// The object is in a state, or the name is in a use, that forbids this (409).
    Conflict,
    /// The request itself is wrong (400).
    InvalidParameter,
    /// There was nothing to do (304).
    NotModified,
    /// The caller may not do this (403).
    Forbidden,
    /// The caller is not known, or its credentials are wrong (401).
    Unauthorized,
    /// Something that is needed is out of reach for now (503).
    Unavailable,
    /// This engine does not do that (501).
    NotImplemented,
    /// The engine or the machine failed (500).
    System,
}

impl ErrorKind {
    /// The HTTP status code that dockerd answers for this kind.
    #[must_use]
    pub fn http_status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::InvalidParameter => 400,
            Self::NotModified => 304,
            Self::Forbidden => 403,
            Self::Unauthorized => 401,
            Self::Unavailable => 503,
            Self::NotImplemented => 501,
            Self::System => 500,
        }
    }
}

/// An error that knows its kind. Every crate's error type implements it, so
/// that the API can choose a status code without knowing the type.
pub trait Kind {
    /// The kind of this failure.
    fn kind(&self) -> ErrorKind;
}
