//! A store served over HTTP and WebDAV by the program, asked by a client that sees every byte.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use rustix::process::{Pid, Signal, kill_process};

use crate::common::http::{Reply, ask, multistatus, receive, send};
use crate::common::sandbox::read_until;
use crate::common::torture;
use crate::common::{Directory, Outcome, Sandbox, hex_id};

/// `plakar mount -to http://…` in the foreground; it ends with its test.
struct Served {
    child: Option<Child>,
    command: Command,
    at: SocketAddr,
}

impl Served {
    /// At a port of this machine that is free.
    fn new<const N: usize>(sandbox: &Sandbox, args: [&str; N]) -> Self {
        Self::at(sandbox, "http://127.0.0.1:0", &args, &[])
    }

    fn at(sandbox: &Sandbox, to: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = sandbox.command(["mount", "-to", to]);
        command.args(args).envs(env.iter().copied());
        let mut child = command.spawn().unwrap();
        let mut stdout = child.stdout.take().unwrap();
        // From here on it ends also when it never gets ready.
        let mut served = Self { child: Some(child), command, at: SocketAddr::from(([0, 0, 0, 0], 0)) };
        read_until(&mut stdout, b" at http://");
        let url = String::from_utf8(read_until(&mut stdout, b"/\n")).unwrap();
        let mut at: SocketAddr = url.trim_end_matches("/\n").parse().unwrap();
        if at.ip().is_unspecified() {
            at.set_ip([127, 0, 0, 1].into());
        }
        served.at = at;
        served
    }

    fn get(&self, path: &str) -> Reply {
        self.ask("GET", path, &[])
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
        ask(self.at, method, path, headers)
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().unwrap()), signal).unwrap();
    }

    fn ended(mut self) -> Outcome {
        Outcome::when_ended(self.child.take().unwrap(), &self.command)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A path as it stands in a URL: everything encoded that may be.
fn url(path: &[u8]) -> String {
    path.iter().map(|b| if *b == b'/' { "/".into() } else { format!("%{b:02X}") }).collect()
}

fn decode(url: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::new(), url.as_bytes());
    while let [first, after @ ..] = rest {
        if *first == b'%' {
            out.push(u8::from_str_radix(std::str::from_utf8(&after[..2]).unwrap(), 16).unwrap());
            rest = &after[2..];
        } else {
            out.push(*first);
            rest = after;
        }
    }
    out
}

/// Names in a directory on a disk.
fn names_on_disk(directory: &Path) -> BTreeSet<Vec<u8>> {
    fs::read_dir(directory).unwrap().map(|e| e.unwrap().file_name().into_vec()).collect()
}

/// Links of a page, without those to directories above.
fn links(page: &Reply) -> Vec<String> {
    let text = page.text();
    let links = text.split("<a href=\"").skip(1).map(|l| l.split_once('"').unwrap().0.to_owned());
    links.filter(|l| !l.starts_with("../")).collect()
}

#[test]
fn a_tree_of_everything_has_the_same_names_and_bytes() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    torture::everything(&source);
    // A path of that length fits in no request.
    fs::rename(source.join("deep"), sandbox.path("deep")).unwrap();
    sandbox.backup(&source);
    let served = Served::new(&sandbox, ["latest"]);
    let (mut ahead, mut files, mut special) = (vec![PathBuf::new()], 0, 0);
    while let Some(below) = ahead.pop() {
        let on_disk = source.join(&below);
        let path = format!("/{}/", url(below.as_os_str().as_bytes())).replace("//", "/");
        let listed = served.ask("PROPFIND", &path, &[("Depth", "1")]);
        assert_eq!((listed.status, listed.whole), (207, true), "{path}");
        let page = served.get(&path);
        assert_eq!((page.status, page.whole), (200, true), "{path}");
        // By WebDAV a link is what it leads to inside, or nothing; the page has all names, and no way out.
        let mut found = BTreeMap::new();
        for (path, is_collection) in multistatus(&listed).into_iter().skip(1) {
            let name = decode(path.trim_end_matches('/').rsplit('/').next().unwrap());
            found.insert(name, (path, is_collection));
        }
        let rows = page.text().matches("<tr").count() - 1 - page.text().matches("<tr class=\"n\"").count();
        assert_eq!(rows, names_on_disk(&on_disk).len(), "{path}");
        for name in names_on_disk(&on_disk) {
            let file = on_disk.join(OsString::from_vec(name.clone()));
            let meta = file.symlink_metadata().unwrap();
            let Some((path, is_collection)) = found.remove(&name) else {
                assert!(meta.is_symlink(), "{} is not listed", file.display());
                continue;
            };
            let real = file.metadata().unwrap();
            assert_eq!(is_collection, real.is_dir(), "{path}");
            if meta.is_dir() {
                ahead.push(below.join(OsString::from_vec(name)));
            } else if real.is_file() {
                let reply = served.get(&path);
                assert_eq!((reply.status, reply.whole), (200, true), "{path}");
                assert!(reply.body == fs::read(&file).unwrap(), "{path} has other bytes");
                files += 1;
            } else if !real.is_dir() {
                assert_eq!(served.get(&path).status, 403, "{path}");
                special += 1;
            }
        }
        assert!(found.is_empty(), "{found:?} are in no source");
    }
    assert!(files > 60 && special > 6, "{files} files, {special} special ones");
}

