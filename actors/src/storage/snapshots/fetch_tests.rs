//! Taking a snapshot from peers that lie, fail or are slow.

use super::*;
use crate::storage::snapshots::sync_testing::{content, manifest};

/// What a chunk brings, with the place of its bytes.
fn take(fetch: &mut Fetch, peer: &str, number: usize, bytes: Option<&[u8]>) -> Progress {
    let got = fetch
        .expects(peer, number)
        .map_or(Got::Nothing, |place| bytes.map_or(Got::Nothing, |bytes| place.put(bytes).unwrap()));
    fetch.settle(peer, number, got)
}

#[test]
fn a_wrong_chunk_ends_its_peers_part_and_comes_from_another() {
    let directory = tempfile::tempdir().unwrap();
    let chunks = content();
    let holders = vec!["liar".to_owned(), "honest".to_owned()];
    let mut fetch = Fetch::begin(directory.path(), manifest(7, &chunks), holders).unwrap();
    let now = Instant::now();
    let mut asked = fetch.due(now);
    assert_eq!(asked.len(), 2 * bounds::ASKED_AT_ONCE);
    assert!(fetch.due(now).is_empty(), "no more at a time");
    let other = asked.iter().find(|(peer, _)| peer == "honest").unwrap().1;
    assert!(fetch.expects("liar", other).is_none(), "it was not asked for that");
    assert_eq!(take(&mut fetch, "liar", other, Some(&[9; 100])), Progress::More);
    let mut ended = false;
    while !ended {
        let (peer, number) = asked.remove(0);
        let wrong = vec![0xff; 100];
        let bytes = if peer == "liar" { &wrong } else { &chunks[number] };
        ended = take(&mut fetch, &peer, number, Some(bytes)) == Progress::All;
        asked.extend(fetch.due(now));
        asked.retain(|(peer, number)| fetch.expects(peer, *number).is_some());
    }
    assert_eq!((fetch.holders(), fetch.taken), (vec!["honest".to_owned()], chunks.len()));
    let written = std::fs::read(fetch.folder.join("chunks")).unwrap();
    assert_eq!(written, chunks.concat());
    assert_eq!(fetch.bytes, fetch.manifest.content_bytes());
}

#[test]
fn a_peer_that_gives_nothing_is_asked_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let peers = || vec!["silent".to_owned(), "empty".to_owned()];
    let mut fetch = Fetch::begin(directory.path(), manifest(7, &content()), peers()).unwrap();
    let began = Instant::now();
    let asked = fetch.due(began);
    fetch.expire(began);
    assert_eq!(fetch.holders(), peers());
    for (peer, number) in asked.into_iter().filter(|(peer, _)| peer == "empty") {
        take(&mut fetch, &peer, number, None);
    }
    assert_eq!(fetch.holders(), ["silent"], "it has nothing to give");
    fetch.expire(began + bounds::CHUNK_WITHIN);
    assert!(fetch.holders().is_empty() && fetch.due(began).is_empty());
}

#[test]
fn what_was_taken_whole_and_proves_nothing_is_removed_and_not_begun_with() {
    let directory = tempfile::tempdir().unwrap();
    let chunks = content();
    let mut fetch = Fetch::begin(directory.path(), manifest(7, &chunks), vec!["liar".to_owned()]).unwrap();
    let now = Instant::now();
    let mut progress = Progress::More;
    while progress == Progress::More {
        for (peer, number) in fetch.due(now) {
            progress = take(&mut fetch, &peer, number, Some(&chunks[number]));
        }
    }
    let genesis = super::super::tests::genesis();
    assert!(matches!(fetch.finish(directory.path(), &genesis), Err(Unfinished::False(_))));
    assert_eq!(files::list(directory.path()).unwrap(), []);
    assert_eq!(install::requested(directory.path()).unwrap(), None);
}
