//! From the route table to warp filters: a tree of path filters, and behind each path the choice of the method.
//!
//! Path filters stand before everything else, so an unknown path is 404 whatever the method, and only a known path can
//! be 405.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::Buf;
use futures_util::TryStreamExt;
use warp::filters::BoxedFilter;
use warp::http::{HeaderMap, Method, StatusCode};
use warp::path::FullPath;
use warp::reply::Response;
use warp::{Filter, Rejection};

use crate::auth;
use crate::call::{BodyStream, Call};
use crate::edge::Edge;
use crate::limiter::Client;
use crate::params::Query;
use crate::problem::Problem;
use crate::route::{Route, table};

/// The peer of the connection that a request came over; put into its extensions by the server.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub SocketAddr);

/// A path of the table that matched, with its parameters.
#[derive(Debug, Clone)]
struct Matched {
    path: usize,
    /// Innermost first while it is put together.
    params: Vec<String>,
}

/// All routes of one path.
struct Resource {
    /// As it stands in the table: the label of its metrics.
    label: &'static str,
    routes: Vec<Route>,
}

impl Resource {
    fn allow(&self) -> String {
        let names: Vec<&str> = self.routes.iter().map(|route| route.verb.as_str()).collect();
        names.join(", ")
    }
}

/// One node of the tree of paths.
#[derive(Default)]
struct Branch {
    end: Option<usize>,
    literals: Vec<(String, Branch)>,
    parameter: Option<Box<Branch>>,
}

impl Branch {
    fn insert(&mut self, segments: &[&str], path: usize) {
        let Some((first, rest)) = segments.split_first() else {
            self.end = Some(path);
            return;
        };
        if first.starts_with('{') {
            return self.parameter.get_or_insert_default().insert(rest, path);
        }
        let at = self.literals.iter().position(|(name, _)| name == first).unwrap_or_else(|| {
            self.literals.push(((*first).to_owned(), Self::default()));
            self.literals.len() - 1
        });
        self.literals[at].1.insert(rest, path);
    }

    /// The filter of this node. Literal segments are tried before a parameter.
    fn filter(self) -> Option<BoxedFilter<(Matched,)>> {
        let mut alternatives: Vec<BoxedFilter<(Matched,)>> = Vec::new();
        if let Some(path) = self.end {
            let matched = move || Matched { path, params: Vec::new() };
            alternatives.push(warp::path::end().map(matched).boxed());
        }
        for (name, branch) in self.literals {
            alternatives.extend(branch.filter().map(|filter| warp::path(name).and(filter).boxed()));
        }
        if let Some(filter) = self.parameter.and_then(|branch| branch.filter()) {
            let keep = |value: String, mut matched: Matched| {
                matched.params.push(value);
                matched
            };
            alternatives.push(warp::path::param::<String>().and(filter).map(keep).boxed());
        }
        alternatives.into_iter().reduce(|first, second| first.or(second).unify().boxed())
    }
}

fn resources() -> (Vec<Resource>, Branch) {
    let (mut resources, mut tree, mut known) = (Vec::<Resource>::new(), Branch::default(), BTreeMap::new());
    for route in table() {
        for full in route.full_paths() {
            let at = *known.entry(full.clone()).or_insert_with(|| {
                resources.push(Resource { label: route.path, routes: Vec::new() });
                let segments: Vec<&str> = full.split('/').filter(|part| !part.is_empty()).collect();
                tree.insert(&segments, resources.len() - 1);
                resources.len() - 1
            });
            resources[at].routes.push(route.clone());
        }
    }
    (resources, tree)
}

/// Everything of a request but its path's parameters.
struct Request {
    method: Method,
    path: String,
    query: String,
    headers: HeaderMap,
    peer: Option<PeerAddress>,
    body: BodyStream,
}

