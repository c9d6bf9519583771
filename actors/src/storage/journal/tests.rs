//! Tests of the journal as a library: torn tails, flipped bits, lost writes, sealing, and whose directory it is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aurigraph_ledger::{Hash, blake3_digest};
use bytes::Bytes;

use super::open::{Journal, JournalIdentity, JournalOptions};
use super::writer::Writer;
use super::{JournalError, frame};
use crate::fatal::Fatal;
use crate::storage::record::{Cursor, Record, RecordKind};
use crate::storage::testing::Chance;

const SEGMENT: u64 = 16 << 10;

pub(super) fn identity() -> JournalIdentity {
    JournalIdentity::new(Hash([7; 32]), "v1", Some(b"consensus key"))
}

pub(super) fn options() -> JournalOptions {
    JournalOptions { segment_bytes: SEGMENT, initialise: true, rejoin: false, rotated: false }
}

pub(super) fn open(directory: &Path) -> Result<Journal, JournalError> {
    Journal::open(directory, &identity(), options(), Fatal::default())
}

pub(super) fn writer(journal: &Journal) -> Writer {
    Writer::open(Arc::clone(&journal.0)).unwrap()
}

pub(super) fn record(number: u64, size: usize) -> Record {
    let mut body = vec![number as u8; size];
    body.extend_from_slice(&number.to_le_bytes());
    // A frame that ends in zeros cannot be told from its own zeroed tail.
    body.push(0xee);
    Record::new(RecordKind::Block, blake3_digest(&number.to_le_bytes()), body.into())
}

pub(super) fn has(journal: &Journal, record: &Record) -> bool {
    journal.reader().get(record.kind, &record.key).unwrap().as_ref() == Some(&record.body)
}

pub(super) fn segment(directory: &Path, number: u32) -> PathBuf {
    super::segment::path(&directory.join("journal"), number)
}

/// A copy of the files as a crash leaves them.
pub(super) fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    std::fs::create_dir(to.path().join("journal")).unwrap();
    for entry in std::fs::read_dir(from.join("journal")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.path().join("journal").join(entry.file_name())).unwrap();
    }
    to
}

/// All records of the log but the init record, in order.
pub(super) fn all(journal: &Journal) -> Vec<(RecordKind, Hash, Bytes)> {
    let mut records = Vec::new();
    let end = journal.reader().replay(Cursor::START, &RecordKind::ALL, |kind, key, body| {
        records.push((kind, key, body));
        ControlFlow::Continue(())
    });
    assert_eq!(end.unwrap(), journal.reader().end());
    assert_eq!(records.remove(0).0, RecordKind::Init);
    records
}

#[test]
fn what_was_appended_is_read_by_key_by_index_and_in_order_also_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let mut written = Vec::new();
    for round in 0..3 {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        for number in 0..40 {
            let index = round * 40 + number;
            let body = Bytes::from(vec![number as u8; 300]);
            written.push(record(index, 200));
            written.push(Record::indexed(RecordKind::Commit, index, body.clone()));
            if number % 16 == 0 {
                written.push(Record::indexed(RecordKind::ConsensusSnapshot, index, body));
            }
            log.append(&written[written.len() - 2..]).unwrap();
            if number % 16 == 0 {
                log.append(&written[written.len() - 3..written.len() - 2]).unwrap();
                let moved = written.len() - 3;
                written[moved..].rotate_left(1);
            }
        }
        log.sync().unwrap();
    }
    let journal = open(directory.path()).unwrap();
    let _log = writer(&journal);
    let reader = journal.reader();
    let read: Vec<Record> = all(&journal).into_iter().map(|(kind, key, body)| Record { kind, key, body }).collect();
    assert_eq!(read, written);
    assert!(written.iter().all(|record| has(&journal, record)));
    assert_eq!(reader.highest_commit(), Some(119));
    assert_eq!(reader.highest_mark(), None);
    assert_eq!(reader.commit(7).unwrap().unwrap(), Bytes::from(vec![7; 300]));
    assert_eq!(reader.commit(120).unwrap(), None);
    let (snapshot, cursor) = reader.latest_snapshot().unwrap().unwrap();
    assert_eq!(snapshot, Bytes::from(vec![32; 300]));
    let mut first = None;
    reader
        .replay(cursor, &[RecordKind::ConsensusSnapshot], |_, key, _| {
            first = Some(Record::key_index(&key));
            ControlFlow::Break(())
        })
        .unwrap();
    assert_eq!(first, Some(112));
    assert_eq!(reader.verify().unwrap(), written.len() as u64 + 1);
    assert!(segment(directory.path(), 3).exists(), "the log never grew over a segment");
}

