//! From views to stored pages and back: what is written, what is refused, and that execution goes on the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_ledger::types::AUR;
use aurigraph_ledger::{AccountIndex, ImportError, Ledger, PageKey, PlainHasher, StateView, StoredPage, Target};

use proptest::prelude::*;
use proptest::sample::Index;

use crate::world::{World, address, check, genesis, key, sign};

/// Accounts on several pages and groups, keys on several pages, open nonces, counted invalid signatures.
fn grown() -> World {
    let mut world = World::new();
    for nonce in 0..3 {
        let mut builder = world.builder(0, nonce * 2);
        for n in 0..1_000 {
            let to = 100 + u32::try_from(nonce).expect("small") * 1_000 + n;
            builder.push_transfer(Target::Address(address(to)), AUR / 1_000);
        }
        let tx = sign(&builder, 0).into();
        world.commit(vec![tx]);
    }
    let registrations: Vec<_> = (100..140)
        .map(|n| sign(&world.builder_with_key(n, 0).transfer(Target::Index(AccountIndex(1)), 1), n).into())
        .collect();
    world.commit(registrations);
    let bad = crate::world::corrupt(&sign(&world.builder(1, 0).transfer(Target::Index(AccountIndex(2)), 1), 1));
    world.commit(vec![bad.into()]);
    checkpoint(&mut world, 6);
    world
}

/// Moves a little, a second later.
fn checkpoint(world: &mut World, nonce: u64) -> StateView {
    world.now += 1_000;
    let tx = sign(&world.builder(0, nonce).transfer(Target::Index(AccountIndex(1)), 1), 0).into();
    assert_eq!(world.commit(vec![tx]).transactions.len(), 1);
    let view = world.ledger.snapshot();
    assert!(view.is_checkpoint());
    view
}

fn import(pages: Vec<StoredPage>) -> Result<Ledger, ImportError> {
    Ledger::import(&genesis(), Arc::new(PlainHasher), pages)
}

#[test]
fn an_imported_ledger_is_the_exported_one_and_goes_on_the_same() {
    let mut world = grown();
    let view = world.ledger.snapshot();
    let pages = view.export_pages(None).expect("a checkpoint");
    assert!(pages.iter().all(|page| page.bytes.len() <= 48 * 1024));
    let mut imported = import(pages).expect("the pages are whole");
    assert_eq!((imported.header(), imported.checkpoint()), (world.ledger.header(), world.ledger.checkpoint()));
    let again = imported.snapshot();
    assert!(again.is_checkpoint());
    assert_eq!((again.fee_pool(), again.invalid_signatures()), (view.fee_pool(), view.invalid_signatures()));
    for index in (0..view.account_count()).map(AccountIndex) {
        let account = view.account(index).expect("the account exists");
        assert_eq!(again.account(index), Some(account));
        assert_eq!(again.find(&account.address), Some(index));
        assert_eq!(again.public_key(index), view.public_key(index));
    }
    assert_eq!(again.public_key(again.find(&address(139)).expect("known")).as_deref(), Some(key(139).as_slice()));
    goes_on_the_same(&mut world, imported);
}

fn goes_on_the_same(world: &mut World, mut imported: Ledger) {
    for nonce in [1, 3, 3, 9] {
        let tx = sign(&world.builder(0, nonce).transfer(Target::Address(address(7_000)), 5), 0).into();
        let batch = world.batch(1, vec![tx]);
        world.now += 400;
        let input = world.input(vec![batch.clone(), batch]);
        let expected = world.ledger.execute(input.clone(), &world.verifier).expect("the next commit");
        let found = imported.execute(input, &world.verifier).expect("the next commit");
        assert_eq!(found.block.map(|block| block.header), expected.block.map(|block| block.header));
        assert_eq!(found.checkpoint, expected.checkpoint);
    }
    assert_eq!(imported.compute_state_root(), world.root());
}

#[test]
fn only_groups_with_changed_pages_are_written_and_they_complete_the_old_ones() {
    let mut world = grown();
    let first = world.ledger.snapshot();
    let all = first.export_pages(None).expect("a checkpoint");
    let second = checkpoint(&mut world, 8);
    let changed = second.export_pages(Some(&first)).expect("a checkpoint");
    let columns: Vec<u8> = changed.iter().map(|page| page.key.column).collect();
    assert_eq!(columns, [0, 1, 2, 3], "head, system, one group of balances, one of nonces: {columns:?}");
    assert!(changed.len() < all.len());
    let mut stored: BTreeMap<PageKey, StoredPage> = all.into_iter().map(|page| (page.key, page)).collect();
    stored.extend(changed.into_iter().map(|page| (page.key, page)));
    let mut imported = import(stored.into_values().collect()).expect("old and new pages fit");
    assert_eq!(imported.snapshot().checkpoint(), second.checkpoint());
    let nothing = second.export_pages(Some(&second)).expect("a checkpoint");
    assert_eq!(nothing.len(), 2, "head and system are always written");
}

