//! Netlink messages and attributes as bytes (see netlink(7)).
//!
//! Be aware: an attribute's length has 16 bits. Lists that can grow beyond
//! 64 KiB are split by their writer.

/// `struct nlmsghdr`: length, type, flags, sequence number, port.
pub(crate) const HEADER: usize = 16;
const ATTR_HEADER: usize = 4;
/// The upper two bits of an attribute's type are flags.
const TYPE_MASK: u16 = 0x3fff;

/// A message while it is written.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of type `kind`, with the protocol's own `header` and no attribute.
    pub(crate) fn new(kind: u16, flags: u16, header: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend([0; 4]);
        bytes.extend(kind.to_ne_bytes());
        bytes.extend((flags | libc::NLM_F_REQUEST as u16).to_ne_bytes());
        bytes.extend([0; 8]);
        bytes.extend(header);
        let mut message = Self { bytes };
        message.pad();
        message
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// An attribute with a raw value.
    pub(crate) fn raw(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTR_HEADER + value.len()).unwrap_or(u16::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(&value[..usize::from(length) - ATTR_HEADER]);
        self.pad();
        self
    }

    /// A text with its final zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.raw(kind, &bytes)
    }

    /// A byte.
    pub(crate) fn u8(&mut self, kind: u16, value: u8) -> &mut Self {
        self.raw(kind, &[value])
    }

    /// 32 bits in the machine's order (rtnetlink).
    pub(crate) fn u32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_ne_bytes())
    }

    /// 32 bits in network order (nf_tables, conntrack).
    pub(crate) fn be32(&mut self, kind: u16, value: u32) -> &mut Self {
        self.raw(kind, &value.to_be_bytes())
    }

    /// An attribute that holds attributes.
    pub(crate) fn nest(&mut self, kind: u16, write: impl FnOnce(&mut Self)) -> &mut Self {
        self.nest_plain(kind | libc::NLA_F_NESTED as u16, write)
    }

    /// As [`Message::nest`], without the flag that says so: as the kernel
    /// itself writes most of them.
    pub(crate) fn nest_plain(&mut self, kind: u16, write: impl FnOnce(&mut Self)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend([0; 2]);
        self.bytes.extend(kind.to_ne_bytes());
        write(self);
        let length = u16::try_from(self.bytes.len() - start).unwrap_or(u16::MAX);
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self
    }

    /// Bytes as they are: a header inside an attribute.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend(bytes);
        self.pad();
        self
    }

    /// Adds flags to the message's header.
    pub(crate) fn add_flags(&mut self, flags: u16) {
        let old = u16::from_ne_bytes([self.bytes[6], self.bytes[7]]);
        self.bytes[6..8].copy_from_slice(&(old | flags).to_ne_bytes());
    }

    /// What was written after the header.
    pub(crate) fn into_body(mut self) -> Vec<u8> {
        self.bytes.split_off(HEADER)
    }

    /// Completes the header and appends the message to a datagram.
    pub(crate) fn append_to(mut self, sequence: u32, datagram: &mut Vec<u8>) {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        datagram.extend(self.bytes);
    }
}

/// The attributes in `bytes`: type without flags, value. Ends at the first
/// malformed one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?);
        let value = rest.get(ATTR_HEADER..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & TYPE_MASK, value))
    })
}

/// The value of the first attribute of type `kind`.
pub(crate) fn find(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(k, _)| *k == kind).map(|(_, v)| v)
}

/// A text, without its final zero.
pub(crate) fn text(value: &[u8]) -> String {
    let end = value.iter().position(|b| *b == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

/// 32 bits in the machine's order; 0 when there are fewer.
pub(crate) fn u32_ne(value: &[u8]) -> u32 {
    value.get(..4).and_then(|v| v.try_into().ok()).map_or(0, u32::from_ne_bytes)
}

/// 32 bits in network order; 0 when there are fewer.
pub(crate) fn u32_be(value: &[u8]) -> u32 {
    value.get(..4).and_then(|v| v.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// 16 bits in network order; 0 when there are fewer.
pub(crate) fn u16_be(value: &[u8]) -> u16 {
    value.get(..2).and_then(|v| v.try_into().ok()).map_or(0, u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut message = Message::new(16, 0, &[0; 16]);
        message.text(3, "eth0").nest(18, |m| {
            m.u8(1, 7).u32(2, 9);
        });
        let mut datagram = Vec::new();
        message.append_to(5, &mut datagram);
        assert_eq!(datagram.len() % 4, 0);
        assert_eq!(u32_ne(&datagram) as usize, datagram.len());
        let body = &datagram[HEADER + 16..];
        assert_eq!(text(find(body, 3).unwrap()), "eth0");
        let inner = find(body, 18).unwrap();
        assert_eq!(find(inner, 1), Some(&[7u8][..]));
        assert_eq!(u32_ne(find(inner, 2).unwrap()), 9);
    }

    #[test]
    fn malformed_attributes_end_the_list() {
        assert_eq!(attributes(&[0, 0, 1, 0, 0, 0, 0, 0]).count(), 0);
        assert_eq!(attributes(&[255, 0, 1, 0]).count(), 0);
        assert_eq!(attributes(&[8, 0]).count(), 0);
    }
}
