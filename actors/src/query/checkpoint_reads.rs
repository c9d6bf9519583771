//! Checkpoints and certificates out of the log. Blocks: called from threads that may.

use aurigraph_consensus::light::MAX_CHECKPOINTS;
use aurigraph_consensus::{Certificate, EpochCert};
use aurigraph_ledger::block::Checkpoint;
use aurigraph_ledger::{CodecError, LedgerHeader};

use super::chain_reads::{ChainReads, Read, storage};
use super::views::{CertificateView, CheckpointView, EpochHopView, SignedCoreView};
use crate::bounds::query as bounds;

fn hex(bytes: &[u8]) -> String {
    format!("0x{}", hex::encode(bytes))
}

fn wrong(what: &'static str) -> impl Fn(CodecError) -> super::QueryError {
    move |error| storage(what)(error.to_string())
}

impl ChainReads {
    /// A checkpoint, or the newest certified one, with the headers of the blocks from a height up to its own.
    pub(super) fn checkpoint(
        &self,
        seq: Option<u64>,
        headers_from: Option<u64>,
        epochs_from: Option<u64>,
    ) -> Read<Option<CheckpointView>> {
        let Some(seq) = seq.or_else(|| self.archive().newest_certified()) else { return Ok(None) };
        let Some(header) = self.archive().checkpoint(seq).map_err(storage("a checkpoint"))? else { return Ok(None) };
        let checkpoint = Checkpoint::decode(&header).map_err(wrong("a checkpoint"))?;
        Ok(Some(CheckpointView {
            sequence: seq,
            epoch: checkpoint.epoch,
            digest: checkpoint.digest(),
            height: checkpoint.ledger_height,
            commit_index: checkpoint.commit_index,
            block_hash: checkpoint.ledger_header_digest,
            state_root: checkpoint.state_root,
            previous_digest: checkpoint.prev_digest,
            header: hex(&header),
            certificate: self.certificate(seq, checkpoint.epoch)?,
            ledger_headers: match headers_from {
                None => Vec::new(),
                Some(from) => self.ledger_headers(from, checkpoint.ledger_height)?,
            },
            epoch_hops: match epochs_from {
                None => Vec::new(),
                Some(from) => self.epoch_hops(from, checkpoint.epoch)?,
            },
        }))
    }

    /// At most as many as a bounded answer holds; a client that needs more asks again from the next epoch on.
    fn epoch_hops(&self, from: u64, to: u64) -> Read<Vec<EpochHopView>> {
        let mut hops = Vec::new();
        for epoch in (from..to).take(bounds::EPOCH_HOPS) {
            let record = |of: Result<Option<bytes::Bytes>, String>| of.map_err(storage("the end of an epoch"));
            let Some(certificate) = record(self.archive().epoch_certificate(epoch))? else { break };
            let seq = EpochCert::decode(&certificate).map_err(wrong("an epoch certificate"))?.checkpoint.seq;
            let Some(checkpoint) = record(self.archive().checkpoint(seq))? else { break };
            let Some(validators) = record(self.archive().validator_set(epoch + 1))? else { break };
            let (certificate, checkpoint, validators) = (hex(&certificate), hex(&checkpoint), hex(&validators));
            hops.push(EpochHopView { epoch, certificate, checkpoint, validators });
        }
        Ok(hops)
    }

    /// The nearest certificate of this checkpoint or a later one of its epoch that a proof has room for. A node that was
    /// far behind has executed checkpoints whose attestations it never saw: the next certificate speaks for them, too.
    fn nearest_certificate(&self, seq: u64, epoch: u64) -> Read<Option<Certificate>> {
        let Some(newest) = self.archive().newest_certified() else { return Ok(None) };
        let furthest = seq.saturating_add(MAX_CHECKPOINTS as u64 - 1);
        for at in seq..=newest.min(furthest) {
            let Some(bytes) = self.archive().certificate(at).map_err(storage("a certificate"))? else { continue };
            let certificate = Certificate::decode(&bytes).map_err(wrong("a certificate"))?;
            // All cores are of one epoch.
            let of_epoch = certificate.cores.first().is_some_and(|signed| signed.core.epoch == epoch);
            return Ok(Some(certificate).filter(|found| of_epoch && found.newest_attested() <= furthest));
        }
        Ok(None)
    }

    fn certificate(&self, seq: u64, epoch: u64) -> Read<Option<CertificateView>> {
        let Some(certificate) = self.nearest_certificate(seq, epoch)? else { return Ok(None) };
        let Some(committee) = self.sources().committee(epoch) else { return Ok(None) };
        let mut followers = Vec::new();
        for later in seq + 1..=certificate.newest_attested() {
            // Written when the checkpoint was executed; a certificate is made of own checkpoints only.
            let Some(header) = self.archive().checkpoint(later).map_err(storage("a checkpoint"))? else {
                return Ok(None);
            };
            followers.push(hex(&header));
        }
        let core = |signed: &aurigraph_consensus::SignedCore| SignedCoreView {
            validator: self.sources().validator_name(epoch, signed.core.author).unwrap_or_default(),
            author: signed.core.author,
            round: signed.core.round,
            attested_sequence: signed.core.attestation.seq,
            bytes: hex(&signed.encode()),
        };
        Ok(Some(CertificateView {
            stake: certificate.stake(&committee).to_string(),
            quorum_stake: committee.quorum().to_string(),
            total_stake: committee.total().to_string(),
            cores: certificate.cores.iter().map(core).collect(),
            followers,
        }))
    }

    /// At most [`bounds::PROOF_HEADERS`], those nearest to the checkpoint.
    fn ledger_headers(&self, from: u64, to: u64) -> Read<Vec<String>> {
        let published = self.newest()?;
        let from = from.max((to + 1).saturating_sub(bounds::PROOF_HEADERS));
        let mut headers = Vec::new();
        for height in from..=to {
            let Some(header) = self.header(&published, height)? else { return Ok(Vec::new()) };
            headers.push(hex(&LedgerHeader::encode(&header)));
        }
        Ok(headers)
    }
}
