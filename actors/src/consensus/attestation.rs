//! Certificates and divergences between the machine and the log.

use aurigraph_consensus::{Certificate, Certified, Committee, Divergence, Status};
use aurigraph_runtime::ActorError;
use bytes::Bytes;

use super::epochs;
use crate::context::NodeContext;
use crate::members::Members;
use crate::storage::{JournalReader, Record, RecordKind};

/// A certificate as a record: readers find it by its checkpoint. None if there is one: a replay makes others of the same.
pub(super) fn certificate_record(node: &NodeContext, certificate: &Certificate) -> Option<Record> {
    let (kind, seq) = (RecordKind::Certificate, certificate.checkpoint.seq);
    let known = node.journal.contains(kind, &Record::index_key(seq));
    (!known).then(|| Record::indexed(kind, seq, Bytes::from(certificate.encode())))
}

/// Figures of checkpoints.
pub(super) fn report(status: &Status) {
    let certified = status.certified.map_or(0, |certified| certified.checkpoint.seq);
    #[allow(clippy::cast_precision_loss)]
    {
        metrics::gauge!("consensus_checkpoint_sequence").set(status.checkpoint.seq as f64);
        metrics::gauge!("consensus_certified_checkpoint_sequence").set(certified as f64);
    }
    metrics::gauge!("consensus_diverged").set(if status.divergence.is_some() { 1.0 } else { 0.0 });
}

/// Execution differs: the pipeline stops at once, and with the record in the log does not start again.
pub(super) fn stop_executing(node: &NodeContext, divergence: Divergence) -> Record {
    *node.divergence.lock() = Some(divergence);
    tell(&divergence);
    Record::indexed(RecordKind::Divergence, divergence.seq, Bytes::from(divergence.encode()))
}

/// Tells the operator.
fn tell(divergence: &Divergence) {
    let Divergence { seq, own, other, stake, network_wide } = divergence;
    metrics::gauge!("consensus_diverged").set(1.0);
    tracing::error!(
        checkpoint = seq,
        ?own,
        ?other,
        stake,
        network_wide,
        "execution differs from other validators': this node executes and attests nothing more; its data is kept"
    );
}

fn newest(journal: &JournalReader, kind: RecordKind) -> Result<Option<Bytes>, ActorError> {
    let Some(index) = journal.highest(kind) else { return Ok(None) };
    Ok(journal.get(kind, &Record::index_key(index))?)
}

/// The newest certified checkpoint and the divergence that the log knows of; the latter holds the pipeline back from
/// here on.
pub(super) fn recall(
    node: &NodeContext,
    members: &Members,
) -> Result<(Option<Certified>, Option<Divergence>), ActorError> {
    let certified = newest(&node.journal, RecordKind::Certificate)?.map(|body| {
        let certificate =
            Certificate::decode(&body).map_err(|error| format!("a certificate does not decode: {error}"))?;
        // Early in an epoch the newest one is of the epoch before, whose validators had other stakes and indices.
        let epoch = certificate.cores.first().map_or(members.epoch, |signed| signed.core.epoch);
        let own = epochs::of_epoch(&node.settings, &node.journal, epoch)?;
        let committee = Committee::new(own.as_ref().unwrap_or(members).stakes())?;
        let stake = certificate.stake(&committee);
        Ok::<_, ActorError>(Certified { checkpoint: certificate.checkpoint, stake })
    });
    let divergence = newest(&node.journal, RecordKind::Divergence)?
        .map(|body| Divergence::decode(&body).map_err(|error| format!("a divergence does not decode: {error}")));
    let divergence = divergence.transpose()?;
    if let Some(divergence) = &divergence {
        tell(divergence);
        *node.divergence.lock() = Some(*divergence);
    }
    Ok((certified.transpose()?, divergence))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use aurigraph_consensus::block::{parents_root, payload_root};
    use aurigraph_consensus::commit::genesis_commit;
    use aurigraph_consensus::config::BLOCK_VERSION;
    use aurigraph_consensus::epoch::EpochBase;
    use aurigraph_consensus::types::SIGNATURE_LEN;
    use aurigraph_consensus::{BlockCore, CkptRef, EpochStart, Extras, Record as LogRecord, Signature, SignedCore};
    use aurigraph_ledger::types::PUBLIC_KEY_LEN;
    use aurigraph_ledger::{Address, Hash, PublicKey, SetMember, ValidatorSet};

    use super::*;
    use crate::testing::lone_validator;

    fn start_of(epoch: u64, stakes: &[u64]) -> Record {
        let member = |(id, stake): (u32, &u64)| SetMember {
            id,
            name: format!("v{id}"),
            address: Address(Hash([7; 32])),
            consensus_key: PublicKey::new(vec![u8::try_from(id).unwrap(); PUBLIC_KEY_LEN]),
            network_key: PublicKey::new(vec![9; PUBLIC_KEY_LEN]),
            stake: *stake,
        };
        let set = ValidatorSet { epoch, validators: (0..).zip(stakes).map(member).collect() };
        let start = EpochStart {
            epoch,
            seed: Hash([3; 32]),
            base: EpochBase::default(),
            version: BLOCK_VERSION,
            floor: 0,
            set: set.encode(),
            evidence: Vec::new(),
        };
        let body = LogRecord::EpochStart(Arc::new(start)).encode();
        Record::indexed(RecordKind::EpochStart, epoch, Bytes::from(body))
    }

    fn signed(epoch: u64, author: u16) -> SignedCore {
        let chain_id = Hash([1; 32]);
        let core = BlockCore {
            version: BLOCK_VERSION,
            supports: BLOCK_VERSION,
            chain_id,
            epoch,
            round: 9,
            author,
            timestamp_ms: 1,
            parents_root: parents_root(9, &[]),
            payload_root: payload_root(&[]),
            extras_root: Extras::default().root(),
            commit_vote: genesis_commit(&chain_id, 0, &chain_id, EpochBase::default()),
            attestation: CkptRef::default(),
        };
        SignedCore { core, signature: Signature::from_slice(&[0; SIGNATURE_LEN]).unwrap() }
    }

    #[tokio::test]
    async fn the_newest_certificate_is_recalled_with_the_stakes_of_its_own_epoch() {
        let directory = tempfile::tempdir().unwrap();
        let registry = crate::crypto::testing::node();
        let (node, journal, _) = lone_validator(&registry, directory.path(), |_| {});
        journal.append_apart(&[start_of(1, &[1, 2, 4]), start_of(2, &[10, 20, 40])]).unwrap();
        let members = epochs::newest(&node).unwrap();
        assert_eq!(members.epoch, 2);
        assert_eq!(recall(&node, &members).unwrap(), (None, None));

        for (seq, epoch, stake) in [(5, 1, 5), (6, 2, 50)] {
            let checkpoint = CkptRef { seq, digest: Hash([5; 32]) };
            let certificate = Certificate { checkpoint, cores: vec![signed(epoch, 0), signed(epoch, 2)] };
            journal.append_apart(&[certificate_record(&node, &certificate).unwrap()]).unwrap();
            let (certified, _) = recall(&node, &members).unwrap();
            assert_eq!(certified, Some(Certified { checkpoint, stake }), "of epoch {epoch}");
        }
    }
}
