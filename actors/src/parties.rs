//! Who takes part in a transaction, as the store's index of addresses names it, and where the store's upgrade finds the
//! transactions that are already there.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aurigraph_ledger::Hash;
use aurigraph_ledger::transaction::{Group, Sender, Target, Transaction};
use aurigraph_ledger::types::{AccountIndex, Address};
use aurigraph_schema_upgrades::StepError;
use aurigraph_schema_upgrades::node::v004_address_index::{
    BY_ADDRESS, BY_INDEX, Bodies, MOST_RECEIVERS, Party, RECEIVER, SENDER,
};
use parking_lot::Mutex;

use crate::fatal::Fatal;
use crate::mempool::{Batch, PreparedBatch};
use crate::storage::{Journal, JournalReader, RecordKind};

/// How the index names an account that a transaction names by its number.
#[must_use]
pub fn by_index(index: AccountIndex) -> Vec<u8> {
    [&[BY_INDEX][..], &index.0.to_be_bytes()].concat()
}

/// How the index names an account that a transaction names by its address.
#[must_use]
pub fn by_address(address: &Address) -> Vec<u8> {
    [&[BY_ADDRESS][..], &address.0.0].concat()
}

/// The parties of a transaction: who signed it, and whom its transfers name, unless those are more than
/// [`MOST_RECEIVERS`].
#[must_use]
pub fn of(transaction: &Transaction) -> Vec<Party> {
    let key = match transaction.sender() {
        Sender::Index(index) => by_index(index),
        Sender::Address(address) => by_address(&address),
    };
    let mut parties = vec![Party { key, role: SENDER }];
    // Names are made once it is known that they are needed: most long transactions have too many receivers.
    let Some(receivers) = receivers(transaction) else { return parties };
    for to in receivers {
        let key = match to {
            Target::Index(index) => by_index(index),
            Target::Address(address) => by_address(&address),
        };
        if key == parties[0].key {
            parties[0].role |= RECEIVER;
        } else {
            parties.push(Party { key, role: RECEIVER });
        }
    }
    parties
}

/// Whom the transfers name, each once; none if those are too many.
fn receivers(transaction: &Transaction) -> Option<Vec<Target>> {
    let mut receivers = Vec::new();
    for group in transaction.groups() {
        let Group::Transfers(transfers) = group else { continue };
        for (to, _) in (0..transfers.len()).filter_map(|at| transfers.get(at)) {
            if receivers.contains(&to) {
                continue;
            }
            if receivers.len() == MOST_RECEIVERS {
                return None;
            }
            receivers.push(to);
        }
    }
    Some(receivers)
}

/// The journal of a running node, as the place of the bodies.
pub struct InJournal(pub JournalReader);

impl Bodies for InJournal {
    fn parties(&self, batch: &[u8; 32], positions: &[u32]) -> Result<Option<Vec<Vec<Party>>>, StepError> {
        let Some(body) = self.0.get(RecordKind::Batch, &Hash(*batch))? else { return Ok(None) };
        let max = body.len();
        let batch = PreparedBatch::new(&Batch::parse(body, max)?);
        let find = |at: &u32| batch.transactions().get(*at as usize).map(|transaction| of(transaction));
        let found = positions.iter().map(find).collect::<Option<Vec<_>>>();
        found
            .map(Some)
            .ok_or_else(|| format!("batch {} is shorter than its block says", Hash(batch.reference.digest.0)).into())
    }
}

/// The journal in a stopped node's folder, opened when the first body is asked for.
pub struct InFolder {
    data_dir: PathBuf,
    open: Mutex<Option<(Journal, InJournal)>>,
}

impl InFolder {
    /// In this folder.
    #[must_use]
    pub fn new(data_dir: &Path) -> Arc<Self> {
        Arc::new(Self { data_dir: data_dir.to_owned(), open: Mutex::new(None) })
    }
}

impl Bodies for InFolder {
    fn parties(&self, batch: &[u8; 32], positions: &[u32]) -> Result<Option<Vec<Vec<Party>>>, StepError> {
        let mut open = self.open.lock();
        if open.is_none() {
            let journal = Journal::open_as_found(&self.data_dir, Fatal::default())?;
            let bodies = InJournal(journal.reader());
            *open = Some((journal, bodies));
        }
        open.as_ref().map_or(Ok(None), |(_, bodies)| bodies.parties(batch, positions))
    }
}

#[cfg(test)]
mod tests {
    use aurigraph_ledger::types::SIGNATURE_LEN;
    use aurigraph_ledger::{FeeSchedule, SenderKey, TransactionBuilder};

    use super::*;

    fn transfers(to: impl IntoIterator<Item = Target>) -> Vec<Party> {
        let fees = FeeSchedule { base: 1, per_operation: 1, per_byte: 0, invalid_signature_fee: 1 };
        let builder = TransactionBuilder::new(Hash([1; 32]), SenderKey::Index(AccountIndex(7)), 0, 10).fees(&fees);
        let builder = to.into_iter().fold(builder, |builder, to| builder.transfer(to, 5));
        of(&builder.build().unwrap().with_signature(&[0; SIGNATURE_LEN]).unwrap())
    }

    #[test]
    fn the_sender_and_each_receiver_are_parties_once_under_the_name_that_the_transaction_uses() {
        let index = |index| Target::Index(AccountIndex(index));
        let address = Address(Hash([9; 32]));
        let found = transfers([index(3), Target::Address(address), index(3), index(7)]);
        let wanted = [
            (by_index(AccountIndex(7)), SENDER | RECEIVER),
            (by_index(AccountIndex(3)), RECEIVER),
            (by_address(&address), RECEIVER),
        ];
        let mut found: Vec<_> = found.into_iter().map(|party| (party.key, party.role)).collect();
        found.sort();
        let mut wanted = wanted.to_vec();
        wanted.sort();
        assert_eq!(found, wanted);
    }

    #[test]
    fn a_transaction_with_too_many_receivers_is_its_senders_alone() {
        let to = |count: u32| transfers((10..10 + count).chain([10]).map(|index| Target::Index(AccountIndex(index))));
        assert_eq!(to(16).len(), 17);
        assert_eq!(to(17), [Party { key: by_index(AccountIndex(7)), role: SENDER }]);
    }
}