#[test]
fn hostile_names_are_shown_as_text_and_can_be_opened() {
    let names: [&[u8]; 12] = [
        b"<script>alert(1)<",
        b"\"><img src=x onerror=alert(1)>",
        b"'quotes' & \"more\"",
        b"new\nline",
        b"\xff\xfe not text",
        "gpj.\u{202e}exe".as_bytes(),
        b"javascript:alert(1)",
        b"100% #1?a=b&c",
        b" blanks  ",
        b"a\\b",
        b"%2e%2e",
        b"...",
    ];
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    let directory = Directory::open(&source);
    for name in names {
        directory.at(name).file(name);
    }
    sandbox.backup(&source);
    let served = Served::new(&sandbox, ["latest"]);
    let page = served.get("/");
    let text = page.text();
    assert!(!text.contains("<script") && !text.contains("<img") && !text.contains('\u{202e}'), "{text}");
    assert!(
        text.contains("&lt;script&gt;")
            && text.contains("new\\nline")
            && text.contains("\\xff\\xfe not text")
    );
    let links = links(&page);
    assert_eq!(links.len(), names.len());
    for link in links {
        assert!(link.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~%".contains(&b)), "{link}");
        // What a browser makes of it.
        let reply = served.get(&format!("/{link}"));
        assert_eq!((reply.status, &reply.body), (200, &decode(&link)), "{link}");
    }
}

#[test]
fn nothing_that_was_backed_up_runs_in_a_browser() {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir(&source).unwrap();
    for name in ["page.html", "picture.svg", "text", "data.bin", "README", "movie.mp4"] {
        fs::write(source.join(name), "<script>alert(1)</script>").unwrap();
    }
    fs::write(source.join("data.bin"), b"\0\xff").unwrap();
    fs::write(source.join("program"), b"\x7fELF\0").unwrap();
    sandbox.backup(&source);
    let served = Served::new(&sandbox, ["latest"]);
    for (name, kind) in [
        ("page.html", "text/html; charset=utf-8"),
        ("picture.svg", "image/svg+xml"),
        ("text", "text/plain; charset=utf-8"),
        ("README", "text/plain; charset=utf-8"),
        ("data.bin", "application/octet-stream"),
        ("program", "application/octet-stream"),
        ("movie.mp4", "video/mp4"),
        ("missing", "text/plain; charset=utf-8"),
    ] {
        for method in ["GET", "HEAD"] {
            let reply = served.ask(method, &format!("/{name}"), &[]);
            assert_eq!(reply.header("content-type"), kind, "{name}");
            assert_eq!(reply.header("x-content-type-options"), "nosniff");
            let policy = reply.header("content-security-policy");
            assert!(policy.contains("sandbox") && policy.contains("script-src 'none'"), "{policy}");
            assert!(!policy.contains("allow-scripts"));
        }
    }
    let policy = served.get("/").header("content-security-policy").to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("script"), "{policy}");
}

/// A store with a snapshot of a small tree.
fn with_snapshot() -> (Sandbox, Vec<u8>) {
    let sandbox = Sandbox::with_key_file();
    let source = sandbox.path("source");
    fs::create_dir_all(source.join("sub")).unwrap();
    fs::write(source.join("file"), "0123456789").unwrap();
    let large = torture::noise(1, 5 << 20);
    fs::write(source.join("sub/large"), &large).unwrap();
    sandbox.backup(&source);
    (sandbox, large)
}

