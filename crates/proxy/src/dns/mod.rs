//! Names as messages (RFC 1035) and as what is known of them. Pure: no socket
//! and no clock.

pub mod answer;
pub mod name;
pub mod query;
pub mod records;
pub mod services;
pub mod zone;

/// Types of records that are told apart.
pub mod kind {
    /// An IPv4 address.
    pub const A: u16 = 1;
    /// Another name for the same.
    pub const CNAME: u16 = 5;
    /// The beginning of a zone.
    pub const SOA: u16 = 6;
    /// The name of an address.
    pub const PTR: u16 = 12;
    /// An IPv6 address.
    pub const AAAA: u16 = 28;
    /// Where a service is.
    pub const SRV: u16 = 33;
    /// No record: options of the message (RFC 6891).
    pub const OPT: u16 = 41;
    /// Any of them.
    pub const ANY: u16 = 255;
}

/// The Internet's class.
pub const CLASS_IN: u16 = 1;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rcode {
    /// It is answered.
    NoError = 0,
    /// It could not be read.
    FormErr = 1,
    /// It could not be answered.
    ServFail = 2,
    /// There is no such name.
    NxDomain = 3,
    /// Nothing of the kind is done here.
    NotImp = 4,
    /// It is not answered here.
    Refused = 5,
}

/// A message's header in bytes.
pub const HEADER: usize = 12;
/// The longest message over UDP without options.
pub const PLAIN_UDP: usize = 512;
/// The longest message over UDP with options, sent to 127.0.0.1 only.
pub const LARGEST_UDP: usize = 4096;

/// Bit "this is a response".
pub const QR: u16 = 0x8000;
/// The kind of query.
pub const OPCODE: u16 = 0x7800;
/// Bit "from who is responsible for the name".
pub const AA: u16 = 0x0400;
/// Bit "cut off".
pub const TC: u16 = 0x0200;
/// Bit "ask others if you have to".
pub const RD: u16 = 0x0100;
/// Bit "others are asked".
pub const RA: u16 = 0x0080;
/// Bit "without proof".
pub const CD: u16 = 0x0010;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
