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
