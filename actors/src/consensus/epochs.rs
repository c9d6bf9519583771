//! From one epoch to the next: which validators the log names, and the validator's step over the boundary.

use std::sync::Arc;

use aurigraph_consensus::{Certificate, CkptRef, Epoch, EpochCert, EpochStart, Event, Record as LogRecord};
use aurigraph_ledger::Checkpoint;
use aurigraph_runtime::{ActorError, Context};
use bytes::Bytes;

use super::attestation;
use super::messages::ValidatorMsg;
use super::recovery::Snapshots;
use super::validator::{State, Validator};
use crate::context::NodeContext;
use crate::members::{Listed, Members, decode_set};
use crate::settings::{NodeSettings, PeerSettings};
use crate::storage::{JournalReader, Record, RecordKind};

/// Most checkpoints of an ended epoch that its certificate certifies after the fact.
const UNCERTIFIED: usize = 64;

/// The members of the newest epoch that the log has started.
pub(super) fn newest(node: &NodeContext) -> Result<Members, ActorError> {
    let Some(epoch) = node.journal.highest(RecordKind::EpochStart) else {
        return Ok(Members::of_genesis(&node.settings));
    };
    let members = of_epoch(&node.settings, &node.journal, epoch)?;
    members.ok_or_else(|| format!("the start of epoch {epoch} is not in the log").into())
}

/// The members of an epoch that the log has started; none if it has not.
pub(crate) fn of_epoch(
    settings: &NodeSettings,
    journal: &JournalReader,
    epoch: Epoch,
) -> Result<Option<Members>, ActorError> {
    if epoch == 0 {
        return Ok(Some(Members::of_genesis(settings)));
    }
    let Some(start) = start_of(journal, epoch)? else { return Ok(None) };
    let validators = decode_set(&start.set).map_err(|error| format!("the validators of epoch {epoch}: {error}"))?;
    Ok(Some(Members::of(settings, epoch, Some(start), &validators)))
}

/// The consensus keys of an epoch's validators, by their index in it. The log has the validators of every epoch since the
/// first: those that this node has come to, those that a snapshot proves itself by, and a pruned log's base.
pub(super) fn consensus_keys(node: &NodeContext, epoch: Epoch) -> Result<Vec<Bytes>, ActorError> {
    if epoch == 0 {
        let members = Members::of_genesis(&node.settings);
        return Ok(members.validators.into_iter().map(|validator| validator.consensus_key).collect());
    }
    let set = node.journal.get(RecordKind::ValidatorSet, &Record::index_key(epoch))?;
    let missing = || format!("the validators of epoch {epoch} are not in the log: evidence of it cannot be checked");
    let set = decode_set(&set.ok_or_else(missing)?);
    let listed = set.map_err(|error| format!("the validators of epoch {epoch}: {error}"))?;
    Ok(listed.into_iter().map(|validator| Bytes::from(validator.consensus_key)).collect())
}

/// The protocol version of an epoch that the log has started.
///
/// # Errors
/// In words, if the log has not, or its record cannot be read.
pub fn protocol_version(journal: &JournalReader, epoch: Epoch) -> Result<u16, String> {
    if epoch == 0 {
        return Ok(crate::release::first_protocol());
    }
    let start = start_of(journal, epoch).map_err(|error| error.to_string())?;
    start.map(|start| start.version).ok_or_else(|| format!("the start of epoch {epoch} is not in the log"))
}

fn start_of(journal: &JournalReader, epoch: Epoch) -> Result<Option<Arc<EpochStart>>, ActorError> {
    let Some(body) = journal.get(RecordKind::EpochStart, &Record::index_key(epoch))? else { return Ok(None) };
    match LogRecord::decode(&body)? {
        LogRecord::EpochStart(start) => Ok(Some(start)),
        other => Err(format!("a record of an epoch's start holds {other:?}").into()),
    }
}

