//! Encryption at rest: the file system encrypts the content's directory, or
//! dm-crypt what the file system lies on, with a key that is made from the user's
//! secret.
//!
//! ```text
//! secret --scrypt, salt--> 64 bytes: the key     32 bytes: the verifier
//! ```
//!
//! Be aware:
//! - The record has the salt and the verifier. From those nobody comes to the
//!   key but by trying secrets, each of which costs scrypt's work.
//! - Each volume has a salt and so a key of its own: one that is unmounted
//!   never closes another one on the same file system.
//! - A wrong secret is found before anything is touched.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use sampan_sys::fscrypt::{self, KEY_SIZE};
use sampan_types::VolumeName;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

pub(crate) use super::secret::Source;
use crate::VolumeError;

/// scrypt's work: 2 to the power of this many blocks of a KiB, 64 MiB.
const WORK: u8 = 16;
/// scrypt's r: the size of its blocks.
const BLOCK: u32 = 8;
const SALT: usize = 16;
const VERIFIER: usize = 32;
/// How often, and how long apart, a key is taken away while the last user's
/// files are still being closed.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// What the record has of a volume's encryption.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Encryption {
    /// How the key is made from the secret.
    kdf: Kdf,
    /// Hexadecimal.
    salt: String,
    /// Hexadecimal.
    verifier: String,
    /// What encrypts.
    #[serde(default)]
    layer: Layer,
}

/// What encrypts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Layer {
    /// The file system, a directory's files and their names.
    #[default]
    Fscrypt,
    /// The device that the file system in an image is on, block by block.
    DmCrypt,
}

/// How a key is made from a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "snake_case")]
enum Kdf {
    /// RFC 7914.
    Scrypt {
        /// The binary logarithm of N.
        log_n: u8,
    },
}

impl Layer {
    /// What it is called, in options too.
    pub(crate) fn shown(self) -> &'static str {
        match self {
            Self::Fscrypt => "fscrypt",
            Self::DmCrypt => "dm-crypt",
        }
    }
}

/// A key, wiped when it is dropped.
#[derive(Clone)]
pub(super) struct Key(Zeroizing<[u8; KEY_SIZE]>);

impl Key {
    pub(super) fn bytes(&self) -> &[u8; KEY_SIZE] {
        &self.0
    }
}

impl Encryption {
    /// Chooses a salt, makes the key and remembers how to tell whether a secret
    /// is the one.
    pub(super) fn new(
        name: &VolumeName,
        source: &Source,
        layer: Layer,
    ) -> Result<(Self, Key), VolumeError> {
        let mut salt = [0u8; SALT];
        getrandom::fill(&mut salt).map_err(|e| {
            VolumeError::io("choose a salt from", "/dev/urandom")(io::Error::other(e.to_string()))
        })?;
        let kdf = Kdf::Scrypt { log_n: WORK };
        let (key, verifier) = derive(name, kdf, &salt, &source.read(name)?)?;
        Ok((Self { kdf, salt: hex(&salt), verifier: hex(&verifier), layer }, key))
    }

    /// What encrypts.
    pub(crate) fn layer(&self) -> Layer {
        self.layer
    }

    /// The key, when the source has the right secret.
    pub(super) fn key(&self, name: &VolumeName, source: &Source) -> Result<Key, VolumeError> {
        let damaged = || {
            VolumeError::io("read the salt of", name.as_str())(io::Error::new(
                io::ErrorKind::InvalidData,
                "the record is damaged",
            ))
        };
        let salt = unhex(&self.salt).ok_or_else(damaged)?;
        let (key, verifier) = derive(name, self.kdf, &salt, &source.read(name)?)?;
        if hex(&verifier) == self.verifier {
            Ok(key)
        } else {
            Err(VolumeError::WrongKey { name: name.to_string() })
        }
    }
}

/// Gives the file system the key and lets it encrypt the empty directory.
pub(super) fn encrypt(dir: &Path, key: &Key) -> Result<(), VolumeError> {
    let opened = File::open(dir).map_err(VolumeError::io("open", dir))?;
    let id = fscrypt::add_key(&opened, &key.0).map_err(VolumeError::io("add the key to", dir))?;
    fscrypt::set_policy(&opened, id).map_err(VolumeError::io("encrypt", dir))
}

