//! Proofs for those who run no node: from the validator set of a genesis, by a certificate, a chain of checkpoints and a
//! chain of ledger headers, to a transaction or an account (consensus.md 12.4).
//!
//! Pure and offline. The only place of this crate that knows what a checkpoint, a header and a Merkle path of the ledger
//! look like; the machine must not use it. Everything here comes from outside: nothing is believed before the quorum's
//! signatures cover it.

use aurigraph_ledger::block::SignatureVerifier;
use aurigraph_ledger::codec::CodecError;
use aurigraph_ledger::hash::Hash;
use aurigraph_ledger::{
    AccountProof, Address, Checkpoint, Genesis, LedgerHeader, ProofError, ProvenAccount, TransactionProof, ValidatorSet,
};

use crate::block::SignedCore;
use crate::committee::{Committee, StakeSet};
use crate::config::{ConfigError, MAX_VALIDATORS};
use crate::epoch::EpochCert;
use crate::types::{AuthorIdx, Epoch, Round, Stake};

/// Most checkpoints of a proof: the covering one, and those up to what its certificate attests.
pub const MAX_CHECKPOINTS: usize = 1_024;
/// Most ledger headers of a proof: from the transaction's block to the checkpoint's.
pub const MAX_HEADERS: usize = 65_536;

/// Most epochs that a proof hops over.
pub const MAX_HOPS: usize = 65_536;

/// The validators that a client trusts: those of a genesis, or those that a chain of epoch certificates from there names.
#[derive(Debug, Clone)]
pub struct TrustedSet {
    chain_id: Hash,
    epoch: Epoch,
    committee: Committee,
    keys: Vec<Vec<u8>>,
}

impl TrustedSet {
    /// The first epoch's validators.
    ///
    /// # Errors
    /// If no quorum can be made of them.
    pub fn of_genesis(genesis: &Genesis) -> Result<Self, ConfigError> {
        let committee = Committee::new(genesis.validators.iter().map(|validator| validator.stake).collect())?;
        let keys = genesis.validators.iter().map(|validator| validator.consensus_key.as_bytes().to_vec()).collect();
        Ok(Self { chain_id: genesis.chain_id(), epoch: 0, committee, keys })
    }

    /// The chain.
    #[must_use]
    pub const fn chain_id(&self) -> Hash {
        self.chain_id
    }

    /// The epoch that they validate.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The validators after these epochs, each certified by those before.
    ///
    /// # Errors
    /// [`LightError`] naming the first part that does not hold.
    pub fn hop_all(&self, hops: &[EpochHop], verifier: &dyn SignatureVerifier) -> Result<Self, LightError> {
        if hops.len() > MAX_HOPS {
            return Err(LightError::Count { what: "epoch certificates", found: hops.len(), max: MAX_HOPS });
        }
        hops.iter().try_fold(self.clone(), |trusted, hop| trusted.hop(hop, verifier))
    }

    /// The validators of the next epoch: the final checkpoint of this one, attested by a quorum, names them.
    ///
    /// # Errors
    /// [`LightError`] naming the first part that does not hold.
    pub fn hop(&self, hop: &EpochHop, verifier: &dyn SignatureVerifier) -> Result<Self, LightError> {
        let at = usize::try_from(self.epoch).unwrap_or(usize::MAX);
        let malformed = |what| move |error| LightError::Malformed { what, at, error };
        let cert = EpochCert::decode(&hop.certificate).map_err(malformed("epoch certificate"))?;
        let checkpoint = Checkpoint::decode(&hop.checkpoint).map_err(malformed("final checkpoint"))?;
        let set = ValidatorSet::decode(&hop.validators).map_err(malformed("validator set"))?;
        let (seq, expected) = (checkpoint.seq, checkpoint.next_set_root);
        self.check_chain(std::slice::from_ref(&checkpoint))?;
        self.check_cores(&cert.cores, std::slice::from_ref(&checkpoint), verifier)?;
        let found = set.root();
        if expected != Some(found) {
            return Err(LightError::NextSet { seq, found, expected });
        }
        if set.epoch != self.epoch + 1 {
            let what = format!("the validator set after checkpoint {seq}");
            return Err(LightError::Epoch { what, found: set.epoch, expected: self.epoch + 1 });
        }
        let stakes = set.validators.iter().map(|validator| validator.stake).collect();
        let committee = Committee::new(stakes).map_err(|error| LightError::Committee { epoch: set.epoch, error })?;
        let keys = set.validators.iter().map(|validator| validator.consensus_key.as_bytes().to_vec()).collect();
        Ok(Self { chain_id: self.chain_id, epoch: set.epoch, committee, keys })
    }

