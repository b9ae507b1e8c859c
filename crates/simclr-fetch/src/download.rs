//! One file over HTTP into `NAME.part`, going on where an earlier try was cut.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use ureq::{
    Agent, Proxy,
    http::{HeaderMap, Response, header},
};

use crate::{
    FetchError, Source,
    place::{beside, remove_file},
};

/// How often one address is asked again after a cut, if each time brought at least a byte.
const CUTS: usize = 5;

/// A download under way: the file that grows, and what is known about it.
pub(crate) struct Part {
    path: PathBuf,
    /// Where the bytes came from and which version of the file they are: address and validator, a line each.
    tag: PathBuf,
    /// The size of the whole file, where the catalogue knows it.
    size: Option<u64>,
    limit: u64,
    patience: Duration,
}

/// What a download did.
pub(crate) struct Transfer {
    /// Bytes that came over the network.
    pub(crate) bytes: u64,
    /// Whether bytes of an earlier try are part of the file.
    pub(crate) resumed: bool,
}

impl Part {
    pub(crate) fn new(target: &Path, source: &Source) -> Self {
        let path = beside(target, ".part");
        let &Source { size, limit, patience, .. } = source;
        Self { tag: beside(&path, ".tag"), path, size, limit, patience }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes what was downloaded so far.
    pub(crate) fn discard(&self) -> Result<(), FetchError> {
        remove_file(&self.tag)?;
        remove_file(&self.path)
    }

    /// Removes what only a resumption needs.
    pub(crate) fn finish(&self) -> Result<(), FetchError> {
        remove_file(&self.tag)
    }

    /// Downloads the rest of the file from `url`. `progress` is told the bytes of the file that are there and the size of
    /// the whole, where that is known.
    pub(crate) fn download(
        &self,
        url: &str,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<Transfer, FetchError> {
        let agent = agent(url, self.patience);
        let mut transfer = Transfer { bytes: 0, resumed: self.len() > 0 };
        let mut cuts = 0;
        loop {
            let before = transfer.bytes;
            match self.attempt(&agent, url, &mut transfer, progress) {
                Err(FetchError::Cut { .. }) if transfer.bytes > before && cuts < CUTS => cuts += 1,
                Err(error) => return Err(error),
                Ok(()) => return Ok(transfer),
            }
        }
    }

    fn len(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |found| found.len())
    }

    /// One request, and its answer to the end.
    fn attempt(
        &self,
        agent: &Agent,
        url: &str,
        transfer: &mut Transfer,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let mut offset = self.len();
        if offset > 0 && Some(offset) == self.size {
            return Ok(());
        }
        if offset > self.limit {
            self.discard()?;
            offset = 0;
        }
        let mut request = agent.get(url);
        if offset > 0 {
            request = request.header(header::RANGE, format!("bytes={offset}-"));
            // Without a validator the checksum of the whole file decides.
            if let Some(validator) = self.validator(url) {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let response =
            request.call().map_err(|source| FetchError::Request { url: url.into(), source: Box::new(source) })?;
        let status = response.status().as_u16();
        let content_type = header_text(response.headers(), header::CONTENT_TYPE);
        if (200..300).contains(&status) && content_type.starts_with("text/html") {
            return Err(FetchError::WebPage { url: url.into() });
        }
        let range = header_text(response.headers(), header::CONTENT_RANGE);
        let (start, total) = match status {
            200 => (0, response.body().content_length()),
            206 if offset > 0 => match parse_range(&range) {
                Some((start, total)) if start == offset => (offset, total),
                _ => {
                    // Kept, these bytes would make every later try fail in the same way.
                    self.discard()?;
                    return Err(FetchError::Range { url: url.into(), asked: offset, found: range });
                }
            },
            // Nothing is left to send, or our bytes are of another file than the server's.
            416 if offset > 0 && range == format!("bytes */{offset}") => return Ok(()),
            416 if offset > 0 => {
                self.discard()?;
                return self.attempt(agent, url, transfer, progress);
            }
            _ => return Err(FetchError::Status { url: url.into(), status }),
        };
        if let Some(found) = total.filter(|&total| total > self.limit) {
            return Err(FetchError::TooLong { url: url.into(), found, limit: self.limit });
        }
        if start == 0 {
            transfer.resumed = false;
            self.discard()?;
        }
        self.remember(url, response.headers())?;
        self.receive(response, url, start, total.or(self.size), transfer, progress)
    }

    /// Appends the body of an answer.
    fn receive(
        &self,
        response: Response<ureq::Body>,
        url: &str,
        start: u64,
        total: Option<u64>,
        transfer: &mut Transfer,
        progress: &mut dyn FnMut(u64, Option<u64>),
    ) -> Result<(), FetchError> {
        let unwritable = |source| FetchError::Write { path: self.path.clone(), source };
        let mut file = File::options().create(true).append(true).open(&self.path).map_err(unwritable)?;
        let mut body = response.into_body().into_reader();
        let mut block = vec![0; 1 << 16];
        let mut received = start;
        progress(received, total);
        loop {
            let read = match body.read(&mut block) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(FetchError::Cut { url: url.into(), received, expected: total, source }),
            };
            received += read as u64;
            if received > self.limit {
                drop(file);
                self.discard()?;
                return Err(FetchError::TooLong { url: url.into(), found: received, limit: self.limit });
            }
            file.write_all(&block[..read]).map_err(unwritable)?;
            transfer.bytes += read as u64;
            progress(received, total);
        }
        file.sync_all().map_err(unwritable)
    }

    /// The validator for `If-Range`, if the bytes that are there came from this address.
    fn validator(&self, url: &str) -> Option<String> {
        let tag = fs::read_to_string(&self.tag).ok()?;
        let (from, validator) = tag.split_once('\n')?;
        (from == url && !validator.is_empty()).then(|| validator.to_owned())
    }

    fn remember(&self, url: &str, headers: &HeaderMap) -> Result<(), FetchError> {
        // RFC 9110, 13.1.5: a weak entity tag must not be used here.
        let etag = header_text(headers, header::ETAG);
        let validator = match etag.as_str() {
            "" => header_text(headers, header::LAST_MODIFIED),
            weak if weak.starts_with("W/") => header_text(headers, header::LAST_MODIFIED),
            _ => etag,
        };
        fs::write(&self.tag, format!("{url}\n{validator}"))
            .map_err(|source| FetchError::Write { path: self.tag.clone(), source })
    }
}

fn agent(url: &str, patience: Duration) -> Agent {
    // A proxy of the environment knows nothing of this machine's own servers.
    let proxy = if url.starts_with("http://127.0.0.1") { None } else { Proxy::try_from_env() };
    Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(patience))
        .timeout_recv_response(Some(patience))
        .timeout_per_read(Some(patience))
        .proxy(proxy)
        .build()
        .new_agent()
}

fn header_text(headers: &HeaderMap, name: header::HeaderName) -> String {
    headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// First byte and size of the whole file of a `Content-Range` such as `bytes 100-199/200` or `bytes 100-199/*`.
fn parse_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = span.split_once('-')?;
    let total = if total == "*" { None } else { Some(total.parse().ok()?) };
    Some((start.parse().ok()?, total))
}

#[cfg(test)]
mod tests {
    use super::parse_range;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_range("bytes 100-199/200"), Some((100, Some(200))));
        assert_eq!(parse_range("bytes 100-199/*"), Some((100, None)));
        for broken in ["", "bytes */200", "100-199/200", "bytes 100-199", "bytes a-b/c", "bytes 1-2/x"] {
            assert_eq!(parse_range(broken), None, "{broken}");
        }
    }
}
