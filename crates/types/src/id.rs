//! Ids: 64 hexadecimal digits for what the engine makes, `sha256:` digests
//! for images. Each kind is a type of its own.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid {what} id {text:?}: 64 hexadecimal digits expected")]
pub struct IdError {
    what: &'static str,
    text: String,
}

/// Whether a user's text could be the beginning of an id: 1 to 64 lower-case
/// hexadecimal digits.
#[must_use]
pub fn looks_like_id_prefix(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(is_hex)
}

fn is_hex(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'f')
}

fn is_full_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(is_hex)
}

fn random_hex() -> String {
    let mut bytes = [0u8; 32];
    loop {
        // The kernel's generator fails only before it is seeded, at boot.
        if getrandom::fill(&mut bytes).is_err() {
            std::thread::yield_now();
            continue;
        }
        let text: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        // A short id of digits only would be read as a number by programs.
        if text[..12].bytes().any(|b| b.is_ascii_alphabetic()) {
            return text;
        }
    }
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new random id from the kernel's generator.
            #[must_use]
            pub fn random() -> Self {
                Self(random_hex())
            }

            /// The whole id: 64 hexadecimal digits.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first twelve digits, as tables show them.
            #[must_use]
            pub fn short(&self) -> &str {
                &self.0[..12]
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_full_id(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { what: $what, text: text.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }
    };
}

hex_id!(
    /// A container.
    ContainerId,
    "container"
);
hex_id!(
    /// A network.
    NetworkId,
    "network"
);
hex_id!(
    /// A container's connection to one network.
    EndpointId,
    "endpoint"
);
hex_id!(
    /// A network namespace with its endpoints.
    SandboxId,
    "sandbox"
);
hex_id!(
    /// A process run in a container by `exec`.
    ExecId,
    "exec"
);

/// An image: the digest of its configuration, `sha256:` and 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageId(String);

impl ImageId {
    /// The whole digest with its algorithm: `sha256:…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hexadecimal digits without the algorithm.
    #[must_use]
    pub fn hex(&self) -> &str {
        &self.0["sha256:".len()..]
    }

    /// The first twelve digits, as tables show them.
    #[must_use]
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ImageId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        match text.strip_prefix("sha256:") {
            Some(hex) if is_full_id(hex) => Ok(Self(text.to_owned())),
            _ => Err(IdError { what: "image", text: text.to_owned() }),
        }
    }
}

impl TryFrom<String> for ImageId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ImageId> for String {
    fn from(id: ImageId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_parse_and_differ() {
        let a = ContainerId::random();
        assert_ne!(a, ContainerId::random());
        assert_eq!(a.as_str().parse::<ContainerId>(), Ok(a.clone()));
        assert!(a.short().bytes().any(|b| b.is_ascii_alphabetic()));
    }

    #[test]
    fn wrong_ids_are_refused() {
        for text in ["", "abc", &"g".repeat(64), &"A".repeat(64), &"a".repeat(65)] {
            assert!(text.parse::<ContainerId>().is_err(), "{text}");
        }
        assert!(format!("sha512:{}", "a".repeat(64)).parse::<ImageId>().is_err());
        assert!("../../etc".parse::<NetworkId>().is_err());
    }
}
