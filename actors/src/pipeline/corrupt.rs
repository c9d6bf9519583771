//! A wrong executor on purpose: it loses the first transaction of each batch once the chain is so high. For the test that
//! such a node notices and stops. A release has no such code: it is compiled with debug assertions alone.

use aurigraph_ledger::CommitInput;

/// Names the height from which on execution is wrong; right without it.
const FROM_HEIGHT: &str = "AURIGRAPH_CORRUPT_EXECUTOR";

/// The commit as the wrong executor sees it.
pub(super) fn corrupted(mut input: CommitInput, height: u64) -> CommitInput {
    let from = std::env::var(FROM_HEIGHT).ok().and_then(|text| text.parse::<u64>().ok());
    if from.is_some_and(|from| height >= from) {
        for batch in input.batches.iter_mut().filter(|batch| !batch.transactions.is_empty()) {
            batch.transactions.remove(0);
        }
    }
    input
}