#[test]
fn pages_that_are_missing_changed_or_of_another_chain_are_refused() {
    let mut world = grown();
    let view = world.ledger.snapshot();
    let pages = view.export_pages(None).expect("a checkpoint");
    for (at, page) in pages.iter().enumerate() {
        let mut fewer = pages.clone();
        fewer.remove(at);
        let error = import(fewer).expect_err("a page is missing");
        assert!(matches!(error, ImportError::Missing { key } if key == page.key), "{error}");
        let mut changed = pages.clone();
        let middle = changed[at].bytes.len() / 2;
        changed[at].bytes[middle] ^= 1;
        let error = import(changed).expect_err("a byte is changed");
        println!("{:?}: {error}", page.key);
    }
    let balances = pages.iter().position(|page| page.key.column == 2).expect("there are balances");
    let mut richer = pages.clone();
    richer[balances].bytes[9] ^= 1;
    assert!(matches!(import(richer), Err(ImportError::StateRoot { .. })));
    let mut other = genesis();
    other.network = "other".into();
    let error = Ledger::import(&other, Arc::new(PlainHasher), pages.clone()).expect_err("another chain");
    assert!(matches!(error, ImportError::Chain { .. }));
    assert!(matches!(import(Vec::new()), Err(ImportError::Missing { .. })));
}

#[test]
fn any_changed_or_cut_page_is_refused_without_a_panic() {
    let pages = grown().ledger.snapshot().export_pages(None).expect("a checkpoint");
    check(150, (any::<Index>(), any::<Index>(), 1..=255_u8, any::<bool>()), |(page, at, flip, cut)| {
        let mut changed = pages.clone();
        let bytes = &mut page.get_mut(&mut changed).bytes;
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if cut {
            bytes.truncate(at);
        }
        prop_assert!(import(changed).is_err());
        Ok(())
    });
}

#[test]
fn a_value_longer_than_a_part_is_split_and_leftovers_are_ignored() {
    let mut world = World::new();
    // One open nonce for each of 300 accounts: their sets are longer than a part.
    let mut builder = world.builder(0, 0);
    for n in 0..500 {
        builder.push_transfer(Target::Address(address(100 + n)), AUR / 100);
    }
    let tx = sign(&builder, 0).into();
    world.commit(vec![tx]);
    let gaps: Vec<_> = (100..600)
        .map(|n| sign(&world.builder_with_key(n, 1).transfer(Target::Index(AccountIndex(1)), 1), n).into())
        .collect();
    world.commit(gaps);
    let view = checkpoint(&mut world, 1);
    let pages = view.export_pages(None).expect("a checkpoint");
    let parts = pages.iter().filter(|page| page.key.column == 3).count();
    assert_eq!(parts, 2);
    import(pages.clone()).expect("parts are put together");
    let fills: Vec<_> = (100..600)
        .map(|n| sign(&world.builder_with_key(n, 0).transfer(Target::Index(AccountIndex(1)), 1), n).into())
        .collect();
    world.commit(fills);
    let later = checkpoint(&mut world, 2);
    let mut stored: BTreeMap<PageKey, StoredPage> = pages.into_iter().map(|page| (page.key, page)).collect();
    stored.extend(later.export_pages(Some(&view)).expect("a checkpoint").into_iter().map(|page| (page.key, page)));
    let leftover = PageKey { column: 3, group: 0, part: 1 };
    assert!(stored.contains_key(&leftover), "the shorter group leaves a part behind");
    import(stored.into_values().collect()).expect("leftovers do no harm");
}

#[test]
fn page_keys_sort_as_their_bytes_do() {
    let keys = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 256, 0), (1, 0, 0), (2, 65_536, 3)];
    let keys = keys.map(|(column, group, part)| PageKey { column, group, part });
    assert!(keys.is_sorted() && keys.map(PageKey::to_bytes).is_sorted());
    assert!(keys.iter().all(|key| PageKey::from_bytes(key.to_bytes()) == *key));
}
