//! `plakar mount -to http://HOST:PORT`: the same over HTTP and WebDAV, for machines without FUSE and for browsers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context;
use plakar_mount::config::FsConfig;
use plakar_mount::http::{HttpConfig, HttpError, HttpServer, Token};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

use super::{MountArgs, XattrChoice, choose};
use crate::context::AppContext;
use crate::exit_code::ExitCode;
use crate::report::Failure;
use crate::screen::Output;

/// The environment variable with the token.
const TOKEN: &str = "PLAKAR_MOUNT_TOKEN";
/// The largest file of a token: more is a mistake in the name.
const MAX_FILE: u64 = 4 << 10;

/// What stands behind the scheme, if it is one of these. Both are served the same.
pub(super) fn asked(args: &MountArgs) -> Option<&str> {
    let to = args.to.as_ref()?.to_str()?;
    ["http:", "webdav:"].iter().find_map(|scheme| to.strip_prefix(scheme))
}

/// Serves until it is interrupted.
pub(super) async fn run(context: &AppContext, args: &MountArgs, to: &str) -> anyhow::Result<ExitCode> {
    refuse_others(args)?;
    let address = resolve(to).await?;
    let token = token(context, args.token_file.as_deref())?;
    if token.is_none() && !address.ip().is_loopback() {
        return Err(explain(HttpError::Open { address }));
    }
    let mut end = Signals::listen()?;
    let repository = context.open().await?;
    let mut fs = FsConfig::default();
    if let Some(bytes) = args.cache_size {
        fs.cache_bytes = bytes;
    }
    fs.disk_cache_bytes = args.disk_cache_size;
    choose(&mut fs, args, &*repository.catalog().await?)?;
    let is_guarded = token.is_some();
    let config = HttpConfig { address, token, fs, refresh: None };
    let server = Box::pin(HttpServer::start(config, repository)).await.map_err(explain)?;
    announce(context, &server.url())?;
    if !address.ip().is_loopback() {
        context.notice(
            "nothing is encrypted on the way, not even the token: put a proxy with TLS before it, or a VPN",
        );
    } else if !is_guarded {
        context
            .notice("every user of this machine can read it; -token-file FILE lets in who knows the token");
    }
    context.notice("Ctrl-C ends it");
    server.serve(end.any()).await;
    Ok(ExitCode::Ok)
}

/// Options that mean something to a kernel only.
fn refuse_others(args: &MountArgs) -> Result<(), Failure> {
    if args.background {
        let failure = Failure::usage("-background does not serve HTTP yet", None);
        return Err(failure.with_hint("run it under a service manager, or by `nohup … &`"));
    }
    let others = [
        ("-allow-other", args.allow_other),
        ("-owner", args.owner != plakar_mount::Owner::Recorded),
        ("-xattr", !matches!(args.xattr, XattrChoice::Auto)),
        ("-uid", args.uid.is_some()),
        ("-gid", args.gid.is_some()),
        ("-umask", args.umask.is_some()),
        ("-noexec", args.noexec),
        ("-pid-file", args.pid_file.is_some()),
    ];
    match others.iter().find(|(_, given)| *given) {
        Some((option, _)) => Err(Failure::usage(
            format!("{option} is for a mount in a directory: HTTP knows no such thing"),
            None,
        )),
        None => Ok(()),
    }
}