#[test]
fn a_replay_of_some_kinds_skips_the_others_and_goes_on_where_it_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut log = writer(&journal);
    for index in 0..100 {
        log.append(&[record(index, 500), Record::indexed(RecordKind::Mark, index, Bytes::new())]).unwrap();
    }
    log.write().unwrap();
    let (mut seen, mut from) = (Vec::new(), Cursor::START);
    while from < journal.reader().end() {
        let mut taken = 0;
        from = journal
            .reader()
            .replay(from, &[RecordKind::Mark], |kind, key, _| {
                assert_eq!(kind, RecordKind::Mark);
                seen.push(Record::key_index(&key));
                taken += 1;
                if taken == 7 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            })
            .unwrap();
    }
    assert_eq!(seen, (0..100).collect::<Vec<_>>());
}

#[test]
fn a_tail_torn_at_any_byte_of_the_last_frame_is_cut_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let records: Vec<Record> = (0..4).map(|number| record(number, 40)).collect();
    let (start, end) = {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        log.append(&records[..3]).unwrap();
        log.sync().unwrap();
        let start = journal.reader().end().offset;
        log.append(&records[3..]).unwrap();
        log.sync().unwrap();
        (start, journal.reader().end().offset)
    };
    let whole = std::fs::read(segment(directory.path(), 1)).unwrap();
    for cut in start..end {
        for zeroed in [false, true] {
            let copied = copy(directory.path());
            let mut torn = whole[..cut as usize].to_vec();
            if zeroed {
                torn.resize(whole.len(), 0);
            }
            std::fs::write(segment(copied.path(), 1), &torn).unwrap();
            let journal = open(copied.path()).unwrap();
            assert!(records[..3].iter().all(|record| has(&journal, record)), "cut at {cut}");
            assert!(!has(&journal, &records[3]), "cut at {cut}");
            let after_mark = start + frame::MARK_SIZE as u64;
            let end = journal.reader().end().offset;
            // A mark ends in zeros, so that it may survive the loss of its last bytes.
            assert!(end == after_mark || end == start && cut < after_mark, "cut at {cut}: {end}");
            let mut log = writer(&journal);
            log.append(&[record(9, 11)]).unwrap();
            log.sync().unwrap();
            drop((log, journal));
            let journal = open(copied.path()).unwrap();
            assert_eq!(all(&journal).len(), 4, "cut at {cut}");
            assert!(has(&journal, &record(9, 11)), "cut at {cut}");
        }
    }
}

/// A frame of the same length in the place of a torn one must not bring the stale frame behind it back to life.
#[test]
fn frames_behind_a_torn_one_stay_dead() {
    let directory = tempfile::tempdir().unwrap();
    let torn_at = {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        log.append(&[record(1, 50)]).unwrap();
        log.sync().unwrap();
        drop(log);
        // A new writer's first group has no mark in front.
        let mut log = writer(&journal);
        let torn_at = journal.reader().end().offset;
        log.append(&[record(2, 50), record(3, 50)]).unwrap();
        log.sync().unwrap();
        torn_at
    };
    let mut bytes = std::fs::read(segment(directory.path(), 1)).unwrap();
    bytes[torn_at as usize + 45] ^= 1;
    std::fs::write(segment(directory.path(), 1), &bytes).unwrap();
    {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        log.append(&[record(4, 50)]).unwrap();
        log.sync().unwrap();
    }
    let journal = open(directory.path()).unwrap();
    let keys: Vec<Hash> = all(&journal).into_iter().map(|(_, key, _)| key).collect();
    assert_eq!(keys, vec![record(1, 50).key, record(4, 50).key]);
}

