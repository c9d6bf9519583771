//! Peers that offer snapshots, and ask for them: the pure part.

use super::*;
use crate::storage::snapshots::sync_testing::{content, manifest};

#[test]
fn the_newest_content_that_a_correct_validator_has_is_taken_from_all_who_have_it() {
    let offer = |height, chunks: &[Vec<u8>]| Box::new(manifest(height, chunks));
    let (chunks, mut others) = (content(), content());
    others.pop();
    let offers = || {
        let offers =
            [("a", offer(7, &chunks)), ("b", offer(9, &chunks)), ("c", offer(9, &chunks)), ("d", offer(11, &others))];
        offers.into_iter().map(|(name, it)| (name.to_owned(), it)).collect::<BTreeMap<_, _>>()
    };
    // One alone may be a liar with an endless list of chunks.
    let (chosen, holders) = best(offers(), |holders| holders.len() > 1).unwrap();
    assert_eq!((chosen, holders), (manifest(9, &chunks), vec!["b".to_owned(), "c".to_owned()]));
    let (chosen, _) = best(offers(), |_| false).unwrap();
    assert_eq!(chosen.height, 11);
    assert_eq!(best(BTreeMap::new(), |_| true), None);
}

#[test]
fn a_manifest_that_no_quorum_has_signed_or_that_is_endless_is_refused() {
    let genesis = super::super::tests::genesis();
    let forged = manifest(7, &content());
    assert!(proven(&forged.encode(), &genesis).unwrap_err().contains("its checkpoint"));
    assert!(proven(&forged.encode()[..40], &genesis).unwrap_err().contains("its manifest"));
    let mut endless = forged.encode();
    let at = endless.len() - 10 * 36 - 1;
    // The count of chunks.
    endless[at] = 0x7f;
    assert!(proven(&endless, &genesis).is_err());
    let mut long = forged;
    long.chunks[0].len = u32::MAX;
    assert!(proven(&long.encode(), &genesis).unwrap_err().contains("bytes of a chunk"));
}

#[test]
fn a_manifest_is_put_together_of_its_pieces_and_of_nothing_else() {
    let bytes: Vec<u8> = (0..2 * bounds::CHUNK + 9).map(|at| u8::try_from(at % 251).unwrap()).collect();
    let digest = h("snapshot", &bytes);
    let part = |number| ManifestPart::of(digest, &bytes, number).unwrap();
    let Ok(Joined::More(first)) = joined(None, part(0)) else { panic!("more is to come") };
    assert!(joined(None, part(1)).is_err(), "it does not begin there");
    assert!(joined(Some(first.clone()), part(2)).is_err(), "a piece is missing");
    let stranger = ManifestPart { digest: Hash([1; 32]), ..part(1) };
    assert!(joined(Some(first.clone()), stranger).is_err(), "of another manifest");
    let short = ManifestPart { bytes: vec![1], ..part(1) };
    assert!(joined(Some(first.clone()), short).is_err(), "only the last is short");
    let Ok(Joined::More(second)) = joined(Some(first), part(1)) else { panic!("more is to come") };
    let spoilt = ManifestPart { bytes: vec![0; 9], ..part(2) };
    assert!(joined(Some(second.clone()), spoilt).is_err(), "not what its digest says");
    assert_eq!(joined(Some(second), part(2)), Ok(Joined::Whole(bytes)));
    let endless = ManifestPart { digest, total: u32::MAX, part: 0, bytes: vec![0; bounds::CHUNK] };
    assert!(joined(None, endless).is_err(), "longer than a manifest can be");
}

#[test]
fn a_peer_that_asks_too_often_is_not_answered() {
    let (mut served, now) = (HashMap::new(), Instant::now());
    let answered = (0..1_000).filter(|_| may_ask(&mut served, "greedy", now)).count();
    assert_eq!(answered, bounds::SERVED_PER_SECOND as usize);
    assert!(may_ask(&mut served, "other", now));
    assert!(may_ask(&mut served, "greedy", now + std::time::Duration::from_secs(1)));
}
