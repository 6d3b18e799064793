//! HTTP for people and tools, on axum in a thread of its own; sees snapshots only.
//!
//! Pages that need the reactors wait for them on a helper thread of this room, a bounded time; the
//! health pages read a small shared status and never wait for anything.

mod absent_pages;
mod certificates;
mod connection;
mod connection_pages;
mod core_pages;
mod dashboard;
mod families;
mod format;
mod listener;
mod metrics;
mod path;
mod places;
mod process;
mod query;
mod reply;
mod room;
mod sources;
mod streaming_pages;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::http::request::Parts;
use axum::http::{StatusCode, header};
use axum::response::Response;
use tokio::sync::{Semaphore, oneshot, watch};

pub use self::sources::{
    Ask, Check, ClusterFacts, CoreFacts, GroupFacts, LimitNumbers, Published, Sources, State,
    Status, Streaming, StreamingFacts, Unavailable,
};

use self::path::Target;
use self::places::Places;
use self::process::{CpuMeter, Descriptors};
use self::query::{BadParameter, Query};
use self::reply::Reply;
use self::room::Room;
use crate::base::world;
use crate::broker::snapshot::Lists;
use crate::engine::snapshot::Wanted;

/// Threads that wait for reactors.
const WAITING_THREADS: usize = 2;
/// How long one stays where there is nothing to do.
const FOR_EVER: Duration = Duration::from_secs(1 << 32);

/// Of the connections, this part may wait for pages which need the reactors; the rest is for those
/// that are answered at once, such as health checks.
const WAITING_PART: usize = 4;

/// The running pages; they end when it is dropped.
#[derive(Debug)]
pub struct Monitor {
    address: SocketAddr,
    tls: Option<watch::Sender<Arc<rustls::ServerConfig>>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Serves the pages on `listener`, with TLS if it is given. `base_path` goes
    /// before the core pages, not before the streaming ones.
    ///
    /// # Errors
    /// When the machine refuses the thread or its runtime.
    pub fn start(
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        base_path: &str,
        sources: Sources,
    ) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let places_max = usize::try_from(world::descriptor_plan().monitoring).unwrap_or(usize::MAX);
        let pages = Arc::new(Pages::new(base_path, sources, places_max / WAITING_PART));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(WAITING_THREADS)
            .thread_keep_alive(FOR_EVER)
            .build()?;
        // With one helper there, a page waits for it where the machine gives no further thread. It
        // is asked here first whether it gives one at all: the runtime could only panic.
        thread::Builder::new().spawn(|| ())?.join().unwrap_or_default();
        drop(runtime.spawn_blocking(|| ()));
        let (stop, stopped) = oneshot::channel();
        let (tls, newest) = tls.map(watch::channel).unzip();
        listener.set_nonblocking(true)?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let thread = thread::Builder::new().name("monitor".to_owned()).spawn(move || {
            runtime.block_on(async move {
                tokio::select! {
                    // Both end only with the process or by the other.
                    () = listener::serve(listener, newest, pages, Places::new(places_max)) => (),
                    _ = stopped => (),
                }
            });
            // Whoever still waits for a reactor is not waited for.
            runtime.shutdown_background();
        })?;
        Ok(Self { address, tls, stop: Some(stop), thread: Some(thread) })
    }

    /// Gives connections from now on another TLS, if the pages are shown with TLS.
    pub fn set_tls(&self, newest: Arc<rustls::ServerConfig>) {
        if let Some(tls) = &self.tls {
            tls.send_replace(newest);
        }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // Fails if the thread has ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the process.
            let _ = thread.join();
        }
    }
}