    /// Their stake.
    #[must_use]
    pub const fn committee(&self) -> &Committee {
        &self.committee
    }
}

/// What shows that a block is final: canonical bytes, as they come from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FinalityProof {
    /// Ledger headers from the proved block to the checkpoint's, in order. Only that of the checkpoint for an account.
    pub headers: Vec<Vec<u8>>,
    /// The first checkpoint at or after the last header, and those after it up to the newest attested one, in order.
    pub checkpoints: Vec<Vec<u8>>,
    /// Signed cores of a quorum, each attesting one of these checkpoints.
    pub cores: Vec<Vec<u8>>,
}

/// From an epoch's validators to the next one's: canonical bytes, as they come from outside.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EpochHop {
    /// The epoch's certificate.
    pub certificate: Vec<u8>,
    /// Its final checkpoint.
    pub checkpoint: Vec<u8>,
    /// The next validator set.
    pub validators: Vec<u8>,
}

/// What a good proof shows of its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finality {
    /// The block that the proof begins with.
    pub header: LedgerHeader,
    /// The checkpoint that covers it.
    pub checkpoint: Checkpoint,
    /// Stake that attests it.
    pub stake: Stake,
    /// All stake.
    pub total: Stake,
}

/// Why a proof does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LightError {
    /// Too few or too many parts.
    #[error("the proof has {found} {what}, it needs 1 to {max}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        found: usize,
        /// At most.
        max: usize,
    },
    /// A part does not decode.
    #[error("{what} {at} does not decode: {error}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// Its place, from 0.
        at: usize,
        /// Why.
        error: CodecError,
    },
    /// A part is of another chain than the genesis.
    #[error("{what} is of chain {found}, the genesis is that of chain {expected}")]
    Chain {
        /// Which part.
        what: String,
        /// Its chain.
        found: Hash,
        /// That of the genesis.
        expected: Hash,
    },
    /// A part is of an epoch whose validators are not the trusted ones.
    #[error("{what} is of epoch {found}, the validators known are those of epoch {expected}")]
    Epoch {
        /// Which part.
        what: String,
        /// Its epoch.
        found: Epoch,
        /// The set's.
        expected: Epoch,
    },
    /// The final checkpoint names another next set, or none.
    #[error("the next validator set has root {found}, checkpoint {seq} names {expected:?}")]
    NextSet {
        /// The checkpoint.
        seq: u64,
        /// Root of the set in the proof.
        found: Hash,
        /// What the checkpoint names.
        expected: Option<Hash>,
    },
    /// The next set is none that consensus could start with.
    #[error("the validators of epoch {epoch}: {error}")]
    Committee {
        /// Their epoch.
        epoch: Epoch,
        /// What is wrong with them.
        error: ConfigError,
    },
    /// Checkpoints are not consecutive.
    #[error("checkpoint {found} follows checkpoint {before}")]
    CheckpointOrder {
        /// The one.
        before: u64,
        /// The next in the proof.
        found: u64,
    },
    /// A checkpoint is not the successor of the one before.
    #[error("checkpoint {seq} names {named} as the one before, that is {found}")]
    CheckpointLink {
        /// Which.
        seq: u64,
        /// What it says.
        named: Hash,
        /// Digest of the one before.
        found: Hash,
    },
    /// A signer whom the genesis does not know.
    #[error("validator {author} signs, the genesis has {validators}")]
    UnknownValidator {
        /// Its index.
        author: AuthorIdx,
        /// How many there are.
        validators: usize,
    },
    /// A validator would count twice.
    #[error("validator {0} signs twice")]
    DuplicateValidator(AuthorIdx),
    /// A signer attests a checkpoint that is not in the proof.
    #[error("validator {author} attests checkpoint {seq}, the proof holds {first} to {last}")]
    AttestsOutside {
        /// Who.
        author: AuthorIdx,
        /// What it attests.
        seq: u64,
        /// First in the proof.
        first: u64,
        /// Last in the proof.
        last: u64,
    },
    /// A signer attests another checkpoint of this number.
    #[error("validator {author} attests {attested} as checkpoint {seq}, the proof's is {found}")]
    AttestsOther {
        /// Who.
        author: AuthorIdx,
        /// Which number.
        seq: u64,
        /// What it attests.
        attested: Hash,
        /// What the proof holds.
        found: Hash,
    },
    /// A signature is bad.
    #[error("the signature of validator {author} over its block of round {round} is bad")]
    Signature {
        /// Whose.
        author: AuthorIdx,
        /// Which block.
        round: Round,
    },
    /// Not enough stake signs.
    #[error("validators with stake {stake} of {total} sign, {quorum} are needed")]
    Stake {
        /// That of the signers.
        stake: Stake,
        /// All.
        total: Stake,
        /// A quorum.
        quorum: Stake,
    },
    /// A header is not the successor of the one before.
    #[error("header {found} does not follow header {before}: it names another parent or height")]
    HeaderLink {
        /// Height of the one.
        before: u64,
        /// Height of the next in the proof.
        found: u64,
    },
    /// The last header is not the checkpoint's.
    #[error("header {height} is {found}, checkpoint {seq} covers {expected} at height {covered}")]
    Covered {
        /// Its height.
        height: u64,
        /// Its hash.
        found: Hash,
        /// The checkpoint.
        seq: u64,
        /// The hash it names.
        expected: Hash,
        /// The height it names.
        covered: u64,
    },
    /// The transaction is not in the block.
    #[error("the path of transaction {id} does not lead to the transactions root {root} of block {height}")]
    Transaction {
        /// The transaction.
        id: Hash,
        /// The root.
        root: Hash,
        /// The block.
        height: u64,
    },
    /// The account's proof does not hold under the checkpoint's state root.
    #[error("under the state root of checkpoint {seq}: {error}")]
    Account {
        /// The checkpoint.
        seq: u64,
        /// Why.
        error: ProofError,
    },
    /// The proof is one of another account.
    #[error("the proof is that of account {found}, not of {expected}")]
    OtherAccount {
        /// Whose it is.
        found: Address,
        /// Whose it should be.
        expected: Address,
    },
}

