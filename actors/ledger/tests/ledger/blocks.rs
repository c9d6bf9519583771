//! Which commits become blocks, how headers and checkpoints chain, and what a ledger refuses to execute.

use aurigraph_ledger::{
    AccountIndex, Checkpoint, Fault, FaultKind, Genesis, GenesisError, Hash, Ledger, LedgerError, PlainHasher,
    PublicKey, Target,
};

use crate::world::{ACCOUNTS, GENESIS_MS, World, genesis, key, sign};

fn transfer(world: &World, nonce: u64) -> aurigraph_ledger::PreparedTransaction {
    sign(&world.builder(0, nonce).transfer(Target::Index(AccountIndex(1)), 1), 0).into()
}

#[test]
fn genesis_is_height_zero_and_checkpoint_zero() {
    let mut world = World::new();
    let (header, checkpoint) = (*world.ledger.header(), *world.ledger.checkpoint());
    assert_eq!((header.height, header.parent, header.commit_digest), (0, Hash::ZERO, genesis().chain_id()));
    assert_eq!((checkpoint.seq, checkpoint.ledger_header_digest), (0, header.hash()));
    assert_eq!((header.state_root, checkpoint.state_root), (world.root(), world.root()));
    assert!(world.ledger.snapshot().is_checkpoint());
    assert_eq!(world.ledger.snapshot().account_count(), ACCOUNTS);
}

#[test]
fn a_commit_without_transactions_is_a_block_only_when_the_heartbeat_is_due() {
    let mut world = World::new();
    for ms in [100, 9_899] {
        world.now = GENESIS_MS + ms;
        assert!(world.commit_batches(Vec::new()).block.is_none(), "{ms} ms");
    }
    world.now = GENESIS_MS + 9_900;
    let beat = world.commit_batches(Vec::new()).block.expect("exactly 10 s have passed");
    assert_eq!((beat.header.height, beat.header.commit_index, beat.header.transactions), (1, 3, 0));
    assert!(world.commit_batches(Vec::new()).block.is_none());
    let excluded = sign(&world.builder(9, 0).transfer(Target::Index(AccountIndex(1)), 1), 0);
    assert_eq!(world.commit(vec![excluded.into()]).header.height, 2, "excluded transactions are content");
}

#[test]
fn a_commit_with_a_fault_is_a_block() {
    let mut world = World::new();
    let fault = Fault { validator: 1, epoch: 0, kind: FaultKind::Equivocation, reporter: 2, digest: Hash([7; 32]) };
    let mut input = world.input(Vec::new());
    input.faults = vec![fault];
    let block = world.ledger.execute(input, &world.verifier).expect("the commit is the next one").block;
    assert_eq!(block.map(|block| (block.header.height, block.header.transactions)), Some((1, 0)));
    for stranger in [Fault { validator: 4, ..fault }, Fault { reporter: 4, ..fault }] {
        let mut input = world.input(Vec::new());
        input.faults = vec![stranger];
        let error = world.ledger.execute(input, &world.verifier).expect_err("there are four validators");
        assert_eq!(error, LedgerError::UnknownValidator { commit_index: 2, index: 4, count: 4 });
    }
}

#[test]
fn headers_chain_and_carry_the_root_of_the_newest_earlier_checkpoint() {
    let mut world = World::new();
    let mut parent = world.ledger.header_hash();
    let mut earlier = *world.ledger.checkpoint();
    let mut taken = 0;
    for nonce in 0..35 {
        let tx = transfer(&world, nonce);
        let batch = world.batch(0, vec![tx]);
        let outcome = world.commit_batches(vec![batch]);
        let block = outcome.block.expect("the commit has content");
        assert_eq!((block.header.parent, block.header.height), (parent, nonce + 1));
        assert_eq!((block.header.state_root, block.header.checkpoint_seq), (earlier.state_root, earlier.seq));
        assert_eq!(block.hash, block.header.hash());
        parent = block.hash;
        if let Some(checkpoint) = outcome.checkpoint {
            assert_follows(&earlier, &checkpoint, block.header.timestamp_ms);
            assert_eq!((checkpoint.ledger_height, checkpoint.ledger_header_digest), (nonce + 1, block.hash));
            assert_eq!(checkpoint.state_root, world.root());
            assert!(world.ledger.snapshot().is_checkpoint());
            earlier = checkpoint;
            taken += 1;
        } else {
            assert!(!world.ledger.snapshot().is_checkpoint());
        }
    }
    assert_eq!(taken, 3, "35 commits of 100 ms");
}

fn assert_follows(earlier: &Checkpoint, checkpoint: &Checkpoint, timestamp_ms: u64) {
    assert_eq!((checkpoint.seq, checkpoint.prev_digest), (earlier.seq + 1, earlier.digest()));
    assert_eq!(timestamp_ms - GENESIS_MS, checkpoint.seq * 1_000);
    assert_eq!(
        checkpoint.consensus_state_digest,
        aurigraph_ledger::h("test-consensus", &checkpoint.commit_index.to_le_bytes())
    );
    assert_eq!(checkpoint.chain_id, genesis().chain_id());
}