#[test]
fn a_flipped_bit_is_cut_as_a_torn_tail_only_where_no_later_group_proves_that_it_was_synced() {
    let directory = tempfile::tempdir().unwrap();
    let records: Vec<Record> = (0..6).map(|number| record(number, 30)).collect();
    let mut starts = Vec::new();
    let end = {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        for pair in records.chunks(2) {
            for record in pair {
                log.append(std::slice::from_ref(record)).unwrap();
                log.write().unwrap();
                starts.push(journal.reader().end().offset - (frame::OVERHEAD + record.body.len()) as u64);
            }
            log.sync().unwrap();
        }
        journal.reader().end().offset
    };
    let whole = std::fs::read(segment(directory.path(), 1)).unwrap();
    let last_group = starts[4] - frame::MARK_SIZE as u64;
    for at in starts[0]..end {
        let copied = copy(directory.path());
        let mut bytes = whole.clone();
        bytes[at as usize] ^= 1 << (at % 8);
        std::fs::write(segment(copied.path(), 1), &bytes).unwrap();
        let opened = open(copied.path());
        if at < last_group {
            let error = opened.err().unwrap();
            assert!(
                matches!(error, JournalError::Corrupt { offset, .. } if offset <= at),
                "bit flipped at {at}: {error}"
            );
            assert!(error.to_string().contains("no torn tail"), "{error}");
            assert_eq!(std::fs::read(segment(copied.path(), 1)).unwrap(), bytes, "nothing is cut");
            continue;
        }
        let intact = if at < starts[5] { 4 } else { 5 };
        let read: Vec<Hash> = all(&opened.unwrap()).into_iter().map(|(_, key, _)| key).collect();
        let wanted: Vec<Hash> = records[..intact].iter().map(|record| record.key).collect();
        assert_eq!(read, wanted, "bit flipped at {at}");
    }
}

/// A batch comes from anybody. One that holds what looks like a sync mark must not make a torn tail look like damage.
#[test]
fn a_forged_mark_in_a_body_proves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let torn_at = {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        let torn_at = journal.reader().end().offset;
        let mut body = vec![1; 100];
        frame::encode_mark(&Hash::ZERO, Cursor { segment: 1, offset: torn_at + 50 }, &mut body);
        log.append(&[Record::new(RecordKind::Batch, Hash([4; 32]), body.into())]).unwrap();
        log.write().unwrap();
        torn_at as usize
    };
    let mut bytes = std::fs::read(segment(directory.path(), 1)).unwrap();
    bytes[torn_at + 60] ^= 1;
    std::fs::write(segment(directory.path(), 1), &bytes).unwrap();
    let journal = open(directory.path()).unwrap();
    assert_eq!(all(&journal), vec![]);
    assert_eq!(journal.reader().end().offset, torn_at as u64);
}

#[test]
fn a_damaged_first_record_of_a_log_that_had_begun_is_an_error_and_a_torn_first_write_is_not() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let path = segment(directory.path(), 1);
    let fresh = std::fs::read(&path).unwrap();
    for cut in 0..100 {
        std::fs::write(&path, &fresh[..cut]).unwrap();
        drop(open(directory.path()).unwrap());
    }
    {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        log.append(&[record(1, 600)]).unwrap();
        log.sync().unwrap();
    }
    let mut bytes = std::fs::read(&path).unwrap();
    for damage in [0, 9, 50] {
        bytes[damage] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let error = open(directory.path()).err().unwrap();
        assert!(matches!(error, JournalError::Corrupt { offset: 0, .. }), "{error}");
        bytes[damage] ^= 1;
    }
}