fn decode_all<T>(
    what: &'static str,
    parts: &[Vec<u8>],
    max: usize,
    decode: impl Fn(&[u8]) -> Result<T, CodecError>,
) -> Result<Vec<T>, LightError> {
    if parts.is_empty() || parts.len() > max {
        return Err(LightError::Count { what, found: parts.len(), max });
    }
    let one = |(at, bytes): (usize, &Vec<u8>)| decode(bytes).map_err(|error| LightError::Malformed { what, at, error });
    parts.iter().enumerate().map(one).collect()
}

impl FinalityProof {
    /// Checks everything but the leaf. What it gives is final under the trusted set.
    ///
    /// # Errors
    /// [`LightError`] naming the first part that does not hold.
    pub fn verify(&self, trusted: &TrustedSet, verifier: &dyn SignatureVerifier) -> Result<Finality, LightError> {
        let headers = decode_all("headers", &self.headers, MAX_HEADERS, LedgerHeader::decode)?;
        let checkpoints = decode_all("checkpoints", &self.checkpoints, MAX_CHECKPOINTS, Checkpoint::decode)?;
        let cores = decode_all("signed cores", &self.cores, MAX_VALIDATORS, SignedCore::decode)?;
        trusted.check_chain(&checkpoints)?;
        let stake = trusted.check_cores(&cores, &checkpoints, verifier)?;
        let (header, checkpoint) = check_headers(&headers, &checkpoints)?;
        Ok(Finality { header, checkpoint, stake, total: trusted.committee.total() })
    }

    /// Checks that a transaction is in a final block.
    ///
    /// # Errors
    /// [`LightError`] naming the first part that does not hold.
    pub fn verify_transaction(
        &self,
        transaction: &TransactionProof,
        trusted: &TrustedSet,
        verifier: &dyn SignatureVerifier,
    ) -> Result<Finality, LightError> {
        let finality = self.verify(trusted, verifier)?;
        let (root, height) = (finality.header.tx_root, finality.header.height);
        if !transaction.verify(&root) {
            return Err(LightError::Transaction { id: transaction.id, root, height });
        }
        Ok(finality)
    }

    /// Checks what an account held at a final checkpoint.
    ///
    /// # Errors
    /// [`LightError`] naming the first part that does not hold.
    pub fn verify_account(
        &self,
        address: &Address,
        account: &AccountProof,
        trusted: &TrustedSet,
        verifier: &dyn SignatureVerifier,
    ) -> Result<(Finality, ProvenAccount), LightError> {
        let finality = self.verify(trusted, verifier)?;
        let seq = finality.checkpoint.seq;
        let proven =
            account.verify(&finality.checkpoint.state_root).map_err(|error| LightError::Account { seq, error })?;
        if proven.address != *address {
            return Err(LightError::OtherAccount { found: proven.address, expected: *address });
        }
        Ok((finality, proven))
    }
}

