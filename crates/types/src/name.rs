//! Names that users give, checked where they enter.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not a name. The wording is what Docker's clients know.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("Invalid {what} name ({text}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
pub struct NameError {
    what: &'static str,
    text: String,
}

fn is_name(text: &str, min: usize) -> bool {
    let bytes = text.as_bytes();
    (min..=255).contains(&bytes.len())
        && bytes[0].is_ascii_alphanumeric()
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(b))
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $min:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                if is_name(text, $min) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(NameError { what: $what, text: text.to_owned() })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }
    };
}

name!(
    /// A container's name, without the leading slash that the API shows.
    ContainerName,
    "container",
    2
);
name!(
    /// A network's name.
    NetworkName,
    "network",
    1
);
name!(
    /// A volume's name.
    VolumeName,
    "volume",
    2
);
name!(
    /// The name of a volume's snapshot.
    SnapshotName,
    "snapshot",
    1
);
name!(
    /// A network policy's name.
    PolicyName,
    "policy",
    1
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_dockers_rule() {
        for good in ["ab", "a_b", "Web-01", "x.y", "0a"] {
            assert!(good.parse::<ContainerName>().is_ok(), "{good}");
        }
        for bad in ["", "a", "_a", "-a", "a b", "a/b", "..", "ä1", "a\n"] {
            assert!(bad.parse::<ContainerName>().is_err(), "{bad}");
        }
    }
}
