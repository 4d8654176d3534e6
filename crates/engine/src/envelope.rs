//! The versioned envelope in which the store keeps records:
//! `{"version": 1, "network": {…}}`.

use std::fmt;
use std::marker::PhantomData;

use sampan_types::{ErrorKind, Kind};
use serde::de::{DeserializeOwned, DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Why a record could not be read.
#[derive(Debug, Error)]
pub enum RecordError {
    /// The bytes are not a record.
    #[error("{noun} record {key}: {source}")]
    Malformed {
        /// Of what it should be a record.
        noun: &'static str,
        /// The record's key.
        key: String,
        /// What the parser found.
        source: serde_json::Error,
    },
    /// A later version of the program wrote it.
    #[error(
        "{noun} record {key} has version {found}, this program reads up to {known}; use the newer program"
    )]
    TooNew {
        /// Of what it is a record.
        noun: &'static str,
        /// The record's key.
        key: String,
        /// Its version.
        found: u32,
        /// The version that this program writes.
        known: u32,
    },
}

impl Kind for RecordError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::System
    }
}

/// The envelope of one kind of record.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Envelope {
    /// Of what: the field that has the record.
    pub(crate) noun: &'static str,
    /// The version that this program writes.
    pub(crate) version: u32,
}

impl Envelope {
    /// A record as bytes.
    pub(crate) fn encode<T: Serialize>(
        self,
        key: impl FnOnce() -> String,
        record: &T,
    ) -> Result<Vec<u8>, RecordError> {
        serde_json::to_vec(&Wrapped { envelope: self, record })
            .map_err(|source| RecordError::Malformed { noun: self.noun, key: key(), source })
    }

    /// A record from bytes of this version.
    pub(crate) fn decode<T: DeserializeOwned>(
        self,
        key: &str,
        bytes: &[u8],
    ) -> Result<T, RecordError> {
        let (noun, known) = (self.noun, self.version);
        let malformed = |source| RecordError::Malformed { noun, key: key.to_owned(), source };
        let header: Header = serde_json::from_slice(bytes).map_err(malformed)?;
        if header.version != known {
            let (key, found) = (key.to_owned(), header.version);
            return Err(RecordError::TooNew { noun, key, found, known });
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let record = Unwrap { noun, record: PhantomData }.deserialize(&mut json);
        record.and_then(|record| json.end().map(|()| record)).map_err(malformed)
    }
}

struct Wrapped<'a, T> {
    envelope: Envelope,
    record: &'a T,
}

impl<T: Serialize> Serialize for Wrapped<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(2))?;
        map.serialize_entry("version", &self.envelope.version)?;
        map.serialize_entry(self.envelope.noun, self.record)?;
        map.end()
    }
}

#[derive(Deserialize)]
struct Header {
    version: u32,
}

/// Takes a record out of its field.
struct Unwrap<T> {
    noun: &'static str,
    record: PhantomData<T>,
}

impl<'de, T: Deserialize<'de>> DeserializeSeed<'de> for Unwrap<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<T, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, T: Deserialize<'de>> Visitor<'de> for Unwrap<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an object with the field {}", self.noun)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut record = None;
        while let Some(field) = map.next_key::<String>()? {
            if field == self.noun {
                record = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        record.ok_or_else(|| serde::de::Error::missing_field(self.noun))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENVELOPE: Envelope = Envelope { noun: "thing", version: 2 };

    fn decode(text: &str) -> Result<Vec<u8>, String> {
        ENVELOPE.decode("things/x", text.as_bytes()).map_err(|e| e.to_string())
    }

    #[test]
    fn records_are_read_as_written() {
        let bytes = ENVELOPE.encode(String::new, &vec![1u8, 2]).unwrap();
        assert_eq!(bytes, br#"{"version":2,"thing":[1,2]}"#);
        assert_eq!(decode(r#"{"version":2,"thing":[1,2]}"#).unwrap(), [1, 2]);
        assert_eq!(decode(r#"{"more":{},"thing":[1],"version":2}"#).unwrap(), [1]);
    }

    #[test]
    fn others_are_named() {
        let newer = decode(r#"{"version":3,"thing":[1]}"#).unwrap_err();
        assert!(newer.starts_with("thing record things/x has version 3"), "{newer}");
        for text in ["", "{", r#"{"version":2}"#, r#"{"version":2,"thing":1}"#] {
            let error = decode(text).unwrap_err();
            assert!(error.starts_with("thing record things/x: "), "{error}");
        }
    }
}