fn request() -> impl Filter<Extract = (Request,), Error = Rejection> + Clone {
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    warp::method()
        .and(warp::path::full())
        .and(query)
        .and(warp::header::headers_cloned())
        .and(warp::ext::optional::<PeerAddress>())
        .and(warp::body::stream())
        .map(|method, path: FullPath, query, headers, peer, body| {
            let path = path.as_str().to_owned();
            let body: BodyStream = Box::pin(boxed(body));
            Request { method, path, query, headers, peer, body }
        })
}

fn boxed<B: Buf>(
    body: impl futures_util::Stream<Item = Result<B, warp::Error>> + Send,
) -> impl futures_util::Stream<Item = Result<bytes::Bytes, String>> + Send {
    body.map_ok(|mut chunk| chunk.copy_to_bytes(chunk.remaining())).map_err(|error| error.to_string())
}

/// The filter that answers everything.
///
/// # Panics
/// Never: the table is not empty.
pub fn filter(edge: &Arc<Edge>) -> BoxedFilter<(Response,)> {
    let (resources, tree) = resources();
    let resources: Arc<[Resource]> = resources.into();
    let edge = Arc::clone(edge);
    let paths = tree.filter().expect("the table has routes");
    let known = paths.and(request()).then(move |mut matched: Matched, request| {
        matched.params.reverse();
        dispatch(Arc::clone(&edge), Arc::clone(&resources), matched, request)
    });
    let unknown = warp::method().and(warp::path::full()).map(|method: Method, path: FullPath| {
        let problem = Problem::new(StatusCode::NOT_FOUND, "unknown_path", "there is no such path");
        let response = problem.into_response(path.as_str());
        record("unmatched", &method, &response, Instant::now());
        response
    });
    known.or(unknown).unify().boxed()
}

async fn dispatch(edge: Arc<Edge>, resources: Arc<[Resource]>, matched: Matched, request: Request) -> Response {
    let began = Instant::now();
    let resource = &resources[matched.path];
    let (path, method) = (request.path.clone(), request.method.clone());
    let response = match handle(edge, resource, matched.params, request).await {
        Ok(response) => response,
        Err(problem) => problem.into_response(&path),
    };
    record(resource.label, &method, &response, began);
    response
}

async fn handle(
    edge: Arc<Edge>,
    resource: &Resource,
    params: Vec<String>,
    request: Request,
) -> Result<Response, Problem> {
    let route = resource.routes.iter().find(|route| route.verb.as_str() == request.method.as_str());
    let Some(route) = route else {
        let allow = resource.allow();
        let detail = format!("this path takes {allow}, not {}", request.method);
        let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail);
        return Err(Problem { allow: Some(allow), ..problem });
    };
    let grant = auth::grant_of(&edge.tokens, &request.headers)?.cloned();
    // Without a connection (a test of the filters alone) all requests are one client's.
    let client = request.peer.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |peer| peer.0.ip());
    limit(&edge, grant.as_ref().map_or(Client::Address(client), |grant| Client::Token(grant.digest)))?;
    let query = Query::parse(&request.query)?;
    (route.handler)(Call { edge, params, query, headers: request.headers, body: request.body, client, grant }).await
}

fn limit(edge: &Edge, client: Client) -> Result<(), Problem> {
    edge.limiter.take(client, Instant::now()).map_err(|wait| {
        let limit = edge.limits.requests_per_second;
        let detail = format!("more than {limit} requests a second");
        let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail);
        Problem { retry_after: Some(wait), ..problem }
    })
}

pub(crate) fn record(route: &'static str, method: &Method, response: &Response, began: Instant) {
    // Any text may stand as a method; labels are bounded.
    let method = match method.as_str() {
        known @ ("GET" | "POST" | "HEAD" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known.to_owned(),
        _ => "OTHER".to_owned(),
    };
    let status = response.status().as_u16().to_string();
    metrics::counter!("http_requests_total", "route" => route, "method" => method, "status" => status).increment(1);
    let took = began.elapsed().as_secs_f64();
    metrics::histogram!("http_request_duration_seconds", "route" => route).record(took);
}