#[test]
fn a_zeroed_frame_header_in_what_was_synced_is_damage_too() {
    let directory = tempfile::tempdir().unwrap();
    let start = {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        let start = journal.reader().end().offset;
        for number in 0..3 {
            log.append(&[record(number, 700)]).unwrap();
            log.sync().unwrap();
        }
        start as usize
    };
    let mut bytes = std::fs::read(segment(directory.path(), 1)).unwrap();
    bytes[start..start + 512].fill(0);
    std::fs::write(segment(directory.path(), 1), &bytes).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(&error, JournalError::Corrupt { offset, .. } if *offset == start as u64), "{error}");
}

#[test]
fn damage_in_a_sealed_segment_is_an_error_with_its_place_not_a_torn_tail() {
    let directory = tempfile::tempdir().unwrap();
    let records: Vec<Record> = (0..60).map(|number| record(number, 500)).collect();
    {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        log.append(&records).unwrap();
        log.sync().unwrap();
    }
    let path = segment(directory.path(), 1);
    let mut bytes = std::fs::read(&path).unwrap();
    assert!((bytes.len() as u64) < SEGMENT, "a sealed segment is cut to its records");
    bytes[2_000] ^= 4;
    std::fs::write(&path, &bytes).unwrap();

    // With its index the log opens, and the damaged record alone is refused.
    let journal = open(directory.path()).unwrap();
    let reads: Vec<_> = records.iter().map(|record| journal.reader().get(record.kind, &record.key)).collect();
    assert_eq!(reads.iter().filter(|read| read.is_err()).count(), 1);
    let error = reads.into_iter().find_map(Result::err).unwrap();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("000001.seg is corrupt at offset"), "{error}");
    assert!(journal.reader().verify().is_err());
    drop(journal);

    // Without its index every frame is looked at, and the start is refused.
    std::fs::remove_file(directory.path().join("journal/000001.idx")).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(&error, JournalError::Corrupt { path: at, .. } if *at == path), "{error}");

    // A segment that is missing altogether likewise.
    std::fs::remove_file(&path).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(error.to_string().contains("the segment is missing"), "{error}");
}

#[test]
fn a_missing_or_damaged_index_of_a_sealed_segment_is_made_again() {
    let directory = tempfile::tempdir().unwrap();
    let records: Vec<Record> = (0..80).map(|number| record(number, 500)).collect();
    {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        log.append(&records).unwrap();
        log.sync().unwrap();
    }
    let (first, second) = (directory.path().join("journal/000001.idx"), directory.path().join("journal/000002.idx"));
    let good = std::fs::read(&first).unwrap();
    std::fs::remove_file(&first).unwrap();
    std::fs::write(&second, b"AGJIDX01 and then nonsense").unwrap();
    let journal = open(directory.path()).unwrap();
    assert!(records.iter().all(|record| has(&journal, record)));
    assert_eq!(std::fs::read(&first).unwrap(), good);
}

/// Power is cut at random moments: what was not synced is on the disk in part, in any order of its sectors.
#[test]
fn no_synced_record_is_ever_lost_and_what_is_left_is_a_prefix() {
    let mut chance = Chance::printed("no_synced_record_is_ever_lost");
    for _ in 0..60 {
        let directory = tempfile::tempdir().unwrap();
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        let (mut appended, mut synced) = (Vec::new(), 0);
        let mut safe = journal.reader().end();
        for step in 0..1 + chance.below(60) {
            let size = chance.below(1_500) as usize;
            appended.push(record(step, size));
            log.append(&appended[appended.len() - 1..]).unwrap();
            match chance.below(4) {
                0 => {
                    log.sync().unwrap();
                    (synced, safe) = (appended.len(), journal.reader().end());
                }
                1 => log.write().unwrap(),
                _ => {}
            }
        }
        let end = journal.reader().end();
        let copied = copy(directory.path());
        cut_power(
            &mut chance,
            &segment(copied.path(), end.segment),
            if safe.segment == end.segment { safe.offset } else { 0 },
        );
        let after = open(copied.path()).unwrap();
        let left = all(&after);
        assert!(left.len() >= synced, "{} of {synced} synced records are left", left.len());
        for ((_, key, body), record) in left.iter().zip(&appended) {
            assert_eq!((key, body), (&record.key, &record.body));
        }
    }
}

