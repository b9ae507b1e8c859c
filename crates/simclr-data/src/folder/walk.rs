//! All files below a folder, in an order that depends on their names alone.

use std::{
    fs::{self, Metadata},
    io,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

/// The names of files below a folder, relative to it: some thirty bytes and the name for each, in one piece of memory.
#[derive(Debug, Default)]
pub(super) struct Files {
    names: Vec<u8>,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// What the order is by.
    hash: u64,
    start: usize,
    len: u32,
}

/// A file or folder that is no picture and not simply something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bad {
    /// Where it is.
    pub path: PathBuf,
    /// Why it is left out.
    pub reason: String,
}

impl Files {
    /// Walks through `root`. Symbolic links are followed, but none to a folder that it lies in; hidden names are passed over;
    /// what is neither file nor folder is never opened. `seen` hears how many files there are so far, and says whether to go
    /// on: none if not.
    ///
    /// What cannot be read is in the second list, sorted.
    pub(super) fn walk(root: &Path, mut seen: impl FnMut(usize) -> bool) -> Option<(Self, Vec<Bad>)> {
        let mut walk = Walk { root: root.to_owned(), ..Walk::default() };
        if !walk.folder(&mut PathBuf::new(), &mut seen) {
            return None;
        }
        let Walk { mut files, mut bad, .. } = walk;
        let Self { names, entries } = &mut files;
        let name = |entry: &Entry| &names[entry.start..][..entry.len as usize];
        entries.sort_unstable_by(|a, b| a.hash.cmp(&b.hash).then_with(|| name(a).cmp(name(b))));
        bad.sort_by(|a, b| a.path.cmp(&b.path));
        Some((files, bad))
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Where a file is below the root.
    pub(super) fn path(&self, index: usize) -> PathBuf {
        let Entry { start, len, .. } = self.entries[index];
        path_of(&self.names[start..][..len as usize])
    }

    fn push(&mut self, path: &Path) -> Result<(), String> {
        let bytes = bytes_of(path).ok_or("its name is no text of this system")?;
        // The components of the path joined by `/`, on every system.
        let digest = Sha256::digest(&bytes);
        let hash = u64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"));
        let len = u32::try_from(bytes.len()).map_err(|_| "its name is too long")?;
        self.entries.push(Entry { hash, start: self.names.len(), len });
        self.names.extend_from_slice(&bytes);
        Ok(())
    }
}

#[cfg(unix)]
fn bytes_of(path: &Path) -> Option<Vec<u8>> {
    use std::os::unix::ffi::OsStrExt as _;
    Some(path.as_os_str().as_bytes().to_vec())
}

#[cfg(unix)]
fn path_of(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt as _;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

#[cfg(not(unix))]
fn bytes_of(path: &Path) -> Option<Vec<u8>> {
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    Some(parts?.join("/").into_bytes())
}

#[cfg(not(unix))]
fn path_of(bytes: &[u8]) -> PathBuf {
    String::from_utf8_lossy(bytes).split('/').collect()
}

#[derive(Default)]
struct Walk {
    root: PathBuf,
    files: Files,
    bad: Vec<Bad>,
    /// The folders that the present one lies in, itself included.
    above: Vec<Identity>,
}

impl Walk {
    /// Takes everything below `path`, which is relative to the root; whether to go on.
    fn folder(&mut self, path: &mut PathBuf, seen: &mut impl FnMut(usize) -> bool) -> bool {
        let whole = self.root.join(&*path);
        let entered = identity(&whole).and_then(|own| {
            if self.above.contains(&own) {
                return Err(io::Error::other("a symbolic link to a folder that it lies in"));
            }
            Ok((own, fs::read_dir(&whole)?))
        });
        let (own, entries) = match entered {
            Ok(entered) => entered,
            Err(error) => {
                self.leave_out(whole, error.to_string());
                return true;
            }
        };
        self.above.push(own);
        for entry in entries {
            let name = match entry {
                Ok(entry) => entry.file_name(),
                Err(error) => {
                    self.leave_out(whole.clone(), error.to_string());
                    break;
                }
            };
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            path.push(name);
            let whole = self.root.join(&*path);
            // Through symbolic links: what matters is what is behind them.
            let go_on = match fs::metadata(&whole) {
                Ok(metadata) if metadata.is_dir() => self.folder(path, seen),
                Ok(metadata) if metadata.is_file() => {
                    if let Err(reason) = self.files.push(path) {
                        self.leave_out(whole, reason);
                    }
                    seen(self.files.len())
                }
                Ok(metadata) => {
                    self.leave_out(whole, kind(&metadata).to_owned());
                    true
                }
                Err(error) => {
                    self.leave_out(whole, error.to_string());
                    true
                }
            };
            path.pop();
            if !go_on {
                return false;
            }
        }
        self.above.pop();
        true
    }

    fn leave_out(&mut self, path: PathBuf, reason: String) {
        self.bad.push(Bad { path, reason });
    }
}

/// What tells a folder from all others.
#[cfg(unix)]
type Identity = (u64, u64);

#[cfg(unix)]
fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs::metadata(path)?;
    Ok((metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
type Identity = PathBuf;

#[cfg(not(unix))]
fn identity(path: &Path) -> io::Result<Identity> {
    fs::canonicalize(path)
}

/// What is neither file nor folder.
#[cfg(unix)]
fn kind(metadata: &Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt as _;
    let kind = metadata.file_type();
    if kind.is_fifo() {
        "a named pipe, no file"
    } else if kind.is_socket() {
        "a socket, no file"
    } else {
        "a device, no file"
    }
}

#[cfg(not(unix))]
fn kind(_: &Metadata) -> &'static str {
    "neither a file nor a folder"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walked(root: &Path) -> (Vec<String>, Vec<Bad>) {
        let (files, bad) = Files::walk(root, |_| true).unwrap();
        let names = (0..files.len()).map(|index| files.path(index).to_string_lossy().into_owned());
        (names.collect(), bad)
    }

    #[test]
    fn every_depth_is_seen_in_the_order_of_hashes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b/c")).unwrap();
        for name in ["a/b/c/1", "a/2", "3", ".hidden", "a/.also/hidden"] {
            fs::create_dir_all(dir.path().join(name).parent().unwrap()).unwrap();
            fs::write(dir.path().join(name), "").unwrap();
        }
        let (names, bad) = walked(dir.path());
        let mut expected = ["a/b/c/1", "a/2", "3"];
        expected.sort_by_key(|name| Sha256::digest(name).to_vec());
        assert_eq!((names.clone(), bad), (expected.map(String::from).to_vec(), vec![]));
        // A file more changes no order of the others.
        fs::write(dir.path().join("a/more"), "").unwrap();
        let more: Vec<_> = walked(dir.path()).0.into_iter().filter(|name| name != "a/more").collect();
        assert_eq!(more, names);
        assert!(Files::walk(dir.path(), |count| count < 2).is_none(), "stops when it is told to");
    }

    #[cfg(unix)]
    #[test]
    fn loops_pipes_and_dangling_links_are_told_and_not_followed() {
        use std::os::unix::{ffi::OsStrExt as _, fs::symlink};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        fs::create_dir_all(path("in/deep")).unwrap();
        fs::write(path("in/picture"), "").unwrap();
        symlink(dir.path(), path("in/deep/loop")).unwrap();
        symlink(path("in"), path("twin")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        fs::write(dir.path().join(std::ffi::OsStr::from_bytes(b"odd\xff name")), "").unwrap();
        let pipe = std::process::Command::new("mkfifo").arg(path("pipe")).status();
        let pipe = pipe.is_ok_and(|status| status.success());
        let (names, bad) = walked(dir.path());
        let mut sorted = names;
        sorted.sort();
        // A folder may be reached twice, as long as it is not inside of itself.
        assert_eq!(sorted, ["in/picture", "odd\u{fffd} name", "twin/picture"]);
        let reasons: Vec<_> = bad.iter().map(|b| (b.path.file_name().unwrap().to_str().unwrap(), &b.reason)).collect();
        let of = |name: &str| {
            reasons.iter().filter(|(other, _)| *other == name).map(|(_, reason)| *reason).collect::<Vec<_>>()
        };
        assert_eq!(of("loop"), ["a symbolic link to a folder that it lies in"; 2]);
        assert!(of("dangling")[0].contains("No such file"), "{reasons:?}");
        if pipe {
            assert_eq!(of("pipe"), ["a named pipe, no file"]);
        } else {
            io::Write::write_all(&mut io::stderr(), b"SKIPPED: no mkfifo here\n").unwrap();
        }
    }
}
