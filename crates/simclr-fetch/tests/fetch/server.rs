//! A web server on the loopback that answers as many requests as it was told to, each in its own way, and then ends.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// How one request is answered.
#[derive(Clone, Default)]
pub(crate) struct Answer {
    pub(crate) body: Vec<u8>,
    /// Instead of 200 or 206.
    pub(crate) status: Option<u16>,
    pub(crate) etag: Option<&'static str>,
    /// `Range` is honoured, unless `If-Range` names another version.
    pub(crate) ranges: bool,
    /// The connection is closed after so many bytes of the body.
    pub(crate) cut_after: Option<usize>,
    /// `Content-Range` says this, whatever is sent.
    pub(crate) content_range: Option<&'static str>,
    /// After what is sent, the connection stays open and silent until the client hangs up.
    pub(crate) stall: bool,
    /// Where else the file is, with a status of 3xx.
    pub(crate) location: Option<String>,
    pub(crate) content_type: Option<&'static str>,
    /// The length that is announced, whatever is sent.
    pub(crate) length: Option<usize>,
    /// The length is not announced: the end of the connection is the end of the file.
    pub(crate) no_length: bool,
}

/// A request that came.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) range: Option<String>,
    pub(crate) if_range: Option<String>,
}

pub(crate) struct Server {
    pub(crate) url: String,
    thread: JoinHandle<Vec<Request>>,
}

impl Server {
    pub(crate) fn start(answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/file", listener.local_addr().unwrap());
        let thread = spawn(move || {
            let deadline = Instant::now() + PATIENCE;
            let mut requests = Vec::new();
            for answer in answers {
                match accept(&listener, deadline) {
                    Some(stream) => requests.push(serve(stream, &answer)),
                    None => break,
                }
            }
            requests
        });
        Self { url, thread }
    }

    /// The requests that came. Waits until all answers are given.
    pub(crate) fn requests(self) -> Vec<Request> {
        self.thread.join().unwrap()
    }
}

fn accept(listener: &TcpListener, deadline: Instant) -> Option<TcpStream> {
    while Instant::now() < deadline {
        match listener.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(error) if error.kind() == ErrorKind::WouldBlock => sleep(Duration::from_millis(2)),
            Err(error) => panic!("{error}"),
        }
    }
    None
}

fn serve(mut stream: TcpStream, answer: &Answer) -> Request {
    stream.set_nonblocking(false).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut request = Request::default();
    for line in BufReader::new(&stream).lines() {
        let line = line.unwrap();
        if line.is_empty() {
            break;
        }
        match line.split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("range") => request.range = Some(value.into()),
            Some((name, value)) if name.eq_ignore_ascii_case("if-range") => request.if_range = Some(value.into()),
            _ => {}
        }
    }

    let total = answer.body.len();
    let same_version = request.if_range.is_none() || request.if_range.as_deref() == answer.etag;
    let start = match &request.range {
        Some(range) if answer.ranges && same_version => {
            range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap()
        }
        _ => 0,
    };
    let mut head = match (answer.status, start) {
        (Some(status), _) => format!("HTTP/1.1 {status} So\r\n"),
        (None, 0) => "HTTP/1.1 200 OK\r\n".into(),
        (None, start) if start >= total => {
            format!("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Range: bytes */{total}\r\n")
        }
        (None, start) => {
            let range = format!("bytes {start}-{}/{total}", total - 1);
            format!("HTTP/1.1 206 Partial Content\r\nContent-Range: {}\r\n", answer.content_range.unwrap_or(&range))
        }
    };
    let body = &answer.body[start.min(total)..];
    if !answer.no_length {
        head += &format!("Content-Length: {}\r\n", answer.length.unwrap_or(body.len()));
    }
    if let Some(etag) = answer.etag {
        head += &format!("ETag: {etag}\r\n");
    }
    if let Some(location) = &answer.location {
        head += &format!("Location: {location}\r\n");
    }
    if let Some(content_type) = answer.content_type {
        head += &format!("Content-Type: {content_type}\r\n");
    }
    stream.write_all(format!("{head}Connection: close\r\n\r\n").as_bytes()).unwrap();
    // The client may hang up on what it does not want.
    let _ = stream.write_all(&body[..answer.cut_after.unwrap_or(body.len()).min(body.len())]);
    if answer.stall {
        // Ends with the client's patience, or with the server's read timeout.
        let _ = stream.read(&mut [0]);
    }
    request
}
