//! A client that speaks just enough HTTP to see every byte that a server sends, and whether it sent all of them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than an answer can take, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body was as long as the server had said.
    pub(crate) whole: bool,
}

impl Reply {
    /// The value of a header; empty if there is none.
    pub(crate) fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map_or("", |(_, value)| value)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn parse(bytes: &[u8], only_head: bool) -> Self {
        let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else { return Self::default() };
        let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|l| l.split(' ').nth(1)?.parse().ok()).unwrap_or(0);
        let headers = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned()));
        let mut reply = Self { status, headers: headers.collect(), ..Self::default() };
        let rest = &bytes[end + 4..];
        if reply.header("transfer-encoding") == "chunked" {
            (reply.body, reply.whole) = unchunk(rest);
        } else {
            let length: usize = reply.header("content-length").parse().unwrap_or(0);
            reply.whole = rest.len() == length || only_head && rest.is_empty();
            reply.body = rest.to_vec();
        }
        reply
    }
}

/// The bytes of chunks, and whether the last one was there.
fn unchunk(mut rest: &[u8]) -> (Vec<u8>, bool) {
    let mut out = Vec::new();
    while let Some(line) = rest.windows(2).position(|w| w == b"\r\n") {
        let len = std::str::from_utf8(&rest[..line]).ok().and_then(|l| usize::from_str_radix(l, 16).ok());
        let Some(len) = len else { break };
        if len == 0 {
            return (out, true);
        }
        let chunk = &rest[line + 2..];
        out.extend_from_slice(&chunk[..len.min(chunk.len())]);
        match chunk.get(len + 2..) {
            Some(after) => rest = after,
            None => break,
        }
    }
    (out, false)
}

/// Connects and sends a request; the path is sent as it is.
pub(crate) fn send(
    at: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        request.push_str(&format!("Host: localhost:{}\r\n", at.port()));
    }
    if !body.is_empty() {
        request.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    // A server may refuse a body without having read it.
    let _ = stream.write_all(body);
    stream
}

/// Reads an answer to its end, or to where the connection breaks.
pub(crate) fn receive(mut stream: TcpStream, method: &str) -> Reply {
    let (mut bytes, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => bytes.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::Interrupted, "{e}"),
        }
    }
    Reply::parse(&bytes, method == "HEAD")
}

/// Asks, and reads the answer.
pub(crate) fn ask(at: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    receive(send(at, method, path, headers, b""), method)
}

/// The paths in the answer to a PROPFIND, percent-encoded, and whether each is a collection.
pub(crate) fn multistatus(reply: &Reply) -> Vec<(String, bool)> {
    let text = reply.text();
    let between = |text: &str, from: &str, to: &str| {
        let (_, rest) = text.split_once(from)?;
        Some(rest.split_once(to)?.0.to_owned())
    };
    let responses = text.split("<D:response>").skip(1);
    responses.map(|r| (between(r, "<D:href>", "</D:href>").unwrap(), r.contains("<D:collection"))).collect()
}