/// Each sector beyond the synced offset is written or not.
fn cut_power(chance: &mut Chance, path: &Path, synced: u64) {
    let mut bytes = std::fs::read(path).unwrap();
    let mut at = synced as usize;
    while at < bytes.len() {
        let next = ((at / 512 + 1) * 512).min(bytes.len());
        if chance.below(3) == 0 {
            bytes[at..next].fill(0);
        }
        at = next;
    }
    if chance.below(4) == 0 {
        let length = synced + chance.below(bytes.len() as u64 - synced + 1);
        bytes.truncate(length as usize);
    }
    std::fs::write(path, &bytes).unwrap();
}

#[test]
fn random_bytes_in_the_last_segment_never_panic() {
    let mut chance = Chance::printed("random_bytes_in_the_last_segment");
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let good = std::fs::read(segment(directory.path(), 1)).unwrap();
    for _ in 0..200 {
        let mut bytes = good.clone();
        let from = 100 + chance.below(80) as usize;
        let noise_length = chance.below(400) as usize;
        let mut noise = chance.bytes(noise_length);
        if noise.len() > 4 && chance.below(2) == 0 {
            // A plausible length in front.
            noise[..4].copy_from_slice(&(33 + chance.below(300) as u32).to_le_bytes());
        }
        bytes.splice(from..from + noise.len(), noise);
        std::fs::write(segment(directory.path(), 1), &bytes).unwrap();
        match open(directory.path()) {
            Ok(journal) => drop(all(&journal)),
            Err(error) => {
                assert!(matches!(error, JournalError::NoOwner { .. } | JournalError::Corrupt { .. }), "{error}")
            }
        }
    }
}

#[test]
fn a_record_larger_than_a_segment_gets_one_of_its_own_and_one_beyond_the_bound_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let large = record(1, 3 * SEGMENT as usize);
    {
        let journal = open(directory.path()).unwrap();
        let mut log = writer(&journal);
        log.append(&[record(0, 10), large.clone(), record(2, 10)]).unwrap();
        let beyond = Record::new(RecordKind::Batch, Hash::ZERO, vec![0; (32 << 20) + 1].into());
        let error = log.append(&[record(3, 10), beyond]).unwrap_err();
        assert!(matches!(error, JournalError::TooLarge { .. }), "{error}");
        log.sync().unwrap();
        assert_eq!(journal.reader().end().segment, 3);
    }
    let journal = open(directory.path()).unwrap();
    assert!(has(&journal, &large));
    assert!(has(&journal, &record(2, 10)));
    assert!(!has(&journal, &record(3, 10)), "a refused group leaves nothing");
}

#[test]
fn a_directory_of_another_chain_node_or_key_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let others = [
        JournalIdentity::new(Hash([8; 32]), "v1", Some(b"consensus key")),
        JournalIdentity::new(Hash([7; 32]), "v2", Some(b"consensus key")),
        JournalIdentity::new(Hash([7; 32]), "v1", Some(b"another key")),
        JournalIdentity::new(Hash([7; 32]), "v1", None),
    ];
    for other in others {
        let error = Journal::open(directory.path(), &other, options(), Fatal::default()).err().unwrap();
        let text = error.to_string();
        assert!(matches!(error, JournalError::Foreign { .. }), "{text}");
        assert!(text.contains(&format!("belongs to {}; this is {other}", identity())), "{text}");
    }
    drop(open(directory.path()).unwrap());
}