/// Reads `//HOST:PORT`. Without a host it is this machine alone.
async fn resolve(to: &str) -> anyhow::Result<SocketAddr> {
    let wrong = || {
        let failure = Failure::usage(format!("{to:?} is no address to listen on"), None);
        failure.with_hint("write http://HOST:PORT, as http://127.0.0.1:8080; http://:8080 is this machine alone, port 0 any that is free")
    };
    let place = to.strip_prefix("//").ok_or_else(wrong)?;
    let place = place.strip_suffix('/').unwrap_or(place);
    let (host, port) = place.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    if host.is_empty() || host.eq_ignore_ascii_case("localhost") {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    if let Ok(ip) = bare.unwrap_or(host).parse::<IpAddr>()
        && bare.is_some() == ip.is_ipv6()
    {
        return Ok((ip, port).into());
    }
    if host.contains(['/', '@', '[', ':', '?', '#']) {
        return Err(wrong().into());
    }
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.with_context(|| format!("cannot find the address of {host}"))?.next();
    found.ok_or_else(|| Failure::new(format!("{host} has no address")).into())
}

/// The token, if one is set. It is read before the store is asked for, and kept only as a hash.
fn token(context: &AppContext, file: Option<&Path>) -> anyhow::Result<Option<Token>> {
    use std::io::Read;
    let (given, from) = match (file, context.env.get(TOKEN)) {
        (Some(file), _) => {
            let what = || format!("cannot read the token from {}", file.display());
            let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_FILE as usize));
            let opened = std::fs::File::open(file).with_context(what)?;
            opened.take(MAX_FILE).read_to_end(&mut bytes).with_context(what)?;
            (bytes, file.display().to_string())
        }
        (None, Some(text)) => (Zeroizing::new(text.as_encoded_bytes().to_vec()), TOKEN.to_owned()),
        (None, None) => return Ok(None),
    };
    let token = Token::new(&given).map_err(|e| {
        let failure = Failure::new(format!("cannot use the token in {from}"));
        anyhow::Error::new(e).context(failure.with_hint("make a good one: openssl rand -hex 16"))
    })?;
    Ok(Some(token))
}

fn announce(context: &AppContext, url: &str) -> anyhow::Result<()> {
    let mut out = Output::new();
    let store = context.store()?.location();
    if context.json() {
        out.json(&json!({ "type": "summary", "command": "mount", "store": store, "url": url }))?;
    } else if context.is_talkative() {
        out.line(format_args!("serving {store} at {url}"))?;
    }
    out.flush()
}

/// Adds what to do about it.
fn explain(e: HttpError) -> anyhow::Error {
    let hint = match &e {
        HttpError::Open { .. } => {
            format!(
                "set one with -token-file FILE or {TOKEN}, or listen on this machine alone: http://127.0.0.1:8080"
            )
        }
        HttpError::Listen { source, address } => match source.kind() {
            std::io::ErrorKind::AddrInUse => {
                "something listens there already: take another port, or 0 for any".into()
            }
            std::io::ErrorKind::PermissionDenied => {
                "ports below 1024 are for root: take another, as 8080".into()
            }
            std::io::ErrorKind::AddrNotAvailable => format!("{} is no address of this machine", address.ip()),
            _ => "take another address or port".into(),
        },
        _ => {
            return match e {
                HttpError::Engine(e) => e.into(),
                e => e.into(),
            };
        }
    };
    let failure = Failure::new(e.to_string()).with_hint(hint);
    match std::error::Error::source(&e) {
        Some(cause) => anyhow::anyhow!("{cause}").context(failure),
        None => failure.into(),
    }
}

/// The signals that ask the process to stop.
struct Signals([Signal; 3]);

impl Signals {
    fn listen() -> std::io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [a, b, c] = kinds.map(signal);
        Ok(Self([a?, b?, c?]))
    }

    async fn any(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_name_this_machine_unless_they_say_otherwise() {
        for (text, wanted) in [
            ("//:8080", "127.0.0.1:8080"),
            ("//localhost:0", "127.0.0.1:0"),
            ("//127.0.0.1:8080/", "127.0.0.1:8080"),
            ("//[::1]:80", "[::1]:80"),
            ("//0.0.0.0:1", "0.0.0.0:1"),
            ("//[::]:1", "[::]:1"),
        ] {
            assert_eq!(resolve(text).await.unwrap().to_string(), wanted, "{text}");
        }
        for text in [
            "",
            ":8080",
            "//",
            "//127.0.0.1",
            "//:",
            "//:port",
            "//:70000",
            "//a/b:80",
            "//u@h:80",
            "//::1:80",
            "//[127.0.0.1]:80",
        ] {
            assert!(resolve(text).await.is_err(), "{text}");
        }
    }
}
