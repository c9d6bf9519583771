//! Tests of pruning: what goes, what stays, and that a crash at any step leaves one log or the other.

use std::ops::ControlFlow;
use std::path::Path;

use aurigraph_ledger::Hash;
use bytes::Bytes;

use super::error::JournalError;
use super::open::Journal;
use super::tests::{copy, has, identity, open, record, segment, writer};
use super::writer::Writer;
use super::{JournalIdentity, JournalOptions, base, inspect};
use crate::fatal::Fatal;
use crate::storage::record::{Cursor, Record, RecordKind};

/// Blocks with a floor and a commit now and then: some 40 segments of 16 KiB.
fn fill(log: &mut Writer, numbers: std::ops::Range<u64>) {
    for number in numbers {
        log.append(&[record(number, 1_500), Record::indexed(RecordKind::Commit, number, Bytes::from_static(&[1]))])
            .unwrap();
        if number % 50 == 0 {
            let body = Bytes::copy_from_slice(&number.to_le_bytes());
            log.append(&[Record::new(RecordKind::Mode, Hash([9; 32]), body.clone())]).unwrap();
            log.append(&[Record::indexed(RecordKind::EpochCert, number / 50, body)]).unwrap();
        }
        if number % 10 == 0 {
            log.sync().unwrap();
        }
    }
    log.sync().unwrap();
}

fn kept(kind: RecordKind, _: &Hash) -> bool {
    matches!(kind, RecordKind::Mode | RecordKind::EpochCert)
}

fn files(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory.join("journal")).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What must hold of a log that was pruned before a segment, or was just about to be.
fn is_whole(journal: &Journal, before: &[u32], newest: u64) {
    let reader = journal.reader();
    let first = reader.first_segment();
    assert!(before.contains(&first), "begins with {first}");
    for epoch in 0..=newest / 50 {
        let body = reader.get(RecordKind::EpochCert, &Record::index_key(epoch)).unwrap();
        assert_eq!(body.unwrap(), Bytes::copy_from_slice(&(epoch * 50).to_le_bytes()), "epoch {epoch}");
    }
    let mode = reader.get(RecordKind::Mode, &Hash([9; 32])).unwrap().unwrap();
    assert_eq!(mode, Bytes::copy_from_slice(&(newest / 50 * 50).to_le_bytes()));
    let oldest = reader.lowest(RecordKind::Commit).unwrap();
    assert_eq!(reader.oldest_commit(), if first == 1 { 1 } else { oldest });
    assert!((oldest + 1..=newest).all(|number| has(journal, &record(number, 1_500))));
    assert!(oldest < 2 || !has(journal, &record(oldest - 2, 1_500)), "what was pruned is in the index");
    let replayed = replayed(journal);
    assert_eq!(replayed.last().copied(), Some(newest));
    assert!(replayed.windows(2).all(|pair| pair[0] + 1 == pair[1]), "a hole in the replay");
    reader.verify().unwrap();
}

fn replayed(journal: &Journal) -> Vec<u64> {
    let mut replayed = Vec::new();
    let replay = journal.reader().replay(Cursor::START, &[RecordKind::Commit], |_, key, _| {
        replayed.push(Record::key_index(&key));
        ControlFlow::Continue(())
    });
    replay.unwrap();
    replayed
}

#[test]
fn a_pruned_log_keeps_what_it_must_takes_appends_and_is_found_again_by_the_next_start() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut log = writer(&journal);
    fill(&mut log, 0..200);
    let pruned = journal.prune(8, &kept).unwrap();
    assert_eq!(pruned.segments, 7);
    assert!(pruned.bytes > 7 * 12_000 && pruned.kept > 0);
    assert!(!segment(directory.path(), 7).exists() && segment(directory.path(), 8).exists());
    is_whole(&journal, &[8], 199);
    // Twice in one life, and never the segment that is written to.
    fill(&mut log, 200..300);
    assert_eq!(journal.prune(8, &kept).unwrap().segments, 0);
    let last = journal.reader().end().segment;
    assert_eq!(journal.prune(u32::MAX, &kept).unwrap().segments, last - 8);
    is_whole(&journal, &[last], 299);
    assert_eq!(files(directory.path()), [format!("{last:06}.seg"), format!("base-{last:06}.keep")]);
    drop((log, journal));

    let found = inspect(directory.path()).unwrap();
    assert_eq!((found.pruned_before, found.segments, found.highest_commit), (Some(last), 1, Some(299)));
    assert!(found.owner.unwrap().contains("v1"));
    let journal = open(directory.path()).unwrap();
    is_whole(&journal, &[last], 299);
    let mut log = writer(&journal);
    fill(&mut log, 300..400);
    journal.prune(last + 3, &kept).unwrap();
    is_whole(&journal, &[last + 3], 399);
    drop((log, journal));
    let other = JournalIdentity::new(Hash([8; 32]), "v1", Some(b"consensus key"));
    let refused = Journal::open(directory.path(), &other, JournalOptions::default(), Fatal::default());
    assert!(matches!(refused, Err(JournalError::Foreign { .. })), "the base says whose it is");
    assert_ne!(other, identity());
}