/// Opens the encrypted directory.
pub(super) fn unlock(dir: &Path, key: &Key) -> Result<(), VolumeError> {
    let opened = File::open(dir).map_err(VolumeError::io("open", dir))?;
    let id = fscrypt::policy(&opened).map_err(VolumeError::io("read the policy of", dir))?;
    let added =
        fscrypt::add_key(&opened, &key.0).map_err(VolumeError::io("add the key to", dir))?;
    if id == Some(added) {
        return Ok(());
    }
    // The secret is that of the record, and the directory has another key.
    if let Err(error) = fscrypt::remove_key(&opened, added) {
        tracing::warn!(path = %dir.display(), %error, "a key that opens nothing stays");
    }
    let error = io::Error::new(io::ErrorKind::InvalidData, "it has not the key of its record");
    Err(VolumeError::io("open the encrypted directory", dir)(error))
}

/// Closes the encrypted directory; one that is closed or gone is success.
pub(super) fn lock(dir: &Path) -> Result<(), VolumeError> {
    // Asked through the directory above: this one is in use while it is open.
    let id = match File::open(dir) {
        Ok(opened) => fscrypt::policy(&opened).map_err(VolumeError::io("read the policy of", dir)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(VolumeError::io("open", dir)(e)),
    };
    let (Some(id), Some(above)) = (id?, dir.parent()) else { return Ok(()) };
    let above = File::open(above).map_err(VolumeError::io("open", above))?;
    for _ in 0..ATTEMPTS {
        // The kernel says that files are open, not when they are closed.
        if fscrypt::remove_key(&above, id).map_err(VolumeError::io("take the key from", dir))? {
            return Ok(());
        }
        std::thread::sleep(PAUSE);
    }
    tracing::warn!(
        path = %dir.display(),
        "somebody has files of this encrypted volume open: those stay readable until it is mounted \
         and unmounted again"
    );
    Ok(())
}

/// Whether the key of an encrypted directory is there.
pub(super) fn is_open(dir: &Path) -> Result<bool, VolumeError> {
    let look = || {
        let opened = File::open(dir)?;
        match fscrypt::policy(&opened)? {
            Some(id) => fscrypt::has_key(&opened, id),
            None => Ok(false),
        }
    };
    look().map_err(VolumeError::io("look for the key of", dir))
}

fn derive(
    name: &VolumeName,
    kdf: Kdf,
    salt: &[u8],
    secret: &[u8],
) -> Result<(Key, [u8; VERIFIER]), VolumeError> {
    let Kdf::Scrypt { log_n } = kdf;
    let mut out = Zeroizing::new([0u8; KEY_SIZE + VERIFIER]);
    let done = scrypt::Params::new(log_n, BLOCK, 1)
        .map_err(|e| e.to_string())
        .and_then(|p| scrypt::scrypt(secret, salt, &p, &mut *out).map_err(|e| e.to_string()));
    done.map_err(|e| VolumeError::io("make the key of", name.as_str())(io::Error::other(e)))?;
    let (mut key, mut verifier) = (Zeroizing::new([0u8; KEY_SIZE]), [0u8; VERIFIER]);
    key.copy_from_slice(&out[..KEY_SIZE]);
    verifier.copy_from_slice(&out[KEY_SIZE..]);
    Ok((Key(key), verifier))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|p| u8::from_str_radix(std::str::from_utf8(p).ok()?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_recognised_and_not_kept() {
        let name: VolumeName = "vol".parse().unwrap();
        let right = Source::command("echo correct").unwrap();
        let (made, first) = Encryption::new(&name, &right, Layer::Fscrypt).unwrap();
        let (again, other) = Encryption::new(&name, &right, Layer::DmCrypt).unwrap();
        assert_eq!((made.layer(), again.layer()), (Layer::Fscrypt, Layer::DmCrypt));
        assert_ne!(first.0, other.0);
        assert_ne!(made.salt, again.salt);
        assert_ne!(made.verifier, again.verifier);
        let key = made.key(&name, &right).unwrap();
        assert_eq!(key.0, first.0);
        let text = serde_json::to_string(&made).unwrap();
        assert!(!text.contains("correct") && !text.contains(&hex(&key.0[..8])));
        let read: Encryption = serde_json::from_str(&text).unwrap();
        assert_eq!(read, made);
        let older = text.replace(",\"layer\":\"fscrypt\"", "");
        assert_ne!(older, text);
        assert_eq!(serde_json::from_str::<Encryption>(&older).unwrap(), made);
        let wrong = read.key(&name, &Source::command("echo wrong").unwrap()).err().unwrap();
        assert!(matches!(wrong, VolumeError::WrongKey { .. }), "{wrong}");
    }
}
