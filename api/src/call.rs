//! One request on its way to its handler: parameters, credentials, and a body that is read with a limit and a deadline.

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use aurigraph_actors::settings::TokenGrant;
use aurigraph_ledger::Hash;
use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use warp::http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use warp::http::{Response, StatusCode};

use crate::auth;
use crate::edge::Edge;
use crate::params::{self, Query};
use crate::problem::Problem;

/// A body has this long to arrive in full, however large: a client that trickles holds a connection no longer.
pub const BODY_WITHIN: Duration = Duration::from_secs(15);
/// Of a body that is too long so much more is read and thrown away, so that the client reads the refusal instead of a
/// reset connection.
const DRAIN: usize = 32 << 20;

/// A body as it arrives.
pub type BodyStream = Pin<Box<dyn Stream<Item = Result<Bytes, String>> + Send>>;

/// One request.
pub struct Call {
    /// What the routes share.
    pub edge: Arc<Edge>,
    /// The path's parameters in order, as they came.
    pub params: Vec<String>,
    /// The query string.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: BodyStream,
    /// Who asks.
    pub client: IpAddr,
    /// What the shown token allows; none if none is shown.
    pub grant: Option<TokenGrant>,
}

/// What a body says it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/octet-stream`.
    Binary,
}

impl Call {
    /// A parameter of the path, percent-decoded.
    ///
    /// # Errors
    /// 400 if it is not UTF-8 then.
    pub fn param(&self, at: usize, name: &str) -> Result<String, Problem> {
        params::decoded(name, self.params.get(at).map_or("", String::as_str))
    }

    /// A parameter of the path that is a hash.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn hash_param(&self, at: usize, name: &str) -> Result<Hash, Problem> {
        params::hash(name, self.params.get(at).map_or("", String::as_str))
    }

    /// A parameter of the path that is a number.
    ///
    /// # Errors
    /// 400 if it is none.
    pub fn number_param(&self, at: usize, name: &str) -> Result<u64, Problem> {
        params::number(name, &self.param(at, name)?)
    }

    /// What the body says it is.
    ///
    /// # Errors
    /// 415 for anything but JSON and, where it is allowed, binary.
    pub fn media(&self, binary: bool) -> Result<Media, Problem> {
        let value = self.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
        let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Ok(Media::Json),
            "application/octet-stream" if binary => Ok(Media::Binary),
            other => {
                let allowed = if binary { "application/json or application/octet-stream" } else { "application/json" };
                let detail = format!("the content type is {other:?}, allowed is {allowed}");
                Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// 413 beyond the limit, 408 if it takes too long, 400 if the connection breaks.
    pub async fn bytes(&mut self) -> Result<Bytes, Problem> {
        let limit = self.edge.limits.max_body_bytes;
        let announced = self.headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let read = read_within(&mut self.body, limit, announced.unwrap_or(0));
        match tokio::time::timeout(BODY_WITHIN, read).await {
            Ok(result) => result,
            Err(_) => {
                let detail = format!("the body did not arrive within {} s", BODY_WITHIN.as_secs());
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", detail))
            }
        }
    }

    /// A JSON body.
    ///
    /// # Errors
    /// 415 for another content type, 400 if it does not parse, and those of [`Call::bytes`].
    pub async fn json<T: DeserializeOwned>(&mut self) -> Result<T, Problem> {
        self.media(false)?;
        parse_json(&self.bytes().await?)
    }

    /// The grant of an admin.
    ///
    /// # Errors
    /// 401 without a token, 403 with one that allows less.
    pub fn admin(&self) -> Result<(), Problem> {
        match &self.grant {
            Some(grant) if grant.admin => Ok(()),
            Some(_) => Err(Problem::new(StatusCode::FORBIDDEN, "admin_required", "the token is not an admin's")),
            None => Err(auth::credentials_wanted("this route wants the bearer token of an admin")),
        }
    }
}

/// Reads a JSON object; whatever does not parse is 400 with the place.
///
/// # Errors
/// 400 with what serde says.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    // serde would take an array for a struct, field by field; no body of this API is one.
    if bytes.trim_ascii_start().first() == Some(&b'[') {
        return Err(Problem::bad("malformed_json", "the body is an array, not an object"));
    }
    serde_json::from_slice(bytes).map_err(|error| Problem::bad("malformed_json", format!("the body: {error}")))
}

async fn read_within(body: &mut BodyStream, limit: usize, announced: usize) -> Result<Bytes, Problem> {
    let mut bytes = BytesMut::with_capacity(announced.min(limit));
    let mut too_long = announced > limit;
    let mut drained = 0_usize;
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Problem::bad("broken_body", format!("the body broke off: {error}")))?;
        too_long |= bytes.len() + chunk.len() > limit;
        if too_long {
            bytes = BytesMut::new();
            drained += chunk.len();
            if drained > DRAIN {
                break;
            }
        } else {
            bytes.extend_from_slice(&chunk);
        }
    }
    if too_long {
        let detail = format!("the body is longer than {limit} bytes");
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", detail));
    }
    Ok(bytes.freeze())
}

/// A JSON answer.
///
/// # Errors
/// 500 if the view cannot be expressed in JSON, which would be a mistake in its type.
pub fn json(status: StatusCode, view: &impl Serialize) -> Result<warp::reply::Response, Problem> {
    let body = serde_json::to_vec(view)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "serialisation_failed", error.to_string()))?;
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// 200 with a JSON view.
///
/// # Errors
/// Those of [`json`].
pub fn ok(view: &impl Serialize) -> Result<warp::reply::Response, Problem> {
    json(StatusCode::OK, view)
}