#[test]
fn a_crash_at_any_step_of_a_pruning_leaves_the_log_before_it_or_after_it() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut log = writer(&journal);
    fill(&mut log, 0..200);
    journal.prune(4, &kept).unwrap();
    let mut crashes = Vec::new();
    journal.prune_in_steps(9, &kept, &mut || crashes.push(copy(directory.path()))).unwrap();
    assert!(crashes.len() > 10, "only {} steps", crashes.len());
    let mut firsts = Vec::new();
    for crash in &crashes {
        // Half of a new base, and looking at it first, changes nothing.
        std::fs::write(crash.path().join("journal/base-000009.tmp"), b"half").unwrap();
        inspect(crash.path()).unwrap();
        let journal = open(crash.path()).unwrap();
        is_whole(&journal, &[4, 9], 199);
        firsts.push(journal.reader().first_segment());
        let first = journal.reader().first_segment();
        let names = files(crash.path());
        assert!(names.iter().all(|name| !name.starts_with("000") || name[..6].parse::<u32>().unwrap() >= first));
        assert_eq!(names.iter().filter(|name| name.starts_with("base-")).count(), 1, "{names:?}");
        // And it is pruned again.
        journal.prune(10, &kept).unwrap();
        is_whole(&journal, &[10], 199);
    }
    assert!(firsts.contains(&4) && firsts.contains(&9));
}

#[test]
fn damage_to_the_base_or_a_missing_first_segment_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut log = writer(&journal);
    fill(&mut log, 0..200);
    journal.prune(4, &kept).unwrap();
    drop((log, journal));
    let name = base::path(Path::new(""), 4);
    let size = std::fs::metadata(directory.path().join("journal").join(&name)).unwrap().len();
    for at in (0..size).step_by(7) {
        let damaged = copy(directory.path());
        let path = damaged.path().join("journal").join(&name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[usize::try_from(at).unwrap()] ^= 0x10;
        std::fs::write(&path, bytes).unwrap();
        let error = open(damaged.path()).expect_err("damage is noticed").to_string();
        assert!(error.contains("base-000004.keep"), "{error}");
        assert!(inspect(damaged.path()).is_err());
    }
    for cut in [0, 10, size / 2, size - 1] {
        let damaged = copy(directory.path());
        let path = damaged.path().join("journal").join(&name);
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        assert!(open(damaged.path()).is_err(), "cut at {cut}");
    }
    let gap = copy(directory.path());
    std::fs::remove_file(segment(gap.path(), 4)).unwrap();
    let error = open(gap.path()).err().unwrap().to_string();
    assert!(error.contains("000004.seg"), "{error}");
    let unowned = copy(directory.path());
    std::fs::remove_file(unowned.path().join("journal").join(&name)).unwrap();
    assert!(open(unowned.path()).is_err(), "without its base the log's beginning is missing");
}

#[test]
fn readers_and_replays_beside_a_pruning_see_whole_records_or_none() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut log = writer(&journal);
    fill(&mut log, 0..400);
    let last = journal.reader().end().segment;
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let reader = journal.reader();
                    while reader.first_segment() < last {
                        let replayed = replayed(&journal);
                        assert_eq!(replayed.last(), Some(&399));
                        for epoch in 0..8 {
                            let body = reader.get(RecordKind::EpochCert, &Record::index_key(epoch)).unwrap();
                            assert_eq!(body.unwrap(), Bytes::copy_from_slice(&(epoch * 50).to_le_bytes()));
                        }
                        for number in (0..400).step_by(17) {
                            let record = record(number, 1_500);
                            let body = reader.get(record.kind, &record.key).unwrap();
                            assert!(body.is_none_or(|body| body == record.body));
                        }
                    }
                })
            })
            .collect();
        for before in 2..=last {
            journal.prune(before, &kept).unwrap();
        }
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert!(all_kinds(&journal) < 400);
}

fn all_kinds(journal: &Journal) -> usize {
    let mut count = 0;
    let replay = journal.reader().replay(Cursor::START, &RecordKind::ALL, |_, _, _| {
        count += 1;
        ControlFlow::Continue(())
    });
    replay.unwrap();
    count
}
