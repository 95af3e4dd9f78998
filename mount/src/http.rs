//! Snapshots over HTTP and WebDAV, for machines without FUSE, for browsers, and for programs that speak either.
//!
//! ```text
//! client ── GET /latest/etc/fstab
//!   └ access      token, or a Host header that means this machine
//!      └ path     names → inodes by lookup, symlinks followed inside of what is shown
//!         ├ file      ranges, conditions, bytes as the client takes them
//!         ├ listing   a directory as a page
//!         └ dav       PROPFIND, by a library
//!            └ fs::SnapshotFs
//! ```
//!
//! It only reads: OPTIONS, GET, HEAD and PROPFIND. An inode is held for as long as a request is answered. What cannot
//! be read is told by the status, or, once the body has begun, by a connection that breaks: never by fewer bytes or
//! names than there are.

mod access;
mod answer;
mod dav;
mod entries;
mod file;
mod html;
mod listing;
mod path;
mod range;

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use plakar_engine::meta::Kind;
use plakar_engine::repository::Repository;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::config::{FsConfig, What};
use crate::fs::SnapshotFs;
use access::Access;
use answer::{Body, METHODS, full, set, text};
use path::{PathError, Place, encode, names};

pub use access::{SHORTEST_TOKEN, Token, TokenError};

/// Most clients at once; the next ones wait.
const MOST_CLIENTS: usize = 512;
/// How long a client may take to send a request's headers.
const HEADERS: Duration = Duration::from_secs(30);
/// How long answers may still go on when the server is to end.
const END: Duration = Duration::from_millis(500);
/// How long to wait when the system has no more connections.
const PAUSE: Duration = Duration::from_millis(100);

/// What to serve, and to whom.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Where to listen; port 0 is any free one.
    pub address: SocketAddr,
    /// Who is let in; `None`: everybody on this machine.
    pub token: Option<Token>,
    /// What and how.
    pub fs: FsConfig,
    /// How often the store is asked for new snapshots; as for a mount.
    pub refresh: Option<Duration>,
}

