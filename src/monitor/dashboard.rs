//! The dashboard: one page for people, out of the binary, and the documents that it asks for.
//!
//! It only shows. Whatever clients have named reaches the page as text in JSON, and the page's
//! policy lets no script run and no server be asked but this one's.

mod channel;
mod now;
mod rows;
mod viewer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use serde_json::Value;

use self::rows::{Channels, Clients};
use self::viewer::{Gate, Verdict};
use super::query::Query;
use super::sources::Unavailable;
use super::{Pages, format};
use crate::base::time::Instant;
use crate::base::world;
use crate::engine::snapshot::{Totals, Wanted};

/// What the browser may do for this page: ask this server, and nothing of what it got is code.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Path behind `/dashboard`, type, text.
const FILES: [(&str, &str, &str); 9] = [
    ("", HTML, include_str!("dashboard/page.html")),
    ("/style.css", CSS, include_str!("dashboard/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("dashboard/icon.svg")),
    ("/page.js", SCRIPT, include_str!("dashboard/page.js")),
    ("/parts.js", SCRIPT, include_str!("dashboard/parts.js")),
    ("/plot.js", SCRIPT, include_str!("dashboard/plot.js")),
    ("/overview.js", SCRIPT, include_str!("dashboard/overview.js")),
    ("/lists.js", SCRIPT, include_str!("dashboard/lists.js")),
    ("/channel.js", SCRIPT, include_str!("dashboard/channel.js")),
];

/// How long counts of all channels are shown before the engines are asked again: that is a walk,
/// though in portions, and the same for everybody who looks.
const TOTALS_FOR: Duration = Duration::from_secs(5);

/// The same for the lists of all channels and clients.
const LISTS_FOR: Duration = Duration::from_secs(4);

/// What is under `/dashboard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// One of [`FILES`].
    File(usize),
    /// Figures of this moment.
    Now,
    /// A page of the list of channels.
    Channels,
    /// One channel with its limits and subscriptions.
    Channel,
    /// Its last messages, for whom the configuration names.
    Messages,
    /// A page of the list of clients.
    Clients,
    /// The last warnings and errors of the log.
    Complaints,
}

impl Part {
    /// The part of a path behind the base path.
    pub(super) fn of(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/dashboard")?;
        if let Some(at) = FILES.iter().position(|(name, _, _)| *name == rest) {
            return Some(Self::File(at));
        }
        Some(match rest {
            "/now" => Self::Now,
            "/channels" => Self::Channels,
            "/channel" => Self::Channel,
            "/messages" => Self::Messages,
            "/clients" => Self::Clients,
            "/complaints" => Self::Complaints,
            _ => return None,
        })
    }
}

/// What is kept between two requests: everybody who looks at the same time sees the same.
#[derive(Default)]
pub(super) struct Board {
    totals: Mutex<Option<(Instant, Totals)>>,
    channels: Mutex<Option<Arc<Channels>>>,
    clients: Mutex<Option<Arc<Clients>>>,
    gate: Mutex<Gate>,
    /// One look into a store at a time.
    peek: Mutex<()>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An answer of the dashboard. No other site may read it, and nobody keeps it.
pub(super) struct Shown {
    status: StatusCode,
    content_type: &'static str,
    text: String,
    asks_for_password: bool,
}

impl Shown {
    fn document(document: &Value) -> Self {
        Self::new(StatusCode::OK, "application/json", format::json(document))
    }

    fn new(status: StatusCode, content_type: &'static str, text: String) -> Self {
        Self { status, content_type, text, asks_for_password: false }
    }

    /// What is wrong, as a document that the page can show.
    pub(super) fn refused(status: StatusCode, why: &str) -> Self {
        let document = serde_json::json!({ "error": why });
        Self::new(status, "application/json", format::json(&document))
    }

    /// As HTTP.
    pub(super) fn into_http(self) -> Response {
        let mut response = Response::new(Body::from(self.text));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        for (name, value) in [
            (header::CONTENT_TYPE, self.content_type),
            (header::CONTENT_SECURITY_POLICY, POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        if self.asks_for_password {
            let challenge = HeaderValue::from_static("Basic realm=\"stanby\", charset=\"UTF-8\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

impl From<Unavailable> for Shown {
    fn from(error: Unavailable) -> Self {
        Self::refused(StatusCode::SERVICE_UNAVAILABLE, &format!("no answer: {error}"))
    }
}

/// What is answered without asking anybody; `None`: the rest.
pub(super) fn at_once(part: Part, method: &Method) -> Option<Shown> {
    if method != Method::GET && method != Method::HEAD {
        let why = "the dashboard only shows: GET and HEAD";
        return Some(Shown::refused(StatusCode::METHOD_NOT_ALLOWED, why));
    }
    match part {
        Part::File(at) => {
            let (_, content_type, text) = FILES[at];
            Some(Shown::new(StatusCode::OK, content_type, text.to_owned()))
        }
        Part::Complaints => Some(Shown::document(&now::complaints())),
        Part::Now | Part::Channels | Part::Channel | Part::Messages | Part::Clients => None,
    }
}

impl Pages {
    /// A part that waits for loops; `authorization` is the header of that name.
    pub(super) fn dashboard(
        &self,
        part: Part,
        query: &Query,
        authorization: Option<&str>,
    ) -> Shown {
        let made = match part {
            Part::Now => self.now_document(),
            Part::Channels => self.channels_document(query),
            Part::Clients => self.clients_document(query),
            Part::Channel => self.channel_document(query),
            Part::Messages => match self.admitted(authorization) {
                Ok(()) => self.messages_document(query),
                Err(refusal) => Err(refusal),
            },
            Part::File(_) | Part::Complaints => {
                return at_once(part, &Method::GET).unwrap_or_else(|| {
                    Shown::refused(StatusCode::NOT_FOUND, "there is nothing of that name")
                });
            }
        };
        made.map_or_else(|refusal| refusal, |document| Shown::document(&document))
    }

    /// Lets those pass whom the configuration names.
    fn admitted(&self, authorization: Option<&str>) -> Result<(), Shown> {
        let Some(check) = Option::clone(&self.sources.viewer.load()) else {
            return Err(Shown::refused(StatusCode::FORBIDDEN, viewer::NOBODY));
        };
        let mut gate = lock(&self.board.gate);
        match gate.judge(&check, authorization, world::instant()) {
            Verdict::Welcome => Ok(()),
            Verdict::Nameless => Err(Shown {
                asks_for_password: true,
                ..Shown::refused(StatusCode::UNAUTHORIZED, viewer::NAMELESS)
            }),
            Verdict::Wrong => Err(Shown::refused(StatusCode::FORBIDDEN, viewer::WRONG)),
            Verdict::TooSoon => {
                Err(Shown::refused(StatusCode::TOO_MANY_REQUESTS, viewer::TOO_SOON))
            }
        }
    }

    /// Whether engines of this process serve, so that what they hold is the truth.
    fn is_active(&self) -> Result<(), String> {
        let status = self.sources.status.load();
        status.check_active(&self.sources.lease, &self.sources.vitals, world::instant())
    }

    /// Counts of everything, as they were a few seconds ago at most.
    fn totals(&self) -> Result<Option<Totals>, Unavailable> {
        let Some(streaming) = &self.sources.streaming else { return Ok(None) };
        let mut kept = lock(&self.board.totals);
        let now = world::instant();
        if let Some((at, totals)) = *kept
            && now.since(at) < TOTALS_FOR
        {
            return Ok(Some(totals));
        }
        let totals = (streaming.engine)(Wanted::Totals)?.totals;
        *kept = Some((now, totals));
        Ok(Some(totals))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else() {
        for (name, _, text) in FILES {
            // The name of a format, which nobody fetches.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for wrong in ["http://", "https://", "src=\"//", "@import", "innerHTML", "eval("] {
                assert!(!text.contains(wrong), "{name} has {wrong}");
            }
        }
    }

    #[test]
    fn every_file_that_is_named_is_there() {
        let page = FILES[0].2;
        let quoted = page.split('"').filter(|part| part.starts_with("dashboard/"));
        let mut count = 0;
        for name in quoted {
            assert!(Part::of(&format!("/{name}")).is_some(), "{name}");
            count += 1;
        }
        assert_ne!(count, 0);
        assert_eq!(Part::of("/dashboard/now"), Some(Part::Now));
        assert_eq!(Part::of("/dashboard/"), None);
        assert_eq!(Part::of("/dashboardx"), None);
    }

    #[test]
    fn it_only_shows() {
        for part in [Part::File(0), Part::Now, Part::Messages] {
            let refused = at_once(part, &Method::POST).map(Shown::into_http);
            let refused = refused.expect("it is answered at once");
            assert_eq!(refused.status(), StatusCode::METHOD_NOT_ALLOWED);
            assert_eq!(refused.headers()[header::ALLOW], "GET, HEAD");
        }
        let page = at_once(Part::File(0), &Method::GET).map(Shown::into_http);
        let headers = page.as_ref().map(Response::headers).expect("a file is there at once");
        assert_eq!(headers[header::CONTENT_SECURITY_POLICY], POLICY);
        assert!(headers.get(header::ACCESS_CONTROL_ALLOW_ORIGIN).is_none());
    }
}
