//! What a page answers, before it is HTTP: a document or one of the reference's refusals.

use axum::body::Body;
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::format;
use super::query::{BadParameter, Query};
use super::sources::Unavailable;
use crate::base::markup::escaped;

const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";

/// The answer to one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// A document; with `callback` it becomes a script.
    Json(StatusCode, String),
    /// A web page.
    Html(String),
    /// A refusal in the words of the core pages: no line end.
    BadRequest(String),
    /// Any other text; a line end is added.
    Text {
        /// The status.
        status: StatusCode,
        /// The text without line end.
        text: String,
    },
    /// Metrics for scrapers.
    Metrics {
        /// Which form they have.
        content_type: &'static str,
        /// All of them.
        text: String,
    },
    /// A status and nothing else.
    Empty(StatusCode),
}

impl Reply {
    /// A document as the reference writes it.
    #[must_use]
    pub fn document(document: &impl Serialize) -> Self {
        Self::Json(StatusCode::OK, format::json(document))
    }

    /// The text of a document; nothing of what is none.
    #[must_use]
    pub fn document_text(&self) -> &str {
        match self {
            Self::Json(_, text) => text,
            Self::Html(_)
            | Self::BadRequest(_)
            | Self::Text { .. }
            | Self::Metrics { .. }
            | Self::Empty(_) => "",
        }
    }

    /// What does not exist.
    #[must_use]
    pub fn not_found(text: String) -> Self {
        Self::Text { status: StatusCode::NOT_FOUND, text }
    }

    /// Too many requests wait for the same threads.
    #[must_use]
    pub fn overloaded() -> Self {
        let text = "too many requests at a time, ask again".to_owned();
        Self::Text { status: StatusCode::SERVICE_UNAVAILABLE, text }
    }

    /// As HTTP.
    #[must_use]
    pub fn into_http(self, query: &Query) -> Response {
        match self {
            Self::Json(status, json) => match query.text("callback") {
                "" => {
                    let cors = (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*");
                    (status, [(header::CONTENT_TYPE, "application/json"), cors], json)
                        .into_response()
                }
                callback => {
                    let script = format!("{callback}({json})");
                    (status, [(header::CONTENT_TYPE, "application/javascript")], script)
                        .into_response()
                }
            },
            Self::Html(html) => ([(header::CONTENT_TYPE, HTML)], html).into_response(),
            Self::BadRequest(text) => {
                (StatusCode::BAD_REQUEST, [(header::CONTENT_TYPE, TEXT)], text).into_response()
            }
            Self::Text { status, text } => {
                let no_sniff = (header::X_CONTENT_TYPE_OPTIONS, "nosniff");
                (status, [(header::CONTENT_TYPE, TEXT), no_sniff], format!("{text}\n"))
                    .into_response()
            }
            Self::Metrics { content_type, text } => {
                ([(header::CONTENT_TYPE, content_type)], text).into_response()
            }
            Self::Empty(status) => {
                let mut response = Response::new(Body::empty());
                *response.status_mut() = status;
                response
            }
        }
    }
}

/// Sends the client to another path, with a page for a person whose browser does not follow.
pub(super) fn moved(location: &str, method: &Method) -> Response {
    let is_get = method == Method::GET;
    let body = if is_get {
        format!("<a href=\"{}\">Moved Permanently</a>.\n\n", escaped(location))
    } else {
        String::new()
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
    // Everything but printable ASCII was escaped.
    if let Ok(location) = HeaderValue::from_str(location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    if is_get || method == Method::HEAD {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(HTML));
    }
    response
}

/// What cannot be read ends the connection.
pub(super) fn bad_request() -> Response {
    let close = (header::CONNECTION, "close");
    let headers = [(header::CONTENT_TYPE, TEXT), close];
    (StatusCode::BAD_REQUEST, headers, "400 Bad Request").into_response()
}

/// `OPTIONS *`, and other methods with that target, which the reference refuses.
pub(super) fn about_server(is_allowed: bool) -> Response {
    if is_allowed {
        return Response::new(Body::empty());
    }
    (StatusCode::BAD_REQUEST, [(header::CONNECTION, "close")]).into_response()
}

impl From<BadParameter> for Reply {
    fn from(error: BadParameter) -> Self {
        Self::BadRequest(error.0)
    }
}

impl From<Unavailable> for Reply {
    fn from(error: Unavailable) -> Self {
        Self::Text {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            // The only error of this kind that the reference's pages have.
            text: format!("Error getting information about channels state: {error}"),
        }
    }
}
