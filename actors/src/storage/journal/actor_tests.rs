//! Tests of the journal actor: groups, answers, and its five deaths.

use std::sync::Arc;
use std::time::Duration;

use aurigraph_runtime::supervisor::{Backoff, Budget, ChildSpec, Strategy, SupervisorSpec, Tree};
use aurigraph_runtime::{Address, KillMode, Registry, Reply};
use parking_lot::Mutex;

use super::actor::{JournalActor, JournalMsg, Work, write_group};
use super::open::Journal;
use super::tests::{identity, options, record};
use super::writer::Writer;
use super::{JournalError, JournalOptions};
use crate::bounds::storage::JOURNAL_MAILBOX;
use crate::fatal::Fatal;
use crate::storage::record::{Record, RecordKind};
use crate::storage::testing::{Chance, eventually};

const LONG: Duration = Duration::from_secs(60);
const DEATHS: [KillMode; 5] = [KillMode::Kill, KillMode::Panic, KillMode::Error, KillMode::Stop, KillMode::Abort];

fn spec(journal: &Journal) -> SupervisorSpec {
    let journal = journal.clone();
    SupervisorSpec::new("storage", Strategy::OneForOne)
        .budget(Budget { restarts: 10_000, window: LONG })
        .backoff(Backoff { first: Duration::from_millis(1), factor: 1, max: Duration::from_millis(1) })
        .child(ChildSpec::behaviour("journal", JOURNAL_MAILBOX, move || JournalActor::new(journal.clone())))
}

async fn append(address: &Address<JournalMsg>, records: Vec<Record>, sync: bool) -> bool {
    let answer = address.call(LONG, |reply| JournalMsg::Append { records, sync, reply: Some(reply) }).await;
    matches!(answer, Ok(Ok(())))
}

#[test]
fn a_group_of_appends_is_written_with_one_sync_and_each_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let roomy = JournalOptions { segment_bytes: 1 << 20, initialise: true, rejoin: false, rotated: false };
    let journal = Journal::open(directory.path(), &identity(), roomy, Fatal::default()).unwrap();
    let mut writer = Writer::open(Arc::clone(&journal.0)).unwrap();
    let mut answers = Vec::new();
    let mut group = Vec::new();
    for number in 0..100 {
        let (reply, answer) = Reply::channel();
        let credit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
        let too_large = number == 50;
        let body = if too_large { (32 << 20) + 1 } else { 100 };
        let work = Work::new(vec![record(number, body)], number % 3 == 0, Some(reply), credit);
        group.push(work);
        answers.push((too_large, answer));
    }
    write_group(&mut writer, &mut group).unwrap();
    assert_eq!(writer.syncs, 1);
    for (number, (too_large, mut answer)) in answers.into_iter().enumerate() {
        let result = answer.try_recv().unwrap();
        assert_eq!(result.is_err(), too_large, "append {number}: {result:?}");
    }
    assert_eq!(journal.reader().verify().unwrap(), 100);

    let credit = Arc::new(tokio::sync::Semaphore::new(1)).try_acquire_owned().unwrap();
    let mut unsynced = vec![Work::new(vec![record(200, 10)], false, None, credit)];
    write_group(&mut writer, &mut unsynced).unwrap();
    assert_eq!(writer.syncs, 1, "nobody asked for a sync");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_deaths_under_load_lose_nothing_that_was_acknowledged() {
    let mut chance = Chance::printed("five_deaths_under_load");
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), &identity(), options(), Fatal::default()).unwrap();
    let registry = Registry::new("j1");
    let tree = Tree::start(registry.clone(), spec(&journal)).await.unwrap();
    let address = registry.role::<JournalMsg>("journal");
    let acknowledged = Arc::new(Mutex::new(Vec::new()));
    let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4_u64)
        .map(|client| {
            let (address, acknowledged, stop) = (address.clone(), Arc::clone(&acknowledged), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut number = client << 32;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let records = vec![record(number, 700), record(number + 1, 40)];
                    if append(&address, records.clone(), number % 3 != 0).await {
                        acknowledged.lock().extend(records);
                    } else {
                        tokio::task::yield_now().await;
                    }
                    number += 2;
                }
            })
        })
        .collect();
    for death in DEATHS.into_iter().cycle().take(25) {
        let (before, target) = (address.generation(), acknowledged.lock().len() + 1 + chance.below(20) as usize);
        eventually("appends go on", || acknowledged.lock().len() >= target).await;
        assert!(registry.kill("j1/journal", death), "{death:?}");
        eventually("it is restarted", || address.generation() > before && address.is_running()).await;
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    let reader = journal.reader();
    let missing = |reader: &super::JournalReader| {
        let acknowledged = acknowledged.lock();
        acknowledged.iter().filter(|r| reader.get(r.kind, &r.key).unwrap().as_ref() != Some(&r.body)).count()
    };
    assert_eq!(missing(&reader), 0);
    tree.shutdown(LONG).await.unwrap();
    eventually("the thread has let go", || !journal.0.owner.is_held()).await;
    drop((reader, journal));
    let journal = reopen(directory.path()).await;
    assert_eq!(missing(&journal.reader()), 0);
    assert!(acknowledged.lock().len() > 25);
}

/// The lock is free once the last handle is gone; actors are dropped a moment after their tree has ended.
async fn reopen(directory: &std::path::Path) -> Journal {
    let mut opened = None;
    eventually("the directory is free", || {
        opened = Journal::open(directory, &identity(), options(), Fatal::default()).ok();
        opened.is_some()
    })
    .await;
    opened.unwrap()
}

#[tokio::test]
async fn after_a_failed_write_the_tree_ends_at_once_and_says_which_file() {
    let directory = tempfile::tempdir().unwrap();
    let fatal = Fatal::default();
    let journal = Journal::open(directory.path(), &identity(), options(), fatal.clone()).unwrap();
    let registry = Registry::new("j2");
    let tree = Tree::start(registry.clone(), spec(&journal)).await.unwrap();
    let address = registry.role::<JournalMsg>("journal");
    std::fs::create_dir(directory.path().join("journal/000002.seg")).unwrap();
    let records: Vec<Record> = (0..60).map(|number| record(number, 500)).collect();
    let answer = address.call(LONG, |reply| JournalMsg::Append { records, sync: true, reply: Some(reply) }).await;
    let error = answer.unwrap().unwrap_err();
    assert!(matches!(error, JournalError::Io { .. }), "{error}");
    assert!(fatal.raised().await.contains("000002.seg"));
    let end = tokio::time::timeout(LONG, tree.ended()).await.unwrap();
    assert!(end.reason.contains("000002.seg"), "{}", end.reason);
}

#[tokio::test]
async fn written_records_are_read_before_they_are_synced() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), &identity(), options(), Fatal::default()).unwrap();
    let registry = Registry::new("j3");
    let tree = Tree::start(registry.clone(), spec(&journal)).await.unwrap();
    let address = registry.role::<JournalMsg>("journal");
    assert!(append(&address, vec![record(5, 10)], false).await);
    assert!(journal.reader().contains(RecordKind::Block, &record(5, 10).key));
    tree.shutdown(LONG).await.unwrap();
}
