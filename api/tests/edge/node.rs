//! A whole node with its HTTP edge on loopback, and a small client.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_actors::config::ClusterConfig;
use aurigraph_actors::config::development::Development;
use aurigraph_actors::query::Sources;
use aurigraph_actors::query::values::Timestamp;
use aurigraph_actors::settings::NodeSettings;
use aurigraph_actors::tree::{RunningNode, start_node};
use aurigraph_api::{Port, spec};
use aurigraph_gpu::{Seed, Signer};
use aurigraph_ledger::{AccountIndex, Address, Hash, SenderKey, Target, Transaction, TransactionBuilder};
use aurigraph_runtime::{ChildSpec, Metrics};
use aurigraph_testkit::ports;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

/// Longest wait for anything; generous, because tests share the machine.
pub const WITHIN: Duration = Duration::from_secs(60);

/// A node of a one-validator development chain.
pub struct TestNode {
    /// The node.
    pub node: RunningNode,
    /// Its chain's keys.
    pub development: Development,
    /// Where its edge listens.
    pub address: SocketAddr,
    client: Client<HttpConnector, Full<Bytes>>,
    _data: tempfile::TempDir,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: hyper::HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    /// Asserts that this is a problem of this status and code, in the contract's form.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{:?}", self.body);
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail", "instance"] {
            assert!(problem[field].is_string(), "{field} in {problem}");
        }
        let waits = matches!(status, 429 | 503);
        assert_eq!(self.headers.contains_key("retry-after"), waits, "{problem}");
    }
}

impl TestNode {
    /// Starts one; `change` may adapt its settings.
    pub async fn start(name: &str, change: impl FnOnce(&mut NodeSettings)) -> Self {
        // Not ones that the system may give to a connection of another test in the meantime.
        let (rest, listen) = (ports::free(), ports::free());
        let text = format!(
            "[genesis]\nmode = \"development\"\nseed = \"{name}\"\nnetwork = \"test\"\naccounts = 20\nsigners = 4\n\
             signer_balance = \"1000\"\nrecipient_balance = \"1\"\n[chaos]\nenabled = true\n\
             [[node]]\nname = \"{name}1\"\nvalidator = true\nstake = 1\nrest = \"{rest}\"\n\
             listen = \"{listen}\"\n"
        );
        let data = tempfile::tempdir().expect("a temporary directory");
        let path = data.path().join("cluster.toml");
        std::fs::write(&path, text).expect("the config is written");
        let config = ClusterConfig::load(&path).expect("the config is good");
        let node_name = format!("{name}1");
        let mut settings = config.node_settings(&node_name, data.path(), true).expect("settings");
        change(&mut settings);
        let port = Port::bind(settings.rest).await.expect("the port is free");
        let address = port.address();
        let (metrics, _) = Metrics::detached(&node_name).expect("metrics");
        let render = metrics.clone();
        let edge = move |context: &Arc<_>| {
            let sources = Arc::new(Sources::of(context, Instant::now(), Timestamp::now()));
            let render: aurigraph_api::RenderMetrics = Arc::new(move || render.render());
            vec![ChildSpec::supervisor(spec(&sources, &port, &render))]
        };
        let node = start_node(settings, metrics, edge).await.expect("the node starts");
        // Below the server's patience with idle connections, so that none is reused while it is being closed.
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(1))
            .build_http();
        let development = config.development.expect("a development config");
        let this = Self { node, development, address, client, _data: data };
        this.until_ready().await;
        this
    }

    async fn until_ready(&self) {
        let began = Instant::now();
        while self.get("/ready").await.status != 200 {
            assert!(began.elapsed() < WITHIN, "not ready: {:?}", self.get("/ready").await);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Sends a request; a path that starts with `//` is taken from the root.
    pub async fn send(&self, method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Response<Incoming> {
        let path = path
            .strip_prefix('/')
            .filter(|rest| rest.starts_with('/'))
            .map_or_else(|| format!("/api/v11{path}"), ToOwned::to_owned);
        let uri = format!("http://{}{path}", self.address);
        let mut request = Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body)).expect("a request");
        tokio::time::timeout(WITHIN, self.client.request(request)).await.expect("in time").expect("an answer")
    }

    /// Sends a request and reads the whole answer.
    pub async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
        let response = self.send(method, path, headers, body.into()).await;
        let (head, body) = response.into_parts();
        let body = body.collect().await.expect("the whole body").to_bytes();
        Answer { status: head.status.as_u16(), headers: head.headers, body }
    }

    /// GET.
    pub async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &[], "").await
    }

    /// GET that must be good.
    #[track_caller]
    pub fn good(&self, path: &str) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        async move {
            let answer = self.get(path).await;
            assert_eq!(answer.status, 200, "{path} at {caller}: {:?}", answer.body);
            answer.json()
        }
    }

    /// POST with a JSON body.
    pub async fn post(&self, path: &str, token: Option<&str>, body: impl ToString) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut headers = vec![("content-type", "application/json")];
        headers.extend(bearer.as_deref().map(|bearer| ("authorization", bearer)));
        self.ask(Method::POST, path, &headers, body.to_string()).await
    }

    /// POST with a binary body.
    pub async fn post_bytes(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.ask(Method::POST, path, &[("content-type", "application/octet-stream")], body).await
    }

    /// The address of a genesis account that has a key.
    pub fn address_of(&self, account: usize) -> Hash {
        Address::of_public_key(self.signer(account).public_key()).0
    }

    /// The address of a genesis account, with a key or without.
    pub fn listed_address(&self, account: usize) -> Hash {
        self.development.genesis_accounts()[account].address.0
    }

    /// The key of a genesis account.
    pub fn signer(&self, account: usize) -> Signer {
        Signer::from_seed(&Seed::new(self.development.account_seed(account))).expect("a key")
    }

    /// A signed transaction of transfers to account indices.
    pub fn transaction(&self, from: u32, nonce: u64, transfers: &[(u32, u128)]) -> Transaction {
        let context = self.node.context();
        let sender = SenderKey::Index(AccountIndex(from));
        let mut builder =
            TransactionBuilder::new(context.chain_id, sender, nonce, 5_000).fees(&context.settings.genesis.fees);
        for (to, amount) in transfers {
            builder.push_transfer(Target::Index(AccountIndex(*to)), *amount);
        }
        let unsigned = builder.build().expect("a transaction");
        let signature = self.signer(from as usize).sign(&unsigned.signing_message()).expect("a signature");
        unsigned.with_signature(&signature).expect("signed")
    }

    /// Stops the node; panics if that takes too long.
    pub async fn stop(self) {
        self.node.shutdown(WITHIN).await.expect("an ordered stop");
    }
}
