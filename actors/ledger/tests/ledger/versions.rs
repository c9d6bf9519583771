//! What protocol versions change (block.rs, `PROTOCOL_VERSION`).

use aurigraph_ledger::types::Amount;
use aurigraph_ledger::{AccountIndex, FailureCode, LedgerError, OperationFailure, PROTOCOL_VERSION, Target};

use crate::world::{START_BALANCE, World, address, sign};

/// What an atomic or plain transaction of the first account comes to: its failures, whether it was undone, what the second
/// account has gained, and whether the first has lost that and the fee alone.
fn outcome(version: u16, atomic: bool, transfers: &[(Target, Amount)]) -> (Vec<OperationFailure>, bool, Amount, bool) {
    let mut world = World::new();
    world.version = version;
    let mut builder = world.builder(0, 0).atomic(atomic);
    for (to, amount) in transfers {
        builder = builder.transfer(*to, *amount);
    }
    let block = world.commit(vec![sign(&builder, 0).into()]);
    let receipt = &block.transactions[0].receipt;
    let view = world.ledger.snapshot();
    let balance = |index| view.account(AccountIndex(index)).map_or(0, |account| account.balance);
    let gained = balance(1) - START_BALANCE;
    let exact = balance(0) == START_BALANCE - receipt.fee - gained;
    (receipt.failures.clone(), receipt.undone, gained, exact)
}

#[test]
fn a_transfer_to_oneself_moves_nothing_and_fails_in_the_first_version_alone() {
    let other = (Target::Index(AccountIndex(1)), 5);
    for own in [Target::Index(AccountIndex(0)), Target::Address(address(0))] {
        let failed = |code| vec![OperationFailure { position: 0, code }];
        let transfers = [(own, 7), other];
        assert_eq!(outcome(1, false, &transfers), (failed(FailureCode::SelfTransfer), false, 5, true));
        assert_eq!(outcome(1, true, &transfers), (failed(FailureCode::SelfTransfer), true, 0, true));
        assert_eq!(outcome(2, false, &transfers), (Vec::new(), false, 5, true));
        assert_eq!(outcome(2, true, &transfers), (Vec::new(), false, 5, true));
        let too_much = [(own, START_BALANCE), other];
        assert_eq!(outcome(2, false, &too_much), (failed(FailureCode::InsufficientBalance), false, 5, true));
        let nothing = [(own, 0), other];
        assert_eq!(outcome(2, false, &nothing), (failed(FailureCode::ZeroAmount), false, 5, true));
    }
}

#[test]
fn a_version_that_this_program_does_not_know_is_never_executed() {
    let mut world = World::new();
    let root = world.ledger.compute_state_root();
    for version in [0, PROTOCOL_VERSION + 1] {
        world.version = version;
        let input = world.input(Vec::new());
        let refused = world.ledger.execute(input, &world.verifier).unwrap_err();
        assert_eq!(refused, LedgerError::Version { commit_index: 1, found: version });
    }
    assert_eq!((world.ledger.commit_index(), world.ledger.compute_state_root()), (0, root));
}
