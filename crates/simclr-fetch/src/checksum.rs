//! Checksums of whole files.

use std::{
    fmt,
    fs::File,
    io::{self, Read},
    path::Path,
};

use md5::Md5;
use sha2::{Digest, Sha256};

use crate::FetchError;

/// How a checksum is computed.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Hash {
    /// MD5: finds accidents, not attacks; all that the CIFAR page offers.
    Md5,
    /// SHA-256.
    Sha256,
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        })
    }
}

/// What the bytes of a file must hash to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checksum {
    hash: Hash,
    hex: String,
}

impl Checksum {
    /// A checksum from its hexadecimal digits, in either case.
    pub fn new(hash: Hash, hex: &str) -> Self {
        Self { hash, hex: hex.to_ascii_lowercase() }
    }

    /// The checksum of some bytes.
    pub fn of(hash: Hash, mut bytes: &[u8]) -> Self {
        let hex = digest(hash, &mut bytes).expect("a slice can always be read");
        Self { hash, hex }
    }

    /// How it is computed.
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// Its lower-case hexadecimal digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// Reads the whole file and compares.
    ///
    /// # Errors
    /// [`FetchError::Checksum`] if it differs, [`FetchError::Read`] if the file cannot be read.
    pub(crate) fn check(&self, path: &Path) -> Result<(), FetchError> {
        let unreadable = |source| FetchError::Read { path: path.into(), source };
        let found = digest(self.hash, &mut File::open(path).map_err(unreadable)?).map_err(unreadable)?;
        if found == self.hex {
            return Ok(());
        }
        Err(FetchError::Checksum { path: path.into(), hash: self.hash, expected: self.hex.clone(), found })
    }
}

fn digest(hash: Hash, reader: &mut impl Read) -> io::Result<String> {
    match hash {
        Hash::Md5 => digest_with(Md5::new(), reader),
        Hash::Sha256 => digest_with(Sha256::new(), reader),
    }
}

fn digest_with(mut hasher: impl Digest, reader: &mut impl Read) -> io::Result<String> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(read) => hasher.update(&buffer[..read]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        // RFC 1321, A.5, and FIPS 180-2, B.1.
        assert_eq!(Checksum::of(Hash::Md5, b"abc").hex(), "900150983cd24fb0d6963f7d28e17f72");
        let sha = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        assert_eq!(Checksum::of(Hash::Sha256, b"abc"), Checksum::new(Hash::Sha256, sha));
    }
}