#[test]
fn ranges_give_the_bytes_that_were_asked_for() {
    let (sandbox, large) = with_snapshot();
    let served = Served::new(&sandbox, ["latest"]);
    let size = large.len();
    let range = |range: &str| served.ask("GET", "/sub/large", &[("Range", range)]);
    for (asked, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=262143-262144", 262_143, 262_145),
        ("bytes=1000000-", 1_000_000, size),
        ("bytes=-1000000", size - 1_000_000, size),
        ("bytes=0-99999999", 0, size),
        ("bytes=5242879-", size - 1, size),
    ] {
        let reply = range(asked);
        assert_eq!((reply.status, reply.whole), (206, true), "{asked}");
        assert_eq!(reply.header("content-range"), format!("bytes {from}-{}/{size}", to - 1));
        assert!(reply.body == large[from..to], "{asked}");
    }
    let reply = range("bytes=5242880-");
    assert_eq!((reply.status, reply.header("content-range")), (416, "bytes */5242880"));
    for whole in ["lines=1-2", "bytes=2-1", "bytes=x"] {
        let reply = range(whole);
        assert_eq!((reply.status, reply.body == large), (200, true), "{whole}");
    }
    let reply = range("bytes=7-9, -4,3000000-3500000");
    assert_eq!((reply.status, reply.whole), (206, true));
    let boundary = reply.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut wanted = Vec::new();
    for (from, to) in [(7, 10), (size - 4, size), (3_000_000, 3_500_001)] {
        let head = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {from}-{}/{size}\r\n\r\n",
            to - 1
        );
        wanted.extend_from_slice(head.as_bytes());
        wanted.extend_from_slice(&large[from..to]);
    }
    wanted.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    assert!(reply.body == wanted[2..], "the parts differ");
    let head = served.ask("HEAD", "/sub/large", &[("Range", "bytes=0-0")]);
    assert_eq!((head.status, head.header("content-length")), (200, "5242880"));
    assert!(head.body.is_empty());
}

#[test]
fn what_a_client_has_is_known_by_its_tag_and_time() {
    let (sandbox, _) = with_snapshot();
    let served = Served::new(&sandbox, []);
    let path = format!("/latest{}/file", url(sandbox.path("source").as_os_str().as_bytes()));
    let first = served.get(&path);
    let (tag, time) = (first.header("etag").to_owned(), first.header("last-modified").to_owned());
    assert!(tag.starts_with('"') && tag.len() > 10, "{tag}");
    for (name, value, status) in [
        ("If-None-Match", tag.as_str(), 304),
        ("If-None-Match", "\"other\"", 200),
        ("If-Modified-Since", time.as_str(), 304),
        ("If-Modified-Since", "Thu, 01 Jan 1970 00:00:00 GMT", 200),
        ("If-Match", "\"other\"", 412),
        ("If-Match", tag.as_str(), 200),
    ] {
        let reply = served.ask("GET", &path, &[(name, value)]);
        assert_eq!(reply.status, status, "{name}: {value}");
        assert_eq!(reply.body.is_empty(), status == 304, "{name}: {value}");
    }
    for (condition, status) in [(tag.as_str(), 206), (time.as_str(), 206), ("\"other\"", 200)] {
        let reply = served.ask("GET", &path, &[("Range", "bytes=2-4"), ("If-Range", condition)]);
        let wanted = if status == 206 { &b"234"[..] } else { b"0123456789" };
        assert_eq!((reply.status, &reply.body[..]), (status, wanted), "{condition}");
    }
    // The same in another process and by another way, another one in another snapshot.
    let listed = served.ask("PROPFIND", &path, &[("Depth", "0")]).text();
    assert!(listed.contains(&tag.replace('"', "&quot;")) || listed.contains(&tag), "{listed}");
    drop(served);
    sandbox.backup(&sandbox.path("source"));
    let served = Served::new(&sandbox, []);
    let snapshots = links(&served.get("/snapshots/"));
    assert_eq!(snapshots.len(), 2);
    let tags: Vec<String> = snapshots
        .iter()
        .map(|s| served.get(&path.replacen("latest", &format!("snapshots/{s}"), 1)).header("etag").to_owned())
        .collect();
    assert!(tags[0] != tags[1] && tags[1] == tag, "{tags:?} {tag}");
}