impl TrustedSet {
    fn check_origin(&self, what: impl Fn() -> String, chain: Hash, epoch: Epoch) -> Result<(), LightError> {
        if chain != self.chain_id {
            return Err(LightError::Chain { what: what(), found: chain, expected: self.chain_id });
        }
        if epoch != self.epoch {
            return Err(LightError::Epoch { what: what(), found: epoch, expected: self.epoch });
        }
        Ok(())
    }

    fn check_chain(&self, checkpoints: &[Checkpoint]) -> Result<(), LightError> {
        for checkpoint in checkpoints {
            let what = || format!("checkpoint {}", checkpoint.seq);
            self.check_origin(what, checkpoint.chain_id, checkpoint.epoch)?;
        }
        for pair in checkpoints.windows(2) {
            let (before, next) = (&pair[0], &pair[1]);
            if before.seq.checked_add(1) != Some(next.seq) {
                return Err(LightError::CheckpointOrder { before: before.seq, found: next.seq });
            }
            let found = before.digest();
            if next.prev_digest != found {
                return Err(LightError::CheckpointLink { seq: next.seq, named: next.prev_digest, found });
            }
        }
        Ok(())
    }

    /// Stake of the signers. What a core attests must be one of the checkpoints: each speaks for those before it.
    fn check_cores(
        &self,
        cores: &[SignedCore],
        checkpoints: &[Checkpoint],
        verifier: &dyn SignatureVerifier,
    ) -> Result<Stake, LightError> {
        let mut signers = StakeSet::default();
        for signed in cores {
            let (core, author) = (&signed.core, signed.core.author);
            self.check_origin(|| format!("the block of validator {author}"), core.chain_id, core.epoch)?;
            let Some(key) = self.keys.get(usize::from(author)) else {
                return Err(LightError::UnknownValidator { author, validators: self.keys.len() });
            };
            if signers.contains(author) {
                return Err(LightError::DuplicateValidator(author));
            }
            check_attestation(signed, checkpoints)?;
            if !verifier.verify(key, &core.signing_message(), signed.signature.as_bytes()) {
                return Err(LightError::Signature { author, round: core.round });
            }
            signers.add(&self.committee, author);
        }
        let (stake, total, quorum) = (signers.stake(), self.committee.total(), self.committee.quorum());
        if stake < quorum {
            return Err(LightError::Stake { stake, total, quorum });
        }
        Ok(stake)
    }
}

fn check_attestation(signed: &SignedCore, checkpoints: &[Checkpoint]) -> Result<(), LightError> {
    let (author, attestation) = (signed.core.author, signed.core.attestation);
    let seq = attestation.seq;
    let Some(checkpoint) = checkpoints.iter().find(|checkpoint| checkpoint.seq == seq) else {
        let of = |checkpoint: Option<&Checkpoint>| checkpoint.map_or(0, |checkpoint| checkpoint.seq);
        return Err(LightError::AttestsOutside {
            author,
            seq,
            first: of(checkpoints.first()),
            last: of(checkpoints.last()),
        });
    };
    let found = checkpoint.digest();
    if found != attestation.digest {
        return Err(LightError::AttestsOther { author, seq, attested: attestation.digest, found });
    }
    Ok(())
}

/// The first header, and the checkpoint that covers it.
fn check_headers(
    headers: &[LedgerHeader],
    checkpoints: &[Checkpoint],
) -> Result<(LedgerHeader, Checkpoint), LightError> {
    for pair in headers.windows(2) {
        let (before, next) = (&pair[0], &pair[1]);
        if before.height.checked_add(1) != Some(next.height) || next.parent != before.hash() {
            return Err(LightError::HeaderLink { before: before.height, found: next.height });
        }
    }
    // Both lists are known not to be empty; a proof without them could not cover anything.
    let (Some(first), Some(last), Some(checkpoint)) = (headers.first(), headers.last(), checkpoints.first()) else {
        return Err(LightError::Count { what: "headers", found: headers.len(), max: MAX_HEADERS });
    };
    let found = last.hash();
    if found != checkpoint.ledger_header_digest || last.height != checkpoint.ledger_height {
        return Err(LightError::Covered {
            height: last.height,
            found,
            seq: checkpoint.seq,
            expected: checkpoint.ledger_header_digest,
            covered: checkpoint.ledger_height,
        });
    }
    Ok((*first, *checkpoint))
}