/// Why nothing is served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// The store failed, or has no such snapshot or path.
    #[error(transparent)]
    Engine(#[from] plakar_engine::error::Error),
    /// Other machines could read everything.
    #[error("{address} can be reached from other machines, and no token is set")]
    Open {
        /// Where.
        address: SocketAddr,
    },
    /// The system does not let us.
    #[error("cannot listen on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// What pages tell about the whole.
#[derive(Debug)]
struct About {
    /// The store, without secrets.
    store: String,
    /// The one snapshot that is served, if it is one.
    snapshot: Option<String>,
}

/// A server that listens.
#[derive(Debug)]
pub struct HttpServer {
    listener: TcpListener,
    address: SocketAddr,
    service: Service,
    refresh: tokio::task::JoinHandle<()>,
}

impl HttpServer {
    /// Listens. When it returns, clients may connect; they are answered once [`serve`](Self::serve) runs.
    ///
    /// # Errors
    /// `Open` if the address is not of this machine alone and there is no token.
    pub async fn start(config: HttpConfig, repository: Arc<Repository>) -> Result<Self, HttpError> {
        let HttpConfig { address, token, fs: config, refresh } = config;
        if token.is_none() && !address.ip().is_loopback() {
            return Err(HttpError::Open { address });
        }
        let cannot = |source| HttpError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let snapshot = match &config.what {
            What::Store => None,
            What::Snapshot { snapshot, .. } => Some(snapshot.short()),
        };
        let about = Arc::new(About { store: repository.store().location(), snapshot });
        let fs = SnapshotFs::open(repository, config).await?;
        // Nobody keeps names for longer than an answer: nobody has to be told.
        let fresh = crate::refresh::keep_fresh(fs.clone(), refresh, |_| std::future::ready(()));
        let refresh = tokio::spawn(fresh);
        let access = Arc::new(Access::new(token, address));
        tracing::info!(%address, "serving");
        Ok(Self { listener, address, service: Service { fs, about, access }, refresh })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as one types it.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// What is served.
    pub fn file_system(&self) -> &Arc<SnapshotFs> {
        &self.service.fs
    }

    /// Answers until `stop` is ready; then what is being answered has half a second to end.
    pub async fn serve(self, stop: impl Future<Output = ()>) {
        let clients = Arc::new(Semaphore::new(MOST_CLIENTS));
        let (mut connections, graceful) = (JoinSet::new(), GracefulShutdown::new());
        let mut stop = std::pin::pin!(stop);
        loop {
            let next = async {
                // The semaphore is never closed.
                let place = clients.clone().acquire_owned().await.ok();
                (place, self.listener.accept().await)
            };
            tokio::select! {
                () = &mut stop => break,
                Some(_ended) = connections.join_next() => {}
                (place, accepted) = next => match accepted {
                    Ok((stream, _)) => {
                        let connection = graceful.watch(self.service.clone().connection(stream));
                        connections.spawn(async move {
                            if let Err(e) = connection.await {
                                tracing::debug!(error = %e, "a connection broke");
                            }
                            drop(place);
                        });
                    }
                    // A client that went away again, or too many files are open.
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot take a connection");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        }
        self.refresh.abort();
        drop(self.listener);
        if tokio::time::timeout(END, graceful.shutdown()).await.is_err() {
            tracing::debug!("clients that were still reading are cut off");
        }
        connections.shutdown().await;
    }
}

/// Answers requests.
#[derive(Clone, Debug)]
struct Service {
    fs: Arc<SnapshotFs>,
    about: Arc<About>,
    access: Arc<Access>,
}

impl Service {
    fn connection(
        self,
        stream: TcpStream,
    ) -> impl hyper_util::server::graceful::GracefulConnection<Error = hyper::Error> + Send + Unpin {
        let _slower_at_worst = stream.set_nodelay(true);
        let service = service_fn(move |request| {
            let service = self.clone();
            Box::pin(async move { Ok::<_, Infallible>(service.answer(request).await) })
        });
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(HEADERS);
        http.serve_connection(TokioIo::new(stream), service)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = match self.access.check(request.uri(), request.headers()) {
            Err(why) => answer::denied(&why),
            Ok(()) => self.granted(request).await,
        };
        tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
        answer::finish(response)
    }

    async fn granted(&self, request: Request<Incoming>) -> Response<Body> {
        match request.method().as_str() {
            "OPTIONS" => {
                let mut response = Response::new(full(""));
                for (name, value) in [(header::ALLOW, METHODS), (header::HeaderName::from_static("dav"), "1")]
                {
                    set(&mut response, name, value);
                }
                // What Windows looks for.
                set(&mut response, header::HeaderName::from_static("ms-author-via"), "DAV");
                response
            }
            "GET" | "HEAD" | "PROPFIND" => match self.at(request).await {
                Ok(response) => response,
                Err(e) => answer::failure(&e),
            },
            _ => answer::read_only(),
        }
    }

    async fn at(&self, request: Request<Incoming>) -> Result<Response<Body>, PathError> {
        let (names, slash) = names(request.uri().path())?;
        let place = Place::find(&self.fs, &names).await?;
        if request.method().as_str() == "PROPFIND" {
            return match place.goes_round() {
                true => Err(PathError::Loop),
                false => Ok(Box::pin(dav::propfind(&self.fs, place, request)).await),
            };
        }
        let only_head = request.method() == Method::HEAD;
        match place.attr().kind {
            Kind::Directory if place.goes_round() => Ok(elsewhere(&real_path(&names, slash, &place))),
            Kind::Directory if !slash => {
                let last = names.last().map(|n| encode(n)).unwrap_or_default();
                Ok(elsewhere(&format!("{last}/")))
            }
            Kind::Directory => Ok(listing::answer(&self.fs, &self.about, place, &names, only_head).await?),
            Kind::Regular => {
                let (file, name) = (place.held().clone(), names.last().map_or(&b""[..], Vec::as_slice));
                drop(place);
                Ok(file::answer(&self.fs, file, name, request.headers(), only_head).await?)
            }
            _ => Ok(text(
                StatusCode::FORBIDDEN,
                "a pipe, socket or device: it is kept, but has nothing to read",
            )),
        }
    }
}

/// Says where something is, relative to where it was looked for.
fn elsewhere(location: &str) -> Response<Body> {
    let mut response = text(StatusCode::FOUND, format_args!("see {location}"));
    set(&mut response, header::LOCATION, location);
    response
}

/// The way to a place without symlinks, from the URL that was asked for: a way in a circle ends there.
fn real_path(asked: &[Vec<u8>], slash: bool, place: &Place) -> String {
    let up = if slash { asked.len() } else { asked.len() - 1 };
    let mut path = format!("./{}", "../".repeat(up));
    for name in place.real_names() {
        path.push_str(&encode(name));
        path.push('/');
    }
    path
}
