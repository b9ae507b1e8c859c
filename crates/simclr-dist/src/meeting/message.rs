//! What ranks say where they meet, as bytes: little-endian, of a fixed layout.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// By which this program knows its own.
const MAGIC: [u8; 8] = *b"SimCLR\r\n";

/// Of everything here but the hello, whose layout stays.
pub(super) const VERSION: u32 = 1;

/// Bytes of the longest message.
const LONGEST: u32 = 1 << 16;

/// Who comes: magic, then three numbers of 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hello {
    pub(super) version: u32,
    pub(super) rank: u32,
    pub(super) size: u32,
}

impl Hello {
    pub(super) fn write(self, mut to: impl Write) -> Result<()> {
        let numbers = [self.version, self.rank, self.size].map(u32::to_le_bytes);
        to.write_all(&[&MAGIC, numbers.as_flattened()].concat())
    }

    /// [`ErrorKind::InvalidData`] is a stranger.
    pub(super) fn read(mut from: impl Read) -> Result<Self> {
        let magic: [u8; 8] = array(&mut from)?;
        if magic != MAGIC {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Self { version: number(&mut from)?, rank: number(&mut from)?, size: number(&mut from)? })
    }
}

/// What is said after the hello: a byte for the kind, a rank, how many bytes follow, and those.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Message {
    /// All have come; this is what rank 0 gives them.
    Id(Vec<u8>),
    /// The meeting has failed.
    Refused(String),
    /// This rank has died.
    Died(usize),
    /// This rank ends all with this exit status.
    Aborted(usize, i32),
    /// Whoever says this leaves; rank 0 says it when all do.
    Farewell,
}

impl Message {
    pub(super) fn write(&self, mut to: impl Write) -> Result<()> {
        let (kind, rank, bytes) = match self {
            Self::Id(id) => (1, 0, id.clone()),
            Self::Refused(why) => (2, 0, why.clone().into_bytes()),
            Self::Died(rank) => (3, *rank, Vec::new()),
            Self::Aborted(rank, status) => (4, *rank, status.to_le_bytes().to_vec()),
            Self::Farewell => (5, 0, Vec::new()),
        };
        let len = u32::try_from(bytes.len()).ok().filter(|&len| len <= LONGEST).ok_or(ErrorKind::InvalidInput)?;
        // One write: what two threads say does not mix.
        to.write_all(&[&[kind][..], &(rank as u32).to_le_bytes(), &len.to_le_bytes(), &bytes].concat())
    }

    /// [`ErrorKind::InvalidData`] if it is none.
    pub(super) fn read(mut from: impl Read) -> Result<Self> {
        let [kind] = array(&mut from)?;
        // Before more is waited for: what is no message may be shorter.
        if !(1..=5).contains(&kind) {
            return Err(ErrorKind::InvalidData.into());
        }
        let (rank, len) = (number(&mut from)? as usize, number(&mut from)?);
        if len > LONGEST {
            return Err(ErrorKind::InvalidData.into());
        }
        let mut bytes = vec![0; len as usize];
        from.read_exact(&mut bytes)?;
        let invalid = || Error::from(ErrorKind::InvalidData);
        Ok(match kind {
            1 => Self::Id(bytes),
            2 => Self::Refused(String::from_utf8(bytes).map_err(|_| invalid())?),
            3 => Self::Died(rank),
            4 => Self::Aborted(rank, i32::from_le_bytes(bytes.try_into().map_err(|_| invalid())?)),
            _ => Self::Farewell,
        })
    }
}

fn array<const N: usize>(from: &mut impl Read) -> Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn number(from: &mut impl Read) -> Result<u32> {
    Ok(u32::from_le_bytes(array(from)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let hello = Hello { version: VERSION, rank: 3, size: 4 };
        let mut bytes = Vec::new();
        hello.write(&mut bytes).unwrap();
        assert_eq!(bytes, b"SimCLR\r\n\x01\0\0\0\x03\0\0\0\x04\0\0\0");
        assert_eq!(Hello::read(&bytes[..]).unwrap(), hello);
        let id = Message::Id((0..128).collect());
        let refused = Message::Refused("rank 1 has come twice".into());
        for message in [id, refused, Message::Died(7), Message::Aborted(1, -3), Message::Farewell] {
            let mut bytes = Vec::new();
            message.write(&mut bytes).unwrap();
            assert_eq!(Message::read(&bytes[..]).unwrap(), message);
            let cut = Message::read(&bytes[..bytes.len() - 1]).unwrap_err();
            assert_eq!(cut.kind(), ErrorKind::UnexpectedEof);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        let kind = |bytes: &[u8]| Message::read(bytes).unwrap_err().kind();
        assert_eq!(kind(b"HTTP/1.1 400 Bad Request\r\n"), ErrorKind::InvalidData);
        assert_eq!(kind(b"\x01\0\0\0\0\xff\xff\xff\xff"), ErrorKind::InvalidData, "too long");
        assert_eq!(kind(b"\x02\0\0\0\0\x01\0\0\0\xff"), ErrorKind::InvalidData, "no UTF-8");
        assert_eq!(kind(b"\x04\0\0\0\0\x01\0\0\0\x07"), ErrorKind::InvalidData, "no exit status");
        assert_eq!(Hello::read(&b"GET / HTTP/1.1\r\n"[..]).unwrap_err().kind(), ErrorKind::InvalidData);
        let long = Message::Id(vec![0; LONGEST as usize + 1]).write(Vec::new()).unwrap_err();
        assert_eq!(long.kind(), ErrorKind::InvalidInput);
    }
}
