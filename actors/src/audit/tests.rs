//! Tests of the audit log: the chain, tampering, searches, and deaths of the actor and of the store.

use std::time::Duration;

use aurigraph_ledger::Hash;
use aurigraph_runtime::supervisor::{Backoff, Budget, ChildSpec, Strategy, SupervisorSpec, Tree};
use aurigraph_runtime::{KillMode, Registry};
use bytes::Bytes;

use super::{
    AuditActor, AuditEntry, AuditFilter, AuditLevel, AuditMsg, AuditPage, AuditReader, AuditRecord, AuditStatus,
};
use crate::bounds::audit as bounds;
use crate::bounds::storage::STORE_MAILBOX;
use crate::storage::testing::eventually;
use crate::storage::{Store, StoreActor, StoreMsg, StoreOptions};

const LONG: Duration = Duration::from_secs(60);

fn record(user: &str, status: AuditStatus, details: &str) -> AuditRecord {
    AuditRecord {
        level: if status == AuditStatus::Success { AuditLevel::Info } else { AuditLevel::Warning },
        event_type: "login".to_owned(),
        user: user.to_owned(),
        action: "show a token".to_owned(),
        resource: "api".to_owned(),
        resource_id: "rest".to_owned(),
        ip: "127.0.0.1".to_owned(),
        status,
        details: details.to_owned(),
    }
}

struct Node {
    store: Store,
    registry: Registry,
    tree: Tree,
    _directory: tempfile::TempDir,
}

impl Node {
    async fn start(name: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store =
            Store::open(directory.path(), name, StoreOptions { cache: 4 << 20, ..StoreOptions::default() }).unwrap();
        let registry = Registry::new(name);
        let tree = Self::tree(&store, &registry).await;
        Self { store, registry, tree, _directory: directory }
    }

    async fn tree(store: &Store, registry: &Registry) -> Tree {
        let (of_actor, of_audit) = (store.clone(), store.clone());
        let first = vec![AuditRecord::system(AuditLevel::Warning, "store_set_aside", "set aside", "store", "why")];
        let spec = SupervisorSpec::new("root", Strategy::OneForOne)
            .budget(Budget { restarts: 1_000, window: LONG })
            .backoff(Backoff { first: Duration::from_millis(1), factor: 1, max: Duration::from_millis(1) })
            .child(ChildSpec::behaviour("store", STORE_MAILBOX, move || StoreActor::new(of_actor.clone())))
            .child(ChildSpec::behaviour("audit", bounds::MAILBOX, move || {
                AuditActor::new(AuditReader::new(of_audit.reader()), first.clone())
            }));
        Tree::start(registry.clone(), spec).await.unwrap()
    }

    fn reader(&self) -> AuditReader {
        AuditReader::new(self.store.reader())
    }

    fn logged(&self, record: AuditRecord) -> bool {
        self.registry.role::<AuditMsg>("audit").send(AuditMsg::Append(Box::new(record))).is_ok()
    }

    fn find(&self, query: &str) -> AuditPage {
        let filter = AuditFilter { search_query: Some(query.to_owned()), ..AuditFilter::default() };
        self.reader().search(&filter, 0, 50).unwrap()
    }

    async fn wait_for(&self, query: &str) -> AuditEntry {
        eventually(query, || self.find(query).total > 0).await;
        self.find(query).logs.remove(0)
    }
}

#[test]
fn entries_survive_their_encoding_and_every_flipped_bit_shows() {
    let entry = AuditEntry::new(7, 99, Hash([5; 32]), record("ada", AuditStatus::Denied, "größer"));
    let bytes = entry.encode();
    assert_eq!(AuditEntry::decode(&bytes).unwrap(), entry);
    assert!(entry.is_whole());
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 1;
        if let Ok(changed) = AuditEntry::decode(&bad) {
            assert!(!changed.is_whole(), "byte {at}");
        }
    }
}