#[test]
fn commits_stamped_before_the_genesis_time_are_executed() {
    let mut world = World::new();
    world.now = GENESIS_MS - 5_000;
    let tx = vec![transfer(&world, 0)];
    let batch = world.batch(0, tx);
    let outcome = world.commit_batches(vec![batch]);
    assert_eq!(outcome.block.map(|block| block.header.timestamp_ms), Some(GENESIS_MS - 4_900));
    assert!(outcome.checkpoint.is_none());
}

#[test]
fn no_checkpoint_is_taken_without_a_new_block() {
    let mut world = World::new();
    world.now += 5_000;
    let outcome = world.commit_batches(Vec::new());
    assert!(outcome.block.is_none() && outcome.checkpoint.is_none());
    let batch = vec![transfer(&world, 0)];
    let batch = world.batch(0, batch);
    assert!(world.commit_batches(vec![batch]).checkpoint.is_some());
}

#[test]
fn a_commit_out_of_order_is_refused_and_changes_nothing() {
    let mut world = World::new();
    world.commit_batches(Vec::new());
    let root = world.root();
    let mut late = world.input(Vec::new());
    late.commit_index += 1;
    let mut early = world.input(Vec::new());
    early.commit_index -= 1;
    for (input, found) in [(late, 3), (early, 1)] {
        let error = world.ledger.execute(input, &world.verifier).expect_err("the commit is not the next");
        assert_eq!(error, LedgerError::CommitOrder { expected: 2, found });
    }
    let mut past = world.input(Vec::new());
    past.timestamp_ms -= 1;
    let error = world.ledger.execute(past, &world.verifier).expect_err("time ran backwards");
    assert!(matches!(error, LedgerError::TimeRanBackwards { commit_index: 2, .. }));
    let mut stranger = world.input(Vec::new());
    stranger.leader = 4;
    let error = world.ledger.execute(stranger, &world.verifier).expect_err("there are four validators");
    assert_eq!(error, LedgerError::UnknownValidator { commit_index: 2, index: 4, count: 4 });
    assert_eq!((world.root(), world.ledger.commit_index()), (root, 1));
}

#[test]
fn a_delivered_batch_is_remembered_for_twice_the_depth_in_rounds() {
    let mut world = World::new();
    let tx = vec![transfer(&world, 0)];
    let batch = world.batch(0, tx);
    let mut deliver = |round| {
        let mut input = world.input(vec![batch.clone()]);
        input.round = round;
        world.ledger.execute(input, &world.verifier).expect("the next commit").block.is_some()
    };
    assert!(deliver(10));
    assert!(!deliver(10 + 2 * genesis().parameters.gc_depth));
    assert!(deliver(11 + 2 * genesis().parameters.gc_depth));
}

#[test]
fn a_new_epoch_forgets_delivered_batches() {
    let mut world = World::new();
    let tx = vec![transfer(&world, 0)];
    let batch = world.batch(0, tx);
    assert!(world.commit_batches(vec![batch.clone()]).block.is_some());
    assert!(world.commit_batches(vec![batch.clone()]).block.is_none());
    crate::epochs::end(&mut world, &[]);
    let input = world.input(vec![batch]);
    let block = world.ledger.execute(input, &world.verifier).expect("the next commit").block;
    assert_eq!(block.expect("the batch counts again").exclusions.len(), 1);
}

#[test]
fn a_genesis_that_breaks_a_rule_starts_nothing() {
    let start = |change: fn(&mut Genesis)| {
        let mut genesis = genesis();
        change(&mut genesis);
        Ledger::from_genesis(&genesis, std::sync::Arc::new(PlainHasher)).map(|_| ())
    };
    assert_eq!(start(|_| {}), Ok(()));
    let out_of_range: [fn(&mut Genesis); 7] = [
        |genesis| genesis.network.clear(),
        |genesis| genesis.validators.clear(),
        |genesis| genesis.validators[0].stake = 0,
        |genesis| genesis.validators[0].consensus_key = PublicKey::new(vec![1; 5]),
        |genesis| genesis.fees.per_byte = u128::MAX,
        |genesis| genesis.parameters.gc_depth = 0,
        |genesis| genesis.parameters.max_batch_bytes = 1_000,
    ];
    for (at, change) in out_of_range.into_iter().enumerate() {
        assert!(matches!(start(change), Err(GenesisError::OutOfRange { .. })), "case {at}");
    }
    let duplicate = |what| Err(GenesisError::DuplicateValidator { name: "v2".into(), what });
    assert_eq!(
        start(|g| g.validators[1].consensus_key = g.validators[0].consensus_key.clone()),
        duplicate("consensus key")
    );
    assert_eq!(start(|g| g.validators[1].network_key = g.validators[0].network_key.clone()), duplicate("network key"));
    assert!(matches!(start(|g| g.validators[1].name = "v1".into()), Err(GenesisError::DuplicateValidator { .. })));
    assert!(matches!(start(|g| g.accounts[1].address = g.accounts[0].address), Err(GenesisError::DuplicateAccount(_))));
    assert!(matches!(
        start(|g| g.accounts[5].public_key = Some(PublicKey::new(key(0)))),
        Err(GenesisError::ForeignKey { .. })
    ));
    assert_eq!(start(|g| g.accounts[0].balance = u128::MAX), Err(GenesisError::SupplyOverflow));
    let stake = |g: &mut Genesis| g.validators.iter_mut().for_each(|v| v.stake = (1 << 58) + 1);
    assert_eq!(start(stake), Err(GenesisError::StakeOverflow));
}
