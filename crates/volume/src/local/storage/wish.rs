//! What a volume's options ask of its storage. Pure.

use std::collections::BTreeMap;

use sampan_types::VolumeName;

use super::super::options::{self, MountOptions};
use super::encryption::{Layer, Source};
use crate::VolumeError;

/// Options whose values are shown to nobody: a command may have a token in it.
pub(crate) const HIDDEN: [&str; 1] = ["passphrase-command"];
/// The largest size that is taken: what a file can be on every file system.
const LARGEST: u64 = i64::MAX as u64;

/// Owner and mode of the content's root, as far as the options name them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Owner {
    /// `uid=`.
    pub(crate) uid: Option<u32>,
    /// `gid=`.
    pub(crate) gid: Option<u32>,
    /// `mode=`, with the set-user-id, set-group-id and sticky bits.
    pub(crate) mode: Option<u32>,
}

/// What the options ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wish {
    /// `size=` in bytes.
    pub(crate) size: Option<u64>,
    /// `uid=`, `gid=`, `mode=`.
    pub(crate) owner: Owner,
    /// Where the key comes from, with `encrypted=`.
    pub(crate) key: Option<Source>,
    /// What shall encrypt, with `encrypted=fscrypt` or `=dm-crypt`.
    pub(crate) layer: Option<Layer>,
    /// `type=`, `o=`, `device=`.
    pub(crate) mount: Option<MountOptions>,
}

impl Wish {
    /// Reads and checks the options of the volume `name`.
    pub(crate) fn new(
        name: &VolumeName,
        given: &BTreeMap<String, String>,
    ) -> Result<Self, VolumeError> {
        let mount = options::check(name, given)?;
        let given = Given { name, options: given };
        let (encrypted, layer) = given.encrypted()?;
        let mut wish = Self {
            size: given.size()?,
            owner: Owner { uid: given.id("uid")?, gid: given.id("gid")?, mode: given.mode()? },
            key: given.key(encrypted)?,
            layer,
            mount: None,
        };
        if let Some(mount) = mount {
            wish = wish.mounted(&given, mount)?;
        }
        Ok(wish)
    }

    /// What else is asked of a mount: a tmpfs knows most of it.
    fn mounted(self, given: &Given<'_>, mount: MountOptions) -> Result<Self, VolumeError> {
        if self.key.is_some() {
            let reason = "type, o and device mount what lies elsewhere, and can't encrypt it";
            return Err(given.wrong("encrypted", reason));
        }
        if mount.is_tmpfs() {
            let mount = mount.with(&tmpfs_data(self.size, &self.owner));
            return Ok(Self { mount: Some(mount), ..Self::default() });
        }
        for option in ["size", "uid", "gid", "mode"] {
            if given.options.contains_key(option) {
                let reason = "it is for volumes that lie in the data root, and for type=tmpfs: \
                              leave it out, or write what the file system knows into o";
                return Err(given.wrong(option, reason));
            }
        }
        Ok(Self { mount: Some(mount), ..Self::default() })
    }
}

/// The limit that `resize` is asked for: `10g`; `0` or nothing for none.
pub(crate) fn limit(name: &VolumeName, text: &str) -> Result<Option<u64>, VolumeError> {
    match parse_size(text) {
        _ if text.is_empty() => Ok(None),
        Some(0) => Ok(None),
        Some(size) => Ok(Some(size)),
        None => Err(VolumeError::OptionValue {
            name: name.to_string(),
            option: format!("size={text}"),
            reason: "it must be a size such as 500m or 10g, or 0 for no limit".to_owned(),
        }),
    }
}