#[test]
fn a_log_goes_on_under_another_validator_key_if_that_is_asked_for_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let open =
        |identity: &JournalIdentity, options| Journal::open(directory.path(), identity, options, Fatal::default());
    assert!(!open(&identity(), options()).unwrap().reader().is_under_another_key());
    let rotated = JournalOptions { rotated: true, ..options() };
    let new = JournalIdentity::new(Hash([7; 32]), "v1", Some(b"a new key"));
    assert!(open(&new, options()).is_err(), "not unasked");
    for _ in 0..2 {
        assert!(open(&new, rotated).unwrap().reader().is_under_another_key(), "whose it was first does not change");
    }
    assert!(!open(&identity(), rotated).unwrap().reader().is_under_another_key());
    for foreign in [
        JournalIdentity::new(Hash([8; 32]), "v1", Some(b"a new key")),
        JournalIdentity::new(Hash([7; 32]), "v2", Some(b"a new key")),
        JournalIdentity::new(Hash([7; 32]), "v1", None),
    ] {
        assert!(matches!(open(&foreign, rotated), Err(JournalError::Foreign { .. })), "{foreign}");
    }
}

#[test]
fn a_validators_empty_directory_needs_an_explicit_act_and_an_observers_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let careful = JournalOptions { initialise: false, ..options() };
    let open =
        |identity: &JournalIdentity, options| Journal::open(directory.path(), identity, options, Fatal::default());
    let error = open(&identity(), careful).err().unwrap();
    assert!(matches!(&error, JournalError::Uninitialised { node, .. } if node == "v1"), "{error}");
    drop(open(&identity(), options()).unwrap());
    drop(open(&identity(), careful).unwrap());

    let directory = tempfile::tempdir().unwrap();
    let observer = JournalIdentity::new(Hash([7; 32]), "o1", None);
    drop(Journal::open(directory.path(), &observer, careful, Fatal::default()).unwrap());
}

#[test]
fn a_directory_in_place_of_a_lost_one_says_so_at_every_start() {
    let directory = tempfile::tempdir().unwrap();
    let open = |options| Journal::open(directory.path(), &identity(), options, Fatal::default()).unwrap();
    let after_loss = JournalOptions { initialise: false, rejoin: true, ..options() };
    assert!(open(after_loss).reader().is_after_loss());
    assert!(open(JournalOptions { rejoin: false, ..after_loss }).reader().is_after_loss());

    let directory = tempfile::tempdir().unwrap();
    let open = |options| Journal::open(directory.path(), &identity(), options, Fatal::default()).unwrap();
    assert!(!open(options()).reader().is_after_loss());
    assert!(!open(after_loss).reader().is_after_loss(), "a directory that is known stays what it is");
}

#[test]
fn records_without_an_owner_are_refused_also_when_initialising() {
    let directory = tempfile::tempdir().unwrap();
    drop(open(directory.path()).unwrap());
    let mut foreign = Vec::new();
    frame::encode(&record(1, 10), &mut foreign);
    std::fs::write(segment(directory.path(), 1), &foreign).unwrap();
    let error = open(directory.path()).err().unwrap();
    assert!(matches!(error, JournalError::NoOwner { .. }), "{error}");
}

const CHILD: &str = "AURIGRAPH_TEST_JOURNAL_DIRECTORY";