#[test]
fn long_texts_are_cut_at_a_characters_border() {
    let entry = AuditEntry::new(1, 1, Hash::ZERO, record(&"ß".repeat(400), AuditStatus::Success, &"é".repeat(9_000)));
    assert!(entry.user.len() <= bounds::FIELD && entry.user.ends_with('…'));
    assert!(entry.details.len() <= bounds::DETAILS && entry.details.ends_with('…'));
    assert_eq!(AuditEntry::decode(&entry.encode()).unwrap(), entry);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_become_a_chain_that_is_searched_by_every_field() {
    let node = Node::start("a1").await;
    for number in 0..20 {
        let status = if number % 5 == 0 { AuditStatus::Denied } else { AuditStatus::Success };
        let user = if number % 2 == 0 { "ada" } else { "grace" };
        assert!(node.logged(record(user, status, &format!("attempt {number}"))));
    }
    node.wait_for("attempt 19").await;
    let reader = node.reader();
    let search = |filter: AuditFilter, page, size| reader.search(&filter, page, size).unwrap();
    let all = search(AuditFilter::default(), 0, 100);
    assert_eq!((all.total, all.complete), (21, true));
    assert_eq!(all.logs[20].event_type, "store_set_aside");
    assert!(all.logs.windows(2).all(|pair| pair[0].follows(&pair[1])));
    let of = |user: &str| AuditFilter { user: Some(user.to_owned()), ..AuditFilter::default() };
    assert_eq!(search(of("ada"), 0, 3).total, 10);
    let second: Vec<u64> = search(of("ada"), 1, 3).logs.iter().map(|entry| entry.id).collect();
    assert_eq!(second.len(), 3);
    assert!(second[0] < search(of("ada"), 0, 3).logs[2].id);
    let denied = AuditFilter { status: Some(AuditStatus::Denied), ..AuditFilter::default() };
    assert_eq!(search(denied, 0, 9).total, 4);
    let later = AuditFilter { date_from: Some(u64::MAX), ..AuditFilter::default() };
    assert_eq!(search(later, 0, 9).total, 0);
    let summary = reader.summary().unwrap();
    assert_eq!((summary.total_logs, summary.failed_attempts, summary.suspicious_activity), (21, 4, 4));
    assert_eq!(summary.top_users[0].1, 10);
    assert_eq!(summary.by_type["login"], 20);
    assert!(summary.chain_verified);
    assert_eq!(summary.chain_head, all.logs[0].hash);
    node.tree.shutdown(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deaths_of_the_log_and_of_the_store_leave_a_whole_chain_and_are_entries_themselves() {
    let node = Node::start("a2").await;
    let deaths = [KillMode::Kill, KillMode::Panic, KillMode::Error, KillMode::Stop, KillMode::Abort];
    for (number, death) in deaths.into_iter().cycle().take(15).enumerate() {
        let victim = if number % 3 == 0 { "a2/store" } else { "a2/audit" };
        for part in 0..10 {
            node.logged(record("ada", AuditStatus::Success, &format!("number {number} part {part}")));
        }
        let generation = || match victim {
            "a2/store" => node.registry.role::<StoreMsg>("store").generation(),
            _ => node.registry.role::<AuditMsg>("audit").generation(),
        };
        let before = generation();
        assert!(node.registry.kill(victim, death));
        eventually("it is restarted", || generation() > before).await;
        eventually("it runs", || node.registry.role::<AuditMsg>("audit").is_running()).await;
        node.logged(record("ada", AuditStatus::Success, &format!("after death {number}.")));
        node.wait_for(&format!("after death {number}.")).await;
        assert!(node.reader().summary().unwrap().chain_verified, "after death {number}");
    }
    let restarted = AuditFilter { event_type: Some("actor_restarted".to_owned()), ..AuditFilter::default() };
    let failed = AuditFilter { event_type: Some("actor_failure".to_owned()), ..AuditFilter::default() };
    let stores = |filter: &AuditFilter| {
        let found = node.reader().search(filter, 0, 1_000).unwrap().logs;
        found.into_iter().filter(|entry| entry.resource_id == "a2/store").count()
    };
    assert_eq!(stores(&restarted), 5);
    assert!(stores(&failed) >= 4, "all deaths but an ordered stop are failures");
    node.tree.shutdown(LONG).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_entry_is_found_at_the_next_start_and_said_in_the_log_itself() {
    let node = Node::start("a3").await;
    for number in 0..5 {
        node.logged(record("ada", AuditStatus::Denied, &format!("attempt {number}")));
    }
    let entry = node.wait_for("attempt 2").await;
    node.wait_for("attempt 4").await;
    // Somebody who knows the format: content changed, hash made to fit.
    let changed = record("grace", AuditStatus::Success, "nothing happened");
    let forged = AuditEntry::new(entry.id, entry.timestamp_ms, entry.previous_hash, changed);
    assert!(forged.is_whole());
    let rows = vec![(entry.id, Bytes::from(forged.encode()))];
    let written = node.registry.role::<StoreMsg>("store");
    written.call(LONG, |reply| StoreMsg::Audit { rows, reply: Some(reply) }).await.unwrap().unwrap();
    assert!(!node.reader().summary().unwrap().chain_verified);

    assert!(node.registry.kill("a3/audit", KillMode::Kill));
    let found = node.wait_for("do not chain").await;
    assert_eq!((found.level, found.event_type.as_str()), (AuditLevel::Critical, "audit_chain_broken"));
    node.tree.shutdown(LONG).await.unwrap();
}