/// The options of a tmpfs mount.
fn tmpfs_data(size: Option<u64>, owner: &Owner) -> String {
    let parts = [
        size.map(|s| format!("size={s}")),
        owner.uid.map(|u| format!("uid={u}")),
        owner.gid.map(|g| format!("gid={g}")),
        owner.mode.map(|m| format!("mode={m:o}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(",")
}

/// Options as they were given.
struct Given<'a> {
    name: &'a VolumeName,
    options: &'a BTreeMap<String, String>,
}

impl Given<'_> {
    fn wrong(&self, option: &str, reason: &str) -> VolumeError {
        let value = match self.options.get(option) {
            Some(_) if HIDDEN.contains(&option) => "********",
            value => value.map_or("", String::as_str),
        };
        VolumeError::OptionValue {
            name: self.name.to_string(),
            option: format!("{option}={value}"),
            reason: reason.to_owned(),
        }
    }

    fn id(&self, option: &str) -> Result<Option<u32>, VolumeError> {
        let Some(text) = self.options.get(option) else { return Ok(None) };
        match text.parse() {
            // The largest one means "no change" to chown(2).
            Err(_) | Ok(u32::MAX) => {
                Err(self.wrong(option, "it must be a number from 0 to 4294967294"))
            }
            Ok(id) => Ok(Some(id)),
        }
    }

    fn mode(&self) -> Result<Option<u32>, VolumeError> {
        let Some(text) = self.options.get("mode") else { return Ok(None) };
        match u32::from_str_radix(text, 8) {
            Ok(mode) if mode <= 0o7777 => Ok(Some(mode)),
            _ => Err(self.wrong("mode", "it must be octal, from 0 to 7777")),
        }
    }

    fn size(&self) -> Result<Option<u64>, VolumeError> {
        let Some(text) = self.options.get("size") else { return Ok(None) };
        match parse_size(text) {
            None | Some(0) => Err(self.wrong("size", "it must be a size such as 500m or 10g")),
            size => Ok(size),
        }
    }

    /// Whether the volume shall be encrypted, and by what.
    fn encrypted(&self) -> Result<(bool, Option<Layer>), VolumeError> {
        match self.options.get("encrypted").map(String::as_str) {
            None | Some("false" | "0") => Ok((false, None)),
            Some("true" | "1" | "") => Ok((true, None)),
            Some("fscrypt") => Ok((true, Some(Layer::Fscrypt))),
            Some("dm-crypt") => Ok((true, Some(Layer::DmCrypt))),
            Some(_) => Err(self.wrong("encrypted", "it must be true, false, fscrypt or dm-crypt")),
        }
    }

    fn key(&self, encrypted: bool) -> Result<Option<Source>, VolumeError> {
        let file = self.options.get("key-file");
        let command = self.options.get("passphrase-command");
        match (encrypted, file, command) {
            (false, None, None) => Ok(None),
            (false, ..) => {
                let option = if file.is_some() { "key-file" } else { "passphrase-command" };
                Err(self.wrong(option, "it is for encrypted=true alone"))
            }
            (true, None, None) => Err(self.wrong(
                "encrypted",
                "say where the key comes from: key-file=PATH or passphrase-command=COMMAND",
            )),
            (true, Some(_), Some(_)) => {
                Err(self.wrong("key-file", "give it or passphrase-command, not both"))
            }
            (true, Some(path), None) => Source::file(path)
                .map(Some)
                .ok_or_else(|| self.wrong("key-file", "it must be an absolute path")),
            (true, None, Some(text)) => Source::command(text).map(Some).ok_or_else(|| {
                self.wrong("passphrase-command", "it must be a command with its quotes closed")
            }),
        }
    }
}

/// Bytes of a size in Docker's words for memory and volumes: `10g`, `1.5GiB`,
/// `500 m`, `4096`, always in powers of 1024.
fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").or(unit.strip_suffix('b')).unwrap_or(&unit) {
        "" if unit != "ib" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return None,
    };
    let factor = 1u64 << shift;
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor).filter(|b| *b <= LARGEST);
    }
    #[allow(clippy::cast_precision_loss, reason = "a fraction of a size isn't meant to the byte")]
    let bytes = number.parse::<f64>().ok()? * factor as f64;
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "it is between 0 and the largest size"
    )]
    (bytes.is_finite() && (0.0..=LARGEST as f64).contains(&bytes)).then_some(bytes as u64)
}

/// A size as people read it: `512MiB`, `1.5GiB`.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut shift, mut unit) = (0, 0);
    while unit + 1 < UNITS.len() && bytes >> shift >= 1024 {
        shift += 10;
        unit += 1;
    }
    let tenths = (u128::from(bytes) * 10) >> shift;
    match (tenths / 10, tenths % 10) {
        (whole, 0) => format!("{whole}{}", UNITS[unit]),
        (whole, tenth) => format!("{whole}.{tenth}{}", UNITS[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wish(pairs: &[(&str, &str)]) -> Result<Wish, String> {
        let name = "vol".parse().unwrap();
        let given = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Wish::new(&name, &given).map_err(|e| e.to_string())
    }

    #[test]
    fn options_are_read() {
        let read = wish(&[("size", "10g"), ("uid", "7"), ("gid", "0"), ("mode", "2770")]).unwrap();
        let owner = Owner { uid: Some(7), gid: Some(0), mode: Some(0o2770) };
        assert_eq!((read.size, read.owner), (Some(10 << 30), owner));
        let read = wish(&[("encrypted", "true"), ("key-file", "/k")]).unwrap();
        assert!(matches!((read.key, read.layer), (Some(Source::File(_)), None)));
        let read = wish(&[("encrypted", "dm-crypt"), ("key-file", "/k")]).unwrap();
        assert!(matches!((read.key, read.layer), (Some(_), Some(Layer::DmCrypt))));
        let tmpfs = [("type", "tmpfs"), ("device", "tmpfs"), ("size", "1m"), ("mode", "700")];
        let read = wish(&tmpfs).unwrap();
        assert!(read.size.is_none() && read.mount.is_some());
        assert_eq!(wish(&[]).unwrap(), Wish::default());
    }

    #[test]
    fn wrong_options_say_what_would_be_right() {
        let rows: [(&[(&str, &str)], &str); 10] = [
            (&[("size", "much")], "such as 500m"),
            (&[("size", "0")], "such as 500m"),
            (&[("uid", "root")], "must be a number"),
            (&[("gid", "4294967295")], "must be a number"),
            (&[("mode", "999")], "must be octal"),
            (&[("encrypted", "yes")], "fscrypt or dm-crypt"),
            (&[("encrypted", "true")], "where the key comes from"),
            (&[("key-file", "/k")], "for encrypted=true alone"),
            (&[("encrypted", "1"), ("key-file", "k")], "absolute path"),
            (&[("type", "none"), ("device", "/x"), ("o", "bind"), ("uid", "1")], "data root"),
        ];
        for (pairs, part) in rows {
            let text = wish(pairs).unwrap_err();
            assert!(text.contains(part), "{pairs:?}: {text}");
        }
        let text = wish(&[("encrypted", "1"), ("passphrase-command", "get 'tok")]).unwrap_err();
        assert!(!text.contains("tok"), "{text}");
    }

    #[test]
    fn sizes_in_dockers_words() {
        let all = [
            ("4096", 4096),
            ("10g", 10 << 30),
            ("500m", 500 << 20),
            ("1.5GiB", 3 << 29),
            ("1 KB", 1024),
            ("2tb", 2 << 40),
            ("0", 0),
        ];
        for (text, bytes) in all {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "g", "-1", "1x", "1..2g", "99999999p", "1e3", "1  g", "1ib"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
        assert_eq!(bytes_text(3 << 29), "1.5GiB");
        assert_eq!(bytes_text(100), "100B");
        assert_eq!(bytes_text(1 << 20), "1MiB");
    }
}
