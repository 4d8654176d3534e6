//! Platforms in words, and the choice of an image in an index.
//!
//! The names and the choice follow containerd's `platforms` package, which
//! Docker uses.

use std::fmt;
use std::str::FromStr;

use sampan_types::{ErrorKind, Kind};

use crate::{Descriptor, Platform};

/// Why a text is not a platform.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid platform {0:?}: os, architecture, os/architecture or os/architecture/variant expected"
)]
pub struct PlatformError(String);

impl Kind for PlatformError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// Reads what `--platform` takes. What is not said is this machine's.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let word = |w: &str| {
            w.starts_with(|c: char| c.is_ascii_alphanumeric())
                && w.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
        };
        let words: Vec<&str> = text.split('/').collect();
        if words.len() > 3 || !words.iter().all(|w| word(w)) {
            return Err(PlatformError(text.to_owned()));
        }
        let host = Self::host();
        let (os, architecture, variant) = match words[..] {
            [one] if is_os(&one.to_lowercase()) => {
                (one, host.architecture.as_str(), host.variant.as_deref())
            }
            [one] => ("linux", one, None),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return Err(PlatformError(text.to_owned())),
        };
        Ok(Self {
            os: os.to_lowercase(),
            architecture: architecture.to_lowercase(),
            os_version: None,
            variant: variant.map(str::to_lowercase),
        }
        .normalised())
    }
}

fn is_os(word: &str) -> bool {
    matches!(
        word,
        "linux"
            | "windows"
            | "darwin"
            | "freebsd"
            | "netbsd"
            | "openbsd"
            | "solaris"
            | "aix"
            | "android"
    )
}

impl Platform {
    /// The same platform in Go's names, without a variant that says nothing.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let variant = self.variant.as_deref().unwrap_or_default();
        let (architecture, variant) = match (self.architecture.as_str(), variant) {
            ("x86_64" | "x86-64" | "amd64", "" | "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", variant) => ("amd64", variant),
            ("i386" | "i486" | "i586" | "i686" | "x86", _) => ("386", ""),
            ("aarch64" | "arm64", "" | "8" | "v8" | "v8.0") => ("arm64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            (architecture, variant) => (architecture, variant),
        };
        Self {
            architecture: architecture.to_owned(),
            os: self.os.clone(),
            os_version: self.os_version.clone(),
            variant: (!variant.is_empty()).then(|| variant.to_owned()),
        }
    }

    /// How well an image for `other` serves where this platform is wanted:
    /// `None` not at all, else lower is better.
    #[must_use]
    pub fn distance(&self, other: &Self) -> Option<u32> {
        let (wanted, other) = (self.normalised(), other.normalised());
        if wanted.os != other.os || wanted.architecture != other.architecture {
            return None;
        }
        if wanted.variant == other.variant {
            return Some(0);
        }
        // A later level of a processor runs what was made for an earlier one.
        let wanted_level = wanted.level()?;
        let level = other.level()?;
        wanted_level.checked_sub(level)
    }

    /// The level of a variant that is a version, in tenths.
    fn level(&self) -> Option<u32> {
        let Some(variant) = self.variant.as_deref() else {
            return match self.architecture.as_str() {
                "amd64" => Some(10),
                "arm64" => Some(80),
                _ => None,
            };
        };
        let (major, minor) =
            variant.strip_prefix('v')?.split_once('.').unwrap_or((&variant[1..], "0"));
        let (major, minor): (u32, u32) = (major.parse().ok()?, minor.parse().ok()?);
        major.checked_mul(10)?.checked_add(minor)
    }
}

/// The entry of an index that serves `wanted` best; the first among equals.
pub(super) fn select<'a>(manifests: &'a [Descriptor], wanted: &Platform) -> Option<&'a Descriptor> {
    manifests
        .iter()
        .filter_map(|m| Some((wanted.distance(m.platform.as_ref()?)?, m)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, m)| m)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Digest, media};

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn reads_what_users_write() {
        for (text, meant) in [
            ("linux/amd64", "linux/amd64"),
            ("Linux/x86_64", "linux/amd64"),
            ("arm64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
            ("linux/386", "linux/386"),
        ] {
            assert_eq!(platform(text).to_string(), meant, "{text}");
        }
        assert_eq!(platform("linux"), Platform::host().normalised());
        for bad in ["", "/", "linux/", "a/b/c/d", "linux/am d", "../x"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn chooses_the_nearest_image_that_runs() {
        let entry = |text: &str| Descriptor {
            platform: Some(platform(text)),
            ..Descriptor::new(media::OCI_MANIFEST, Digest::of(text.as_bytes()), 1)
        };
        let bare = Descriptor::new(media::OCI_MANIFEST, Digest::of(b""), 1);
        let index = [
            bare,
            entry("linux/arm/v6"),
            entry("linux/arm/v7"),
            entry("linux/arm64/v8"),
            entry("linux/amd64"),
            entry("linux/amd64/v3"),
            entry("windows/amd64"),
        ];
        let chosen = |text: &str| {
            select(&index, &platform(text)).map(|d| d.platform.as_ref().unwrap().to_string())
        };
        assert_eq!(chosen("linux/amd64").as_deref(), Some("linux/amd64"));
        assert_eq!(chosen("linux/amd64/v2").as_deref(), Some("linux/amd64"));
        assert_eq!(chosen("linux/arm/v7").as_deref(), Some("linux/arm/v7"));
        assert_eq!(chosen("linux/arm/v5"), None, "newer code does not run");
        assert_eq!(chosen("linux/arm64").as_deref(), Some("linux/arm64"));
        assert_eq!(chosen("linux/riscv64"), None);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC*") {
            if let Ok(platform) = text.parse::<Platform>() {
                proptest::prop_assert_eq!(platform.to_string().parse::<Platform>().unwrap(), platform.clone());
                proptest::prop_assert_eq!(platform.distance(&platform), Some(0));
            }
        }
    }
}