/// Whether a set of validators in the log has this consensus key: what was signed under it is in this log, because it came
/// into force with an epoch that this node has seen start, or is about to.
pub(crate) fn names_key(journal: &JournalReader, key: &[u8]) -> Result<bool, ActorError> {
    let names = |set: &[u8]| {
        decode_set(set).map(|validators| validators.iter().any(|validator| validator.consensus_key == key))
    };
    for epoch in (1..=journal.highest(RecordKind::ValidatorSet).unwrap_or(0)).rev() {
        let Some(set) = journal.get(RecordKind::ValidatorSet, &Record::index_key(epoch))? else { break };
        if names(&set)? {
            return Ok(true);
        }
    }
    for epoch in (1..=journal.highest(RecordKind::EpochStart).unwrap_or(0)).rev() {
        let Some(start) = start_of(journal, epoch)? else { break };
        if names(&start.set)? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Validator {
    /// The epoch has ended and its certificate is durable: starts the next one.
    pub(super) fn next_epoch(
        &self,
        ctx: &Context<ValidatorMsg>,
        state: &mut State,
        cert: &EpochCert,
    ) -> Result<(), ActorError> {
        let epoch = cert.epoch + 1;
        // Persist has written it before it told of the last commit.
        let set = self.node.journal.get(RecordKind::ValidatorSet, &Record::index_key(epoch))?;
        let Some(set) = set else {
            return Err(format!("the validators of epoch {epoch} are not in the log").into());
        };
        let validators = decode_set(&set).map_err(|error| format!("the validators of epoch {epoch}: {error}"))?;
        let ended = || ActorError::from(format!("epoch {} has not ended", cert.epoch));
        let start = Arc::new(state.machine.next_start(set.to_vec()).ok_or_else(ended)?);
        self.keep_certificate(state, cert)?;
        let members = Members::of(&self.node.settings, epoch, Some(Arc::clone(&start)), &validators);
        self.warn_of_strangers(&validators);
        let config = self.node.consensus_config(&members);
        let held = state.machine.take_held();
        let held: Vec<_> = held.into_iter().map(|(peer, bytes)| (state.members.name(peer).to_owned(), bytes)).collect();
        let (machine, effects) = state.machine.next_epoch(config, &start, self.node.now())?;
        state.machine = machine;
        state.members = self.node.enter(members);
        state.connected.clear();
        state.snapshots = Snapshots::of_epoch(epoch, start.base.index);
        metrics::gauge!("consensus_epoch").set(epoch as f64);
        tracing::info!(
            epoch,
            validators = validators.len(),
            own = ?state.members.own,
            version = start.version,
            after_commit = start.base.index,
            "an epoch starts"
        );
        self.execute(ctx, state, effects)?;
        self.follow_links(ctx, state)?;
        for (peer, bytes) in held {
            if let Some(peer) = state.members.index(&peer) {
                self.step(ctx, state, Event::Received { peer, bytes })?;
            }
        }
        state.epoch_untold = true;
        Self::tell_batch_store(state);
        Ok(())
    }

    /// The epoch's own validators certify the final checkpoint, and by it the ones before that nobody certified: those of
    /// the next epoch do not attest them.
    fn keep_certificate(&self, state: &State, cert: &EpochCert) -> Result<(), ActorError> {
        let mut records = Vec::new();
        let mut checkpoint = cert.checkpoint;
        loop {
            let certificate = Certificate { checkpoint, cores: cert.cores.clone() };
            let Some(record) = attestation::certificate_record(&self.node, &certificate) else { break };
            records.push(record);
            let Some(seq) = checkpoint.seq.checked_sub(1) else { break };
            let Some(body) = self.node.journal.get(RecordKind::Checkpoint, &Record::index_key(seq))? else { break };
            let before = Checkpoint::decode(&body).map_err(|error| format!("checkpoint {seq}: {error}"))?;
            if before.epoch != cert.epoch || records.len() == UNCERTIFIED {
                break;
            }
            checkpoint = CkptRef { seq, digest: before.digest() };
        }
        records.into_iter().rev().try_for_each(|record| Self::keep(state, record))
    }

    /// A validator that no node of the cluster config is, by key or name, cannot be reached from here.
    fn warn_of_strangers(&self, validators: &[Listed]) {
        let settings = &self.node.settings;
        for validator in validators {
            let key = validator.network_key.as_slice();
            let is_known = |peer: &PeerSettings| peer.network_key == key || peer.name == validator.name;
            if key != settings.network_key && !settings.peers.iter().any(is_known) {
                tracing::error!(
                    validator = validator.name,
                    "a validator of this epoch has no [[node]] table in the cluster config: it cannot be reached"
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use aurigraph_ledger::types::PUBLIC_KEY_LEN;
    use aurigraph_ledger::{Address, Hash, PublicKey, SetMember, ValidatorSet};

    use super::*;
    use crate::testing::lone_validator;

    /// A key that names its epoch and its index.
    fn key(epoch: u8, index: u8) -> PublicKey {
        PublicKey::new(vec![16 * epoch + index; PUBLIC_KEY_LEN])
    }

    #[tokio::test]
    async fn signatures_of_an_earlier_epoch_are_checked_with_the_keys_of_its_validators_and_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let registry = crate::crypto::testing::node();
        let (node, journal, _) = lone_validator(&registry, directory.path(), |_| {});
        // The second leaves after epoch 1, the others move up and have other keys: another set in each epoch.
        let sets = [(1_u8, vec![0_u8, 1, 2]), (2, vec![0, 2]), (3, vec![2, 3])];
        let record = |(epoch, rows): &(u8, Vec<u8>)| {
            let member = |(index, row): (usize, &u8)| SetMember {
                id: (*row).into(),
                name: format!("v{row}"),
                address: Address(Hash([*row; 32])),
                consensus_key: key(*epoch, u8::try_from(index).unwrap()),
                network_key: key(15, *row),
                stake: 1,
            };
            let validators = rows.iter().enumerate().map(member).collect();
            let set = ValidatorSet { epoch: u64::from(*epoch), validators };
            Record::indexed(RecordKind::ValidatorSet, set.epoch, Bytes::from(set.encode()))
        };
        journal.append_apart(&sets.iter().map(record).collect::<Vec<_>>()).unwrap();

        for (epoch, rows) in &sets {
            let found = consensus_keys(&node, u64::from(*epoch)).unwrap();
            let expected: Vec<Bytes> = (0..u8::try_from(rows.len()).unwrap())
                .map(|index| Bytes::copy_from_slice(key(*epoch, index).as_bytes()))
                .collect();
            assert_eq!(found, expected, "of epoch {epoch}");
        }
        let genesis: Vec<Bytes> =
            Members::of_genesis(&node.settings).validators.into_iter().map(|member| member.consensus_key).collect();
        assert_eq!(consensus_keys(&node, 0).unwrap(), genesis);
        assert!(
            consensus_keys(&node, 4).is_err_and(|error| error.to_string().contains("epoch 4")),
            "no verdict by guess"
        );
    }
}
