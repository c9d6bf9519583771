//! Errors as clients see them: RFC 9457 `application/problem+json` with a stable `code`.

use std::time::Duration;

use aurigraph_actors::mempool::Refusal;
use aurigraph_actors::query::{PortError, QueryError, SignerError};
use aurigraph_runtime::CallError;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value};
use warp::http::header::{ALLOW, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use warp::http::{Response, StatusCode};

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// How an error looks outside.
#[derive(Debug, Serialize, JsonSchema)]
pub struct ProblemView {
    /// A URN that ends with the code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The status.
    pub status: u16,
    /// What is wrong with this very request.
    pub detail: String,
    /// The path that was asked for.
    pub instance: String,
    /// Stable, for programs.
    pub code: String,
    /// Facts beyond, such as the hash of a refused transaction.
    #[serde(flatten)]
    pub more: Map<String, Value>,
}

/// An error on its way to the client.
#[derive(Debug, Clone, PartialEq)]
pub struct Problem {
    /// The status.
    pub status: StatusCode,
    /// Stable, for programs.
    pub code: &'static str,
    /// What is wrong with this very request.
    pub detail: String,
    /// When trying again may help.
    pub retry_after: Option<Duration>,
    /// The methods of a known path, where the method is wrong.
    pub allow: Option<String>,
    /// Facts beyond.
    pub more: Map<String, Value>,
}

impl Problem {
    /// A problem without further facts.
    #[must_use]
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None, allow: None, more: Map::new() }
    }

    /// 400 with a code of its own.
    #[must_use]
    pub fn bad(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 404 for an unknown thing.
    #[must_use]
    pub fn unknown(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("there is no {what} {name}"))
    }

    /// 503: try again later.
    #[must_use]
    pub fn unavailable(code: &'static str, detail: impl Into<String>, retry_after: Duration) -> Self {
        let problem = Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail);
        Self { retry_after: Some(retry_after), ..problem }
    }

    /// Adds a fact, under a name that no problem has of itself.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        debug_assert!(!["type", "title", "status", "detail", "instance", "code"].contains(&name), "{name} is taken");
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// The view, for a path.
    #[must_use]
    pub fn view(self, instance: &str) -> ProblemView {
        ProblemView {
            kind: format!("urn:aurigraph:problem:{}", self.code),
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            instance: instance.to_owned(),
            code: self.code.to_owned(),
            more: self.more,
        }
    }

    /// The response, for a path.
    #[must_use]
    pub fn into_response(self, instance: &str) -> warp::reply::Response {
        let (status, retry_after, allow) = (self.status, self.retry_after, self.allow.clone());
        let body = serde_json::to_vec(&self.view(instance)).unwrap_or_default();
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if let Some(after) = retry_after {
            // Whole seconds, rounded up: zero would invite a client to come back at once.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(allow) = allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

const SOON: Duration = Duration::from_secs(1);

impl From<CallError> for Problem {
    fn from(error: CallError) -> Self {
        match &error {
            CallError::Full(_) => Self::unavailable("overloaded", error.to_string(), SOON),
            CallError::NotRunning(_) | CallError::Dropped(_) => {
                Self::unavailable("restarting", error.to_string(), SOON)
            }
            CallError::Timeout { .. } => Self::new(StatusCode::GATEWAY_TIMEOUT, "no_answer", error.to_string()),
        }
    }
}

impl From<PortError> for Problem {
    fn from(error: PortError) -> Self {
        match error {
            PortError::Call(error) => error.into(),
            PortError::Query(error @ QueryError::Overloaded) => {
                Self::unavailable("overloaded", error.to_string(), SOON)
            }
            PortError::Query(error @ (QueryError::NotReady | QueryError::NoCheckpoint)) => {
                Self::unavailable("not_ready", error.to_string(), SOON)
            }
            PortError::Query(error) => {
                tracing::error!(%error, "a query failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "storage_failed", error.to_string())
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let (status, code) = refusal_status(&refusal);
        let problem = Self::new(status, code, refusal.to_string());
        let again = status == StatusCode::TOO_MANY_REQUESTS || status == StatusCode::SERVICE_UNAVAILABLE;
        Self { retry_after: refusal.retry_after().or(again.then_some(SOON)), ..problem }
    }
}

/// The status and the stable code of a refusal.
#[must_use]
pub const fn refusal_status(refusal: &Refusal) -> (StatusCode, &'static str) {
    const LEDGER: StatusCode = StatusCode::UNPROCESSABLE_ENTITY;
    const CONFLICT: StatusCode = StatusCode::CONFLICT;
    match refusal {
        Refusal::Undecodable(_) => (StatusCode::BAD_REQUEST, "malformed_transaction"),
        Refusal::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "transaction_too_large"),
        Refusal::WrongChain { .. } => (LEDGER, "wrong_chain"),
        Refusal::Expired { .. } => (LEDGER, "expired"),
        Refusal::ExpiryTooFar { .. } => (LEDGER, "expiry_too_far"),
        Refusal::UnknownSender { .. } => (LEDGER, "unknown_sender"),
        Refusal::KeyNotRegistered { .. } => (LEDGER, "key_not_registered"),
        Refusal::WrongKey { .. } => (LEDGER, "wrong_key"),
        Refusal::NonceUsed { .. } => (CONFLICT, "nonce_used"),
        Refusal::NonceOutOfWindow { .. } => (CONFLICT, "nonce_out_of_window"),
        Refusal::NoncePending { .. } => (CONFLICT, "nonce_pending"),
        Refusal::MaxFeeTooLow { .. } => (LEDGER, "max_fee_too_low"),
        Refusal::CannotPayFee { .. } => (LEDGER, "cannot_pay_fee"),
        Refusal::InvalidSignature { .. } => (LEDGER, "invalid_signature"),
        Refusal::Duplicate { .. } => (CONFLICT, "duplicate"),
        Refusal::TooManyPending { .. } => (StatusCode::TOO_MANY_REQUESTS, "too_many_pending"),
        Refusal::Overloaded { .. } => (StatusCode::SERVICE_UNAVAILABLE, "overloaded"),
        Refusal::NotReady { .. } => (StatusCode::SERVICE_UNAVAILABLE, "not_ready"),
    }
}

impl From<SignerError> for Problem {
    fn from(error: SignerError) -> Self {
        let detail = error.to_string();
        match error {
            SignerError::Refused(refusal) => refusal.into(),
            SignerError::Call(error) => error.into(),
            SignerError::UnknownAccount(_) => Self::new(StatusCode::FORBIDDEN, "account_not_held", detail),
            SignerError::NoAccountYet(_) => Self::new(StatusCode::UNPROCESSABLE_ENTITY, "unknown_sender", detail),
            SignerError::NotReady => Self::unavailable("not_ready", detail, SOON),
            SignerError::NoNonceLeft { .. } => {
                let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many_pending", detail);
                Self { retry_after: Some(SOON), ..problem }
            }
            SignerError::Build(_) => Self::bad("malformed_transfer", detail),
            SignerError::Key(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "signing_failed", detail),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aurigraph_ledger::{CodecError, Hash};

    #[test]
    fn an_actor_that_cannot_be_asked_is_503_with_retry_after_and_a_silent_one_504() {
        let name = || "v1/query/0".to_owned();
        for error in [CallError::Full(name()), CallError::NotRunning(name()), CallError::Dropped(name())] {
            let problem = Problem::from(error);
            assert_eq!(problem.status, StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(problem.into_response("/x").headers()[RETRY_AFTER], "1");
        }
        let problem = Problem::from(CallError::Timeout { name: name(), after: SOON });
        assert_eq!(problem.status, StatusCode::GATEWAY_TIMEOUT);
        assert_eq!(Problem::from(PortError::Query(QueryError::NotReady)).status, StatusCode::SERVICE_UNAVAILABLE);
    }

    #[test]
    fn refusals_keep_their_meaning() {
        let status = |refusal: Refusal| Problem::from(refusal).status.as_u16();
        assert_eq!(status(Refusal::Undecodable(CodecError::Varint { offset: 0 })), 400);
        assert_eq!(status(Refusal::TooLarge { len: 2, max: 1 }), 413);
        assert_eq!(status(Refusal::Duplicate { id: Hash::ZERO }), 409);
        assert_eq!(status(Refusal::NonceUsed { nonce: 1, base: 2 }), 409);
        assert_eq!(status(Refusal::InvalidSignature { id: Hash::ZERO }), 422);
        let busy = Problem::from(Refusal::TooManyPending { pending: 1, max: 1 });
        assert_eq!((busy.status.as_u16(), busy.retry_after), (429, Some(SOON)));
        let full = Problem::from(Refusal::Overloaded { what: "queue", retry_after: Duration::from_millis(1_500) });
        assert_eq!(full.into_response("/x").headers()[RETRY_AFTER], "2");
    }

    #[test]
    fn the_body_names_everything_that_the_contract_wants() {
        let problem = Problem::unknown("block", 9).with("height", 9);
        let view = serde_json::to_value(problem.view("/api/v11/blockchain/blocks/9")).expect("serialises");
        assert_eq!(
            view,
            serde_json::json!({
                "type": "urn:aurigraph:problem:not_found", "title": "Not Found", "status": 404,
                "detail": "there is no block 9", "instance": "/api/v11/blockchain/blocks/9", "code": "not_found",
                "height": 9
            })
        );
    }
}