#[test]
fn a_second_process_is_refused_and_told_who_holds_the_directory() {
    if let Ok(directory) = std::env::var(CHILD) {
        let error = open(Path::new(&directory)).err().unwrap();
        println!("refused: {error}");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let held = open(directory.path()).unwrap();
    let name = "a_second_process_is_refused_and_told_who_holds_the_directory";
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--nocapture"])
        .env(CHILD, directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(said.contains(&format!("is used by process {}", std::process::id())), "{said}");
    drop(held);
    drop(open(directory.path()).unwrap());
}

#[test]
fn a_failed_write_is_final_raises_the_alarm_and_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let fatal = Fatal::default();
    let journal = Journal::open(directory.path(), &identity(), options(), fatal.clone()).unwrap();
    let mut log = writer(&journal);
    log.append(&[record(1, 100)]).unwrap();
    log.sync().unwrap();
    // Where the next segment should be stands something that is no file.
    std::fs::create_dir(segment(directory.path(), 2)).unwrap();
    let records: Vec<Record> = (2..40).map(|number| record(number, 500)).collect();
    let error = log.append(&records).unwrap_err();
    assert!(error.to_string().contains("000002.seg"), "{error}");
    assert!(fatal.reason().unwrap().contains("000002.seg"));
    drop(log);
    let refused = Writer::open(Arc::clone(&journal.0)).err().unwrap();
    assert!(matches!(refused, JournalError::Poisoned(_)), "{refused}");
    assert!(has(&journal, &record(1, 100)), "readers go on");
}

#[test]
fn a_new_writer_in_the_same_process_goes_on_behind_everything_that_was_written() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut expected = BTreeMap::new();
    for incarnation in 0..30 {
        let mut log = writer(&journal);
        let (written, dropped) = (record(2 * incarnation, 900), record(2 * incarnation + 1, 900));
        log.append(std::slice::from_ref(&written)).unwrap();
        log.write().unwrap();
        log.append(&[dropped]).unwrap();
        expected.insert(written.key, written);
    }
    let _log = writer(&journal);
    assert_eq!(all(&journal).len(), expected.len());
    assert!(expected.values().all(|record| has(&journal, record)));
}

/// A restart of the actor must not cost what a start of the process costs. The flipped bit would be found by a scan.
#[test]
fn a_new_writer_in_the_same_process_reads_nothing_again_and_cuts_what_was_never_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut first = writer(&journal);
    let records: Vec<Record> = (0..6).map(|number| record(number, 200)).collect();
    first.append(&records[..4]).unwrap();
    first.sync().unwrap();
    drop(first);
    let (end, path) = (journal.reader().end(), segment(directory.path(), 1));
    let early = journal.reader().position(records[1].kind, &records[1].key).unwrap();
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let flip = |at| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    flip(early.offset + 60);
    file.write_all_at(b"half a frame", end.offset).unwrap();

    let mut second = writer(&journal);
    assert_eq!(journal.reader().end(), end);
    let mut behind = [1; 12];
    file.read_exact_at(&mut behind, end.offset).unwrap();
    assert_eq!(behind, [0; 12]);
    second.append(&records[4..]).unwrap();
    second.sync().unwrap();
    flip(early.offset + 60);
    assert!(records.iter().all(|record| has(&journal, record)));
    drop((second, journal));
    let journal = open(directory.path()).unwrap();
    assert!(records.iter().all(|record| has(&journal, record)));
    assert_eq!(journal.reader().verify().unwrap(), 1 + 6);
}

#[test]
fn heads_are_read_in_log_order_with_the_lengths_of_their_bodies() {
    let directory = tempfile::tempdir().unwrap();
    let journal = open(directory.path()).unwrap();
    let mut writer = writer(&journal);
    // Across sealed segments and the last one; one body is shorter than the head that is asked for.
    let records: Vec<Record> = (0..40).map(|number| record(number, if number == 7 { 0 } else { 1_000 })).collect();
    writer.append(&records).unwrap();
    writer.sync().unwrap();
    assert!(journal.reader().end().segment > 2);
    let from = journal.reader().position(records[3].kind, &records[3].key).unwrap();
    let mut found = Vec::new();
    let end = journal.reader().replay_heads(from, RecordKind::Block, 16, |key, head, length| {
        found.push((key, head.to_vec(), length));
        ControlFlow::Continue(())
    });
    assert_eq!(end.unwrap(), journal.reader().end());
    let head = |body: &Bytes| body[..body.len().min(16)].to_vec();
    let expected: Vec<_> =
        records[3..].iter().map(|record| (record.key, head(&record.body), record.body.len())).collect();
    assert_eq!(found, expected);
}