#[test]
fn nothing_can_be_written() {
    let (sandbox, _) = with_snapshot();
    let served = Served::new(&sandbox, ["latest"]);
    let before = sandbox.objects("data");
    for method in [
        "PUT",
        "POST",
        "DELETE",
        "MKCOL",
        "MOVE",
        "COPY",
        "PROPPATCH",
        "LOCK",
        "UNLOCK",
        "PATCH",
        "TRACE",
        "FROB",
    ] {
        for path in ["/", "/file", "/new", "/sub/"] {
            let headers = [("Destination", "/elsewhere"), ("Depth", "0")];
            let reply = receive(send(served.at, method, path, &headers, b"data"), method);
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(reply.header("allow"), "OPTIONS, GET, HEAD, PROPFIND");
        }
    }
    let reply = served.ask("OPTIONS", "/", &[]);
    assert_eq!((reply.status, reply.header("dav")), (200, "1"));
    assert_eq!(reply.header("allow"), "OPTIONS, GET, HEAD, PROPFIND");
    assert_eq!(sandbox.objects("data"), before);
    assert_eq!(served.get("/file").body, b"0123456789");
}

#[test]
fn a_token_lets_in_and_is_told_to_nobody() {
    let (sandbox, _) = with_snapshot();
    let token = "S3cret-S3cret-S3cret";
    let file = sandbox.path("token");
    fs::write(&file, format!("{token}\n")).unwrap();
    let by_file = ["latest", "-trace", "all", "-token-file", file.to_str().unwrap()];
    let by_env = [("PLAKAR_MOUNT_TOKEN", token)];
    // Also from other machines.
    for (to, args, env) in
        [("webdav://127.0.0.1:0", &by_file[..], &[][..]), ("http://0.0.0.0:0", &by_file[..3], &by_env[..])]
    {
        let served = Served::at(&sandbox, to, args, env);
        // me:S3cret-S3cret-S3cret, me:S3cret-S3cret-S3creT
        for (value, status) in [
            ("Bearer S3cret-S3cret-S3cret", 200),
            ("Basic bWU6UzNjcmV0LVMzY3JldC1TM2NyZXQ=", 200),
            ("Basic bWU6UzNjcmV0LVMzY3JldC1TM2NyZVQ=", 401),
            ("Bearer S3cret-S3cret-S3cre", 401),
            ("Bearer", 401),
        ] {
            for host in ["localhost", "backups.example"] {
                let reply = served.ask("GET", "/file", &[("Authorization", value), ("Host", host)]);
                assert_eq!(reply.status, status, "{value}");
                assert_eq!(reply.body == b"0123456789", status == 200);
            }
        }
        for (method, path) in [
            ("GET", "/"),
            ("HEAD", "/file"),
            ("OPTIONS", "/"),
            ("PROPFIND", "/"),
            ("PUT", "/x"),
            ("GET", "/no"),
        ] {
            let reply = served.ask(method, path, &[]);
            assert_eq!(reply.status, 401, "{method} {path}");
            assert!(reply.header("www-authenticate").starts_with("Basic "));
        }
        served.signal(Signal::TERM);
        let outcome = served.ended().succeeds();
        assert!(outcome.stderr.contains("answered"), "nothing was logged: {outcome}");
        for secret in [token, "bWU6UzNj"] {
            assert!(!outcome.stderr.contains(secret), "{outcome}");
        }
    }
}

#[test]
fn without_a_token_only_this_machine_is_served_and_by_its_own_name() {
    let (sandbox, _) = with_snapshot();
    for to in ["http://0.0.0.0:0", "webdav://[::]:0"] {
        sandbox.run(["mount", "-to", to]).ends_with(1).says(&[
            "no token",
            "-token-file",
            "PLAKAR_MOUNT_TOKEN",
        ]);
    }
    let served = Served::new(&sandbox, ["latest"]);
    let port = served.at.port();
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(served.ask("GET", "/file", &[("Host", &host)]).status, 200, "{host}");
    }
    for host in [format!("evil.example:{port}"), "localhost".into(), format!("localhost:{}", port ^ 1)] {
        let reply = served.ask("GET", "/file", &[("Host", &host)]);
        assert_eq!(reply.status, 421, "{host}");
        assert!(!reply.text().contains("0123456789"));
    }
}