/// Every page, by what it needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Page {
    /// Answered on the spot.
    Quick(Quick),
    /// Waits for the brokers.
    Core(Core),
    /// Waits for the engines.
    Streaming(Stream),
    /// Waits for both.
    Metrics,
    /// What people look at.
    Dashboard(dashboard::Part),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Quick {
    Index,
    Healthz,
    StreamingIndex,
    IsFtActive,
    StreamingHealthz,
    Groupz,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Core {
    Varz,
    Connz,
    Routez,
    Subsz,
    Gatewayz,
    Leafz,
    Jsz,
    Accstatz,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Serverz,
    Storez,
    Clientsz,
    Channelsz,
}

impl Page {
    /// The core page of a path behind the base path, and the name that its requests count under.
    fn core(path: &str) -> Option<(Self, &'static str)> {
        Some(match path {
            "" | "/" => (Self::Quick(Quick::Index), "/"),
            "/varz" => (Self::Core(Core::Varz), "/varz"),
            "/connz" => (Self::Core(Core::Connz), "/connz"),
            "/routez" => (Self::Core(Core::Routez), "/routez"),
            "/subsz" | "/subscriptionsz" => (Self::Core(Core::Subsz), "/subsz"),
            "/gatewayz" => (Self::Core(Core::Gatewayz), "/gatewayz"),
            "/leafz" => (Self::Core(Core::Leafz), "/leafz"),
            "/jsz" => (Self::Core(Core::Jsz), "/jsz"),
            "/accstatz" => (Self::Core(Core::Accstatz), "/accstatz"),
            "/healthz" => (Self::Quick(Quick::Healthz), "/healthz"),
            "/metrics" => (Self::Metrics, "/metrics"),
            _ => return None,
        })
    }

    fn streaming(path: &str) -> Option<Self> {
        Some(match path {
            "/streaming" => Self::Quick(Quick::StreamingIndex),
            "/streaming/serverz" => Self::Streaming(Stream::Serverz),
            "/streaming/storez" => Self::Streaming(Stream::Storez),
            "/streaming/clientsz" => Self::Streaming(Stream::Clientsz),
            "/streaming/channelsz" => Self::Streaming(Stream::Channelsz),
            "/streaming/isFTActive" => Self::Quick(Quick::IsFtActive),
            "/streaming/groupz" => Self::Quick(Quick::Groupz),
            "/streaming/healthz" => Self::Quick(Quick::StreamingHealthz),
            _ => return None,
        })
    }
}

/// All pages with what they are made of.
struct Pages {
    /// With a slash in front and none at the end; empty if there is none.
    base_path: String,
    sources: Sources,
    requests: Mutex<BTreeMap<String, u64>>,
    cpu: Mutex<CpuMeter>,
    /// How many more requests may wait for the reactors.
    waiting: Semaphore,
    room: Room,
    board: dashboard::Board,
}

async fn answer(pages: &Arc<Pages>, asked: &Parts) -> Response {
    let (method, uri) = (&asked.method, &asked.uri);
    let query = Query::new(uri.query());
    let path = match Target::read(method, uri) {
        Target::Path(path) => path,
        Target::Moved(location) => return reply::moved(&location, method),
        Target::Bad => return reply::bad_request(),
        Target::Server { is_allowed } => return reply::about_server(is_allowed),
    };
    let Some(page) = pages.find(&path, &query) else {
        return Reply::not_found("404 page not found".to_owned()).into_http(&query);
    };
    match page {
        Page::Quick(page) => return pages.quick(page, &query).into_http(&query),
        Page::Dashboard(part) => return answer_dashboard(pages, part, asked, query).await,
        Page::Core(_) | Page::Streaming(_) | Page::Metrics => (),
    }
    let Ok(_permit) = pages.waiting.try_acquire() else {
        return Reply::overloaded().into_http(&query);
    };
    let (waiting, pages) = (query.clone(), Arc::clone(pages));
    let reply = tokio::task::spawn_blocking(move || pages.slow(page, &waiting)).await;
    // The helper thread ends early only when the pages are shut down.
    let reply = reply.unwrap_or(Reply::Empty(StatusCode::SERVICE_UNAVAILABLE));
    reply.into_http(&query)
}

async fn answer_dashboard(
    pages: &Arc<Pages>,
    part: dashboard::Part,
    asked: &Parts,
    query: Query,
) -> Response {
    if let Some(shown) = dashboard::at_once(part, &asked.method) {
        return shown.into_http();
    }
    let Ok(_permit) = pages.waiting.try_acquire() else {
        return Reply::overloaded().into_http(&Query::default());
    };
    let authorization = asked.headers.get(header::AUTHORIZATION);
    let authorization = authorization.and_then(|value| value.to_str().ok()).map(str::to_owned);
    let pages = Arc::clone(pages);
    let made = move || pages.dashboard(part, &query, authorization.as_deref());
    match tokio::task::spawn_blocking(made).await {
        Ok(shown) => shown.into_http(),
        // The helper thread ends early only when the pages are shut down.
        Err(_) => Reply::Empty(StatusCode::SERVICE_UNAVAILABLE).into_http(&Query::default()),
    }
}

/// What a core page has to know.
fn lists(page: Core, query: &Query) -> Result<Lists, BadParameter> {
    match page {
        Core::Connz => connection_pages::lists(query),
        Core::Routez => core_pages::routez_lists(query),
        Core::Subsz => Ok(core_pages::subsz_lists(query)),
        Core::Varz | Core::Gatewayz | Core::Leafz | Core::Jsz | Core::Accstatz => {
            Ok(Lists::default())
        }
    }
}

impl Pages {
    fn new(base_path: &str, sources: Sources, waiting_max: usize) -> Self {
        let names: Vec<&str> = base_path.split('/').filter(|name| !name.is_empty()).collect();
        let base_path = names.iter().map(|name| format!("/{name}")).collect();
        let waiting = Semaphore::new(waiting_max);
        let room = Room::of(sources.directory.clone());
        let (requests, cpu) = (Mutex::default(), Mutex::default());
        let board = dashboard::Board::default();
        Self { base_path, sources, requests, cpu, waiting, room, board }
    }

    /// The page of a path. Core pages count their requests, connections and routes only with
    /// parameters that can be read.
    fn find(&self, path: &str, query: &Query) -> Option<Page> {
        if self.sources.streaming.is_some()
            && let Some(page) = Page::streaming(path)
        {
            return Some(page);
        }
        let rest = path.strip_prefix(self.base_path.as_str())?;
        if let Some(part) = dashboard::Part::of(rest) {
            return Some(Page::Dashboard(part));
        }
        let (page, name) = Page::core(rest)?;
        // The index is at `/`, or at the base path without a slash behind it.
        if page == Page::Quick(Quick::Index) && rest.is_empty() == self.base_path.is_empty() {
            return None;
        }
        let is_readable = match page {
            Page::Core(page) => lists(page, query).is_ok(),
            Page::Quick(_) | Page::Streaming(_) | Page::Metrics | Page::Dashboard(_) => true,
        };
        if is_readable {
            let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
            *requests.entry(name.to_owned()).or_default() += 1;
        }
        Some(page)
    }

    /// Pages that wait for other threads.
    fn slow(&self, page: Page, query: &Query) -> Reply {
        match page {
            Page::Quick(page) => self.quick(page, query),
            Page::Core(page) => self.core_page(page, query),
            Page::Streaming(page) => self.streaming_page(page, query),
            Page::Metrics => self.metrics(query),
            Page::Dashboard(_) => Reply::Empty(StatusCode::NOT_FOUND),
        }
    }

    /// Pages that are answered on the spot.
    fn quick(&self, page: Quick, query: &Query) -> Reply {
        let status = self.sources.status.load();
        match page {
            Quick::Index => {
                let has_streaming = self.sources.streaming.is_some();
                Reply::Html(core_pages::index(has_streaming, &self.base_path))
            }
            Quick::StreamingIndex => Reply::Html(streaming_pages::INDEX.to_owned()),
            Quick::Healthz => {
                let vitals = &self.sources.vitals;
                vitals.knock();
                core_pages::healthz(&status, vitals.hung_loop(world::instant()))
            }
            Quick::IsFtActive if status.state == State::FtActive => Reply::Empty(StatusCode::OK),
            Quick::IsFtActive => Reply::Empty(StatusCode::NO_CONTENT),
            Quick::Groupz => Reply::document(&self.sources.group.load().status),
            Quick::StreamingHealthz => self.health(&status, query),
        }
    }

    /// `/streaming/healthz`: `live`, `active`, or `ready`, which is also meant where nothing is
    /// asked for.
    fn health(&self, status: &Status, query: &Query) -> Reply {
        let now = world::instant();
        let Sources { lease, vitals, .. } = &self.sources;
        vitals.knock();
        // A restart mends a loop that hangs, but no disk.
        let live = || match vitals.hung_loop(now) {
            Some(stall) => Err(stall.to_string()),
            None => status.check_live(),
        };
        let result = match (query.flag("live"), query.flag("active"), query.flag("ready")) {
            (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => return error.into(),
            (_, Ok(true), _) => status.check_active(lease, vitals, now),
            (Ok(true), _, Ok(false)) => live(),
            (_, _, Ok(true)) | (Ok(false), Ok(false), Ok(false)) => {
                status.check_ready(lease, vitals, now)
            }
        };
        match result {
            Ok(()) => Reply::Text { status: StatusCode::OK, text: "ok".to_owned() },
            Err(text) => Reply::Text { status: StatusCode::SERVICE_UNAVAILABLE, text },
        }
    }

    /// Pages that wait for the engines.
    fn streaming_page(&self, page: Stream, query: &Query) -> Reply {
        let Some(streaming) = &self.sources.streaming else {
            return Reply::Empty(StatusCode::NOT_FOUND);
        };
        let ask = &streaming.engine;
        let told = match page {
            Stream::Serverz | Stream::Storez => ask(Wanted::Totals),
            Stream::Clientsz => streaming_pages::ask_clientsz(ask, query),
            Stream::Channelsz => streaming_pages::ask_channelsz(ask, query),
        };
        let snapshot = match told {
            Ok(snapshot) => snapshot,
            Err(error) => return error.into(),
        };
        let facts = streaming.facts.load();
        let view = streaming_pages::View {
            facts: &facts,
            snapshot: &snapshot,
            now: world::now().wall,
            utc_offset: streaming.utc_offset,
        };
        match page {
            Stream::Storez => streaming_pages::storez(view),
            Stream::Clientsz => streaming_pages::clientsz(view, query),
            Stream::Channelsz => streaming_pages::channelsz(view, query),
            Stream::Serverz => {
                let status = self.sources.status.load();
                streaming_pages::serverz(view, &status, Descriptors::now())
            }
        }
    }

    /// Pages that wait for the brokers.
    fn core_page(&self, page: Core, query: &Query) -> Reply {
        let wanted = match lists(page, query) {
            Ok(wanted) => wanted,
            Err(error) => return error.into(),
        };
        let facts = self.sources.core.load();
        let ask = &self.sources.broker;
        let told = match page {
            // Interests are copied for those connections only that the page shows.
            Core::Connz => connection_pages::ask(ask, wanted, query),
            Core::Subsz => core_pages::ask_subsz(ask, wanted, query),
            Core::Varz
            | Core::Routez
            | Core::Gatewayz
            | Core::Leafz
            | Core::Jsz
            | Core::Accstatz => ask(wanted.into()),
        };
        let snapshot = match told {
            Ok(snapshot) => snapshot,
            Err(error) => return error.into(),
        };
        let view = core_pages::View { facts: &facts, snapshot: &snapshot };
        let result = match page {
            Core::Connz => connection_pages::connz(view, query),
            Core::Routez => core_pages::routez(view, query),
            Core::Subsz => core_pages::subsz(view, query),
            Core::Gatewayz => absent_pages::gatewayz(view, query),
            Core::Leafz => absent_pages::leafz(view, query),
            Core::Jsz => absent_pages::jsz(view, query),
            Core::Accstatz => absent_pages::accstatz(view, query),
            Core::Varz => Ok(core_pages::varz(view, &self.usage())),
        };
        result.unwrap_or_else(Reply::from)
    }

    fn usage(&self) -> core_pages::Usage {
        let mut cpu = self.cpu.lock().unwrap_or_else(PoisonError::into_inner);
        core_pages::Usage {
            resident_bytes: process::resident_bytes(),
            cpu_percent: cpu.percent(world::instant()),
            cores: thread::available_parallelism().map_or(1, NonZero::get),
            requests: self.requests.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_tls;
