//! Another place to take something from than the catalogue's addresses.

use std::{convert::Infallible, path::PathBuf, str::FromStr};

/// Where a copy is: on this machine, or on a mirror.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A file. It is read, checked and left as it is.
    File(PathBuf),
    /// An address that begins with `http://` or `https://`.
    Url(String),
}

impl FromStr for Origin {
    type Err = Infallible;

    /// What begins like an address is one, everything else is a path.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        let is_url = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
        Ok(if is_url { Self::Url(text.into()) } else { Self::File(text.into()) })
    }
}

#[cfg(test)]
mod tests {
    use super::Origin;

    #[test]
    fn addresses_and_paths() {
        let origin = |text: &str| text.parse::<Origin>().unwrap();
        assert_eq!(origin("https://mirror/a.tar.gz"), Origin::Url("https://mirror/a.tar.gz".into()));
        assert_eq!(origin("http:/a"), Origin::File("http:/a".into()));
        assert_eq!(origin("a/b.tar.gz"), Origin::File("a/b.tar.gz".into()));
    }
}
