use std::{io, path::PathBuf};

use crate::Hash;

/// What can go wrong while something is fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A name that is not in the catalogue.
    #[error("nothing called {found:?} can be fetched: choose cifar10, cifar100, stl10, weights or all")]
    UnknownItem {
        /// The name.
        found: String,
    },
    /// One file or address cannot be all things.
    #[error("a file or an address is of one thing: say whether cifar10, cifar100 or weights, not all")]
    OneOrigin,
    /// A file or folder cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file or folder cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Somebody else is fetching the same thing into the same folder.
    #[error("{} is locked: another process is fetching the same thing; wait for it", path.display())]
    Busy {
        /// The lock.
        path: PathBuf,
    },
    /// The bytes are not those that were asked for.
    #[error("{}: {hash} is {found}, expected {expected}: this is another file, or it was damaged on the way", path.display())]
    Checksum {
        /// The file.
        path: PathBuf,
        /// How the checksum is computed.
        hash: Hash,
        /// What it should be, in lower-case hexadecimal digits.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A file has the wrong length.
    #[error("{}: {found} bytes, expected {expected}", path.display())]
    Size {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        found: u64,
        /// What it should be.
        expected: u64,
    },
    /// The server cannot be reached, or does not speak HTTP.
    #[error("{url}: {source}")]
    Request {
        /// The address.
        url: String,
        /// Why.
        source: Box<ureq::Error>,
    },
    /// The server answered something else than the file.
    #[error("{url}: the server answers with status {status}, expected 200 or 206")]
    Status {
        /// The address.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The server answered with a page for people: a login, an error, a notice.
    #[error("{url}: the server answers with a web page, not with the file; open the address in a browser to see why")]
    WebPage {
        /// The address.
        url: String,
    },
    /// The server sends another part of the file than was asked for.
    #[error("{url}: asked for the bytes from {asked}, the server sends {found:?}")]
    Range {
        /// The address.
        url: String,
        /// The first byte asked for.
        asked: u64,
        /// The `Content-Range` of the answer.
        found: String,
    },
    /// The connection ended before the file did. What came is kept for the next try.
    #[error("{url}: the connection ended after {received} bytes{}: {source}", expected.map_or(String::new(), |n| format!(" of {n}")))]
    Cut {
        /// The address.
        url: String,
        /// How many bytes of the file there are now.
        received: u64,
        /// How many there should be, where the server or the catalogue says so.
        expected: Option<u64>,
        /// What ended it.
        source: io::Error,
    },
    /// The server offers more than such a file can have.
    #[error("{url}: {found} bytes or more, expected at most {limit}")]
    TooLong {
        /// The address.
        url: String,
        /// The bytes announced, or received so far.
        found: u64,
        /// The most that is taken.
        limit: u64,
    },
    /// Every address failed.
    #[error("cannot download {name}:{}", failures.iter().map(|failure| format!("\n  {failure}")).collect::<String>())]
    Unavailable {
        /// The file.
        name: String,
        /// What went wrong, address by address in the order tried.
        failures: Vec<Failure>,
    },
    /// An archive cannot be unpacked: it is cut short, or is no gzipped tar archive.
    #[error("{}: cannot be unpacked: {source}", path.display())]
    Archive {
        /// The archive.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An archive holds something that is not a plain file or folder in its one folder.
    #[error("{}: refused: its entry {entry:?} {reason}", path.display())]
    Entry {
        /// The archive.
        path: PathBuf,
        /// The name in the archive.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An archive unpacks to more than it should.
    #[error("{}: refused: it unpacks to {found} bytes or more, expected at most {limit}", path.display())]
    Unpacked {
        /// The archive.
        path: PathBuf,
        /// The bytes up to the entry where it was too much.
        found: u64,
        /// The most that is unpacked.
        limit: u64,
    },
    /// A folder of that name is there and is not what would be fetched. It is left alone.
    #[error("{} is there but is not complete ({missing}): move it away or remove it, then fetch again", path.display())]
    Occupied {
        /// The folder.
        path: PathBuf,
        /// What it lacks.
        missing: String,
    },
    /// An archive was unpacked and lacks a file.
    #[error("{}: it unpacks without what it should hold: {missing}", path.display())]
    Incomplete {
        /// The archive.
        path: PathBuf,
        /// What it lacks.
        missing: String,
    },
}

/// One address that failed.
#[derive(Debug)]
pub struct Failure {
    /// The address.
    pub url: String,
    /// Why.
    pub cause: FetchError,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let cause = self.cause.to_string();
        // What is wrong with bytes that came is said of the file that they came into.
        if cause.contains(&self.url) { f.write_str(&cause) } else { write!(f, "{}: {cause}", self.url) }
    }
}