#[test]
fn mistakes_in_the_command_are_explained() {
    let (sandbox, _) = with_snapshot();
    let weak = sandbox.path("weak");
    fs::write(&weak, "short").unwrap();
    let weak = weak.to_str().unwrap();
    for (args, code, words) in [
        (&["-to", "http://127.0.0.1"][..], 2, "http://HOST:PORT"),
        (&["-to", "http:8080"], 2, "http://HOST:PORT"),
        (&["-to", "webdav://:x"], 2, "http://HOST:PORT"),
        (&["-to", "http://192.0.2.1:0", "-token-file", weak], 1, "16 characters"),
        (&["-to", "http://:0", "-token-file", "/nowhere"], 1, "/nowhere"),
        (&["-to", "http://:0", "-background"], 2, "-background"),
        (&["-to", "http://:0", "-allow-other"], 2, "-allow-other"),
        (&["-to", "http://:0", "-owner", "me"], 2, "-owner"),
        (&["-to", "http://:0", "ffffffff"], 1, "ffffffff"),
        (&["-to", "/tmp", "-token-file", weak], 2, "-token-file"),
    ] {
        sandbox.run([&["mount"], args].concat()).ends_with(code).says(&[words]);
    }
    let served = Served::new(&sandbox, []);
    let taken = format!("http://{}", served.at);
    sandbox.run(["mount", "-to", &taken]).ends_with(1).says(&["cannot listen on", "another port"]);
}

#[test]
fn snapshots_come_and_go_while_they_are_served() {
    let (sandbox, _) = with_snapshot();
    let source = sandbox.path("source");
    let served = Served::new(&sandbox, []);
    let path = format!("/latest{}/file", url(source.as_os_str().as_bytes()));
    let first = served.get(&path);
    fs::write(source.join("file"), "changed").unwrap();
    let second = hex_id(&sandbox.backup(&source));
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let begun = std::time::Instant::now();
        while !holds() {
            assert!(begun.elapsed().as_secs() < 60, "never: {what}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    until("the new one is the latest", &|| served.get(&path).body == b"changed");
    assert_ne!(served.get(&path).header("etag"), first.header("etag"));
    assert!(served.get("/").text().contains("2 snapshots"));
    sandbox.run(["rm", "-apply", &second]).succeeds();
    until("the old one is the latest again", &|| served.get(&path).body == first.body);
    assert_eq!(links(&served.get("/ids/")).len(), 1);
    assert_eq!(served.get(&format!("/ids/{second}/")).status, 404);
}

#[test]
fn sixty_four_clients_get_the_same_bytes_at_once() {
    let (sandbox, large) = with_snapshot();
    let served = Served::new(&sandbox, ["latest"]);
    std::thread::scope(|scope| {
        for i in 0..64 {
            let (served, large) = (&served, &large);
            scope.spawn(move || {
                if i % 2 == 0 {
                    let reply = served.get("/sub/large");
                    assert!(reply.whole && reply.body == *large, "{i}");
                } else {
                    let from = i * 70_000;
                    let reply = served.ask("GET", "/sub/large", &[("Range", &format!("bytes={from}-"))]);
                    assert!(reply.whole && reply.body == large[from..], "{i}");
                }
                assert_eq!(links(&served.get("/")).len(), 2);
            });
        }
    });
}

#[test]
fn damage_gives_an_error_and_never_other_bytes() {
    let (sandbox, large) = with_snapshot();
    for object in sandbox.objects("data") {
        let mut bytes = fs::read(&object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&object, bytes).unwrap();
    }
    let served = Served::new(&sandbox, ["latest"]);
    let reply = served.get("/sub/large");
    assert!(reply.status == 502 || reply.status == 200 && !reply.whole, "{}", reply.status);
    if reply.status == 200 {
        assert!(large.starts_with(&reply.body));
    }
    let (mut right, mut wrong) = (0, 0);
    for from in (0..large.len()).step_by(100_000) {
        let reply = served.ask("GET", "/sub/large", &[("Range", &format!("bytes={from}-{}", from + 9))]);
        match reply.status {
            206 => {
                assert!(reply.body == large[from..from + 10]);
                right += 1;
            }
            status => {
                assert_eq!(status, 502);
                wrong += 1;
            }
        }
    }
    assert!(right > 0 && wrong > 0, "{right} right, {wrong} damaged");
}

#[test]
fn it_ends_when_it_is_told_to_even_while_somebody_reads() {
    let (sandbox, large) = with_snapshot();
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let served = Served::new(&sandbox, ["latest"]);
        let mut reading = send(served.at, "GET", "/sub/large", &[], b"");
        let mut first = [0; 1000];
        reading.read_exact(&mut first).unwrap();
        served.signal(signal);
        let at = served.at;
        served.ended().succeeds();
        std::net::TcpStream::connect(at).unwrap_err();
        // Cut off or sent already: whatever came is the file's.
        let rest = receive(reading, "GET");
        assert!(rest.body.len() < large.len() + 1000);
    }
}
