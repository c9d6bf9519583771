//! Proofs without a node: one that holds, and everything that can be wrong with it, each refused with its own words.

use std::sync::Arc;

use aurigraph_ledger::block::SignatureVerifier;
use aurigraph_ledger::codec::CodecError;
use aurigraph_ledger::hash::{Hash, h, h_parts};
use aurigraph_ledger::merkle::MerkleTree;
use aurigraph_ledger::{
    Address, Checkpoint, CommitInput, FeeSchedule, Genesis, GenesisAccount, GenesisValidator, Ledger, LedgerHeader,
    PlainHasher, ProofError, PublicKey, SetMember, TransactionProof, ValidatorSet,
};

use crate::block::{BlockCore, SignedCore};
use crate::config::CORE_LEN;
use crate::epoch::EpochCert;
use crate::light::{EpochHop, FinalityProof, LightError, TrustedSet};
use crate::testing::sealed_block;
use crate::types::{AuthorIdx, CkptRef, CommitRef, SIGNATURE_LEN, Signature, Stake};

const KEY_LEN: usize = 2_592;

fn key(author: AuthorIdx) -> PublicKey {
    PublicKey::new(vec![u8::try_from(author).expect("few") + 1; KEY_LEN])
}

/// A signature is a keyed hash.
struct Stub;

fn stub(key: &[u8], message: &[u8]) -> [u8; SIGNATURE_LEN] {
    let mut bytes = [0; SIGNATURE_LEN];
    bytes[..32].copy_from_slice(h_parts("light-stub", &[key, message]).as_bytes());
    bytes
}

impl SignatureVerifier for Stub {
    fn verify(&self, key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        signature == stub(key, message)
    }
}

fn sign(core: BlockCore) -> Vec<u8> {
    let bytes = stub(key(core.author).as_bytes(), &core.signing_message());
    SignedCore { core, signature: Signature::from_slice(&bytes).expect("right length") }.encode()
}

fn genesis(stakes: &[Stake]) -> Genesis {
    let validator = |(at, stake): (u16, &Stake)| GenesisValidator {
        name: format!("v{}", at + 1),
        consensus_key: key(at),
        network_key: PublicKey::new(vec![at.to_le_bytes()[0]; 32]),
        stake: *stake,
        operator: None,
    };
    Genesis {
        network: "light".to_owned(),
        timestamp_ms: 0,
        fees: FeeSchedule::default(),
        parameters: aurigraph_ledger::ProtocolParameters::default(),
        validators: (0..).zip(stakes).map(validator).collect(),
        accounts: (0..3_u8).map(|n| GenesisAccount { address: owner(n), balance: 1_000, public_key: None }).collect(),
    }
}

fn owner(n: u8) -> Address {
    Address(h("owner", &[n]))
}

/// Three heartbeat blocks of which the last is checkpoint 1, and two more checkpoints.
struct Chain {
    genesis: Genesis,
    headers: Vec<LedgerHeader>,
    checkpoints: Vec<Checkpoint>,
    account: aurigraph_ledger::AccountProof,
}

fn chain(stakes: &[Stake]) -> Chain {
    let mut genesis = genesis(stakes);
    genesis.parameters.heartbeat_ms = 400;
    let mut ledger = Ledger::from_genesis(&genesis, Arc::new(PlainHasher)).expect("a valid genesis");
    let (mut headers, mut checkpoints, mut account) = (Vec::new(), Vec::new(), None);
    for index in 1..=9 {
        let input = CommitInput {
            version: aurigraph_ledger::FIRST_PROTOCOL_VERSION,
            epoch: 0,
            commit_index: index,
            commit_digest: h("commit", &index.to_le_bytes()),
            timestamp_ms: index * 400,
            leader: 0,
            round: u32::try_from(index).expect("small"),
            consensus_state_digest: Hash::ZERO,
            batches: Vec::new(),
            faults: Vec::new(),
            epoch_end: None,
        };
        let outcome = ledger.execute(input, &Stub).expect("executes");
        headers.push(outcome.block.expect("a heartbeat").header);
        if let Some(checkpoint) = outcome.checkpoint {
            checkpoints.push(checkpoint);
            let view = ledger.snapshot();
            let at = view.find(&owner(1)).expect("listed");
            account = account.or(view.account_proof(at).expect("a checkpoint"));
        }
    }
    assert_eq!((checkpoints.len(), checkpoints[0].ledger_height), (3, 3));
    Chain { genesis, headers, checkpoints, account: account.expect("an account") }
}

impl Chain {
    fn trusted(&self) -> TrustedSet {
        TrustedSet::of_genesis(&self.genesis).expect("a valid set")
    }

    /// A core of an author that attests the checkpoint at this place.
    fn core(&self, author: AuthorIdx, at: usize) -> BlockCore {
        let config = crate::config::Config::new(self.genesis.chain_id(), Hash::ZERO, vec![1; 4], None);
        let checkpoint = &self.checkpoints[at];
        let attestation = CkptRef { seq: checkpoint.seq, digest: checkpoint.digest() };
        BlockCore { attestation, ..sealed_block(&config, 9, author, Vec::new(), Vec::new()).core }
    }

    /// From block 2 on; two attest checkpoint 1, one attests checkpoint 3.
    fn proof(&self) -> FinalityProof {
        FinalityProof {
            headers: self.headers[1..3].iter().map(LedgerHeader::encode).collect(),
            checkpoints: self.checkpoints.iter().map(Checkpoint::encode).collect(),
            cores: vec![sign(self.core(0, 0)), sign(self.core(1, 0)), sign(self.core(3, 2))],
        }
    }

    fn refused(&self, change: impl Fn(&mut FinalityProof)) -> LightError {
        let mut proof = self.proof();
        change(&mut proof);
        proof.verify(&self.trusted(), &Stub).expect_err("a changed proof must not hold")
    }
}

#[test]
fn a_proof_from_genesis_to_block_and_account_holds() {
    let chain = chain(&[1; 4]);
    let finality = chain.proof().verify(&chain.trusted(), &Stub).expect("holds");
    assert_eq!((finality.header, finality.checkpoint), (chain.headers[1], chain.checkpoints[0]));
    assert_eq!((finality.stake, finality.total), (3, 4));
    let mut proof = chain.proof();
    proof.headers = vec![chain.headers[2].encode()];
    let (_, account) = proof.verify_account(&owner(1), &chain.account, &chain.trusted(), &Stub).expect("holds");
    assert_eq!((account.address, account.balance), (owner(1), 1_000));
    let other = proof.verify_account(&owner(2), &chain.account, &chain.trusted(), &Stub);
    assert_eq!(other, Err(LightError::OtherAccount { found: owner(1), expected: owner(2) }));
    let mut bad = chain.account.clone();
    bad.balances.page[0] ^= 1;
    let refused = proof.verify_account(&owner(1), &bad, &chain.trusted(), &Stub).expect_err("changed");
    assert!(matches!(refused, LightError::Account { seq: 1, error: ProofError::Page(_) }), "{refused}");
}

#[test]
fn a_transaction_is_proved_under_the_first_header_only() {
    let mut chain = chain(&[1; 4]);
    // An own block 2 that holds two transactions, and checkpoints over it.
    let leaves = [(h("id", b"a"), h("sig", b"a")), (h("id", b"b"), h("sig", b"b"))];
    let tree: MerkleTree = aurigraph_ledger::merkle::transaction_tree(leaves, &PlainHasher);
    chain.headers[1].tx_root = tree.root();
    chain.headers[2].parent = chain.headers[1].hash();
    chain.checkpoints[0].ledger_header_digest = chain.headers[2].hash();
    chain.checkpoints[1].prev_digest = chain.checkpoints[0].digest();
    chain.checkpoints[2].prev_digest = chain.checkpoints[1].digest();
    let leaf = |at: usize| TransactionProof {
        id: leaves[at].0,
        signature_digest: leaves[at].1,
        path: tree.proof(at).expect("a leaf"),
    };
    let proof = chain.proof();
    let finality = proof.verify_transaction(&leaf(1), &chain.trusted(), &Stub).expect("holds");
    assert_eq!(finality.header.height, 2);
    let moved = TransactionProof { path: tree.proof(0).expect("a leaf"), ..leaf(1) };
    let refused = proof.verify_transaction(&moved, &chain.trusted(), &Stub);
    assert_eq!(refused, Err(LightError::Transaction { id: leaves[1].0, root: tree.root(), height: 2 }));
    let other = FinalityProof { headers: proof.headers[1..].to_vec(), ..proof };
    assert!(matches!(
        other.verify_transaction(&leaf(1), &chain.trusted(), &Stub),
        Err(LightError::Transaction { height: 3, .. })
    ));
}

#[test]
fn every_flipped_byte_of_every_part_is_refused() {
    let chain = chain(&[1; 4]);
    let good = chain.proof();
    let trusted = chain.trusted();
    let lens: Vec<usize> =
        [&good.headers, &good.checkpoints, &good.cores].into_iter().flatten().map(Vec::len).collect();
    for (part, len) in lens.into_iter().enumerate() {
        // Every byte of what is signed or chained, and some of the signatures.
        for at in (0..len).filter(|at| *at < CORE_LEN + 64 || at % 97 == 0) {
            let mut bad = good.clone();
            let lists = [&mut bad.headers, &mut bad.checkpoints, &mut bad.cores];
            let flipped = lists.into_iter().flatten().nth(part).expect("counted");
            flipped[at] ^= 0x10;
            assert!(bad.verify(&trusted, &Stub).is_err(), "byte {at} of part {part}");
        }
    }
}

#[test]
fn each_kind_of_tampering_has_its_own_words() {
    use LightError as E;
    let c = chain(&[1; 4]);
    let other = genesis(&[2; 4]).chain_id();
    let resign = |proof: &mut FinalityProof, at: usize, change: &dyn Fn(&mut BlockCore)| {
        let mut core = SignedCore::decode(&proof.cores[at]).expect("good").core;
        change(&mut core);
        proof.cores[at] = sign(core);
    };
    let set = |proof: &mut FinalityProof, at: usize, change: &dyn Fn(&mut Checkpoint)| {
        let mut checkpoint = Checkpoint::decode(&proof.checkpoints[at]).expect("good");
        change(&mut checkpoint);
        proof.checkpoints[at] = checkpoint.encode();
    };
    assert!(matches!(c.refused(|p| p.cores.clear()), E::Count { what: "signed cores", found: 0, .. }));
    assert!(matches!(c.refused(|p| p.headers.clear()), E::Count { what: "headers", .. }));
    assert!(matches!(c.refused(|p| p.checkpoints.clear()), E::Count { what: "checkpoints", .. }));
    assert!(matches!(
        c.refused(|p| p.cores[1].truncate(100)),
        E::Malformed { what: "signed cores", at: 1, error: CodecError::Truncated { .. } }
    ));
    assert!(matches!(c.refused(|p| set(p, 0, &|it| it.chain_id = other)), E::Chain { .. }));
    assert!(matches!(c.refused(|p| resign(p, 2, &|core| core.chain_id = other)), E::Chain { .. }));
    assert!(matches!(c.refused(|p| set(p, 1, &|it| it.epoch = 1)), E::Epoch { found: 1, expected: 0, .. }));
    assert!(matches!(c.refused(|p| resign(p, 0, &|core| core.epoch = 4)), E::Epoch { found: 4, .. }));
    assert_eq!(c.refused(|p| drop(p.checkpoints.remove(1))), E::CheckpointOrder { before: 1, found: 3 });
    assert!(matches!(c.refused(|p| set(p, 0, &|it| it.commit_index += 1)), E::CheckpointLink { seq: 2, .. }));
    assert_eq!(c.refused(|p| resign(p, 0, &|core| core.author = 4)), E::UnknownValidator { author: 4, validators: 4 });
    assert_eq!(c.refused(|p| p.cores.push(p.cores[0].clone())), E::DuplicateValidator(0));
    assert!(matches!(
        c.refused(|p| resign(p, 1, &|core| core.attestation.seq = 0)),
        E::AttestsOutside { author: 1, seq: 0, first: 1, last: 3 }
    ));
    assert!(matches!(
        c.refused(|p| resign(p, 1, &|core| core.attestation.seq = 2)),
        E::AttestsOther { author: 1, seq: 2, .. }
    ));
    assert!(matches!(c.refused(|p| set(p, 2, &|it| it.state_root = other)), E::AttestsOther { author: 3, seq: 3, .. }));
    assert_eq!(c.refused(|p| p.cores[2][CORE_LEN + 5] ^= 1), E::Signature { author: 3, round: 9 });
    assert_eq!(c.refused(|p| drop(p.cores.pop())), E::Stake { stake: 2, total: 4, quorum: 3 });
    assert!(matches!(c.refused(|p| p.headers[0][40] ^= 1), E::HeaderLink { before: 2, found: 3 }));
    assert!(matches!(c.refused(|p| drop(p.headers.pop())), E::Covered { height: 2, seq: 1, covered: 3, .. }));
    // A proof of another genesis: same validators, another network.
    let mut renamed = c.genesis.clone();
    renamed.network = "another".to_owned();
    let elsewhere = TrustedSet::of_genesis(&renamed).expect("valid");
    assert!(matches!(c.proof().verify(&elsewhere, &Stub), Err(E::Chain { .. })));
}

#[test]
fn stake_counts_not_heads() {
    let chain = chain(&[1, 1, 1, 7]);
    // Three of four heads, but of ten stakes 9 in one proof and 3 in the other: 7 are needed.
    assert_eq!(chain.proof().verify(&chain.trusted(), &Stub).map(|finality| finality.stake), Ok(9));
    let mut proof = chain.proof();
    proof.cores[2] = sign(chain.core(2, 2));
    let refused = proof.verify(&chain.trusted(), &Stub);
    assert_eq!(refused, Err(LightError::Stake { stake: 3, total: 10, quorum: 7 }));
}

/// The digests of a fixed chain and proof: another implementation, and the next version, must come to the same.
#[test]
fn the_vectors_of_a_fixed_chain_do_not_change() {
    let chain = chain(&[1; 4]);
    let proof = chain.proof();
    let digest = |parts: &[Vec<u8>]| h("vector", &parts.concat()).to_string();
    let found = [digest(&proof.headers), digest(&proof.checkpoints), digest(&proof.cores)];
    assert_eq!(found, VECTORS, "{found:#?}");
}

const VECTORS: [&str; 3] = [
    "0xccfb0cbff2161f576c46545cead07487be79bf969e72363b2d3cffe378e162f2",
    "0xe3d6f4289f3dfa94f771fe0c2758cfe81ce0fa764d21b530192006376a1f8d7f",
    "0xe453224415d9af65a52c6a9e66a7258336aeed8ba9d6945fc8907b1e89df5908",
];

/// Epoch 0 ends after checkpoint 4, which names these validators of epoch 1.
fn hop_to(chain: &Chain, set: &ValidatorSet, root: Option<Hash>) -> (EpochHop, EpochCert) {
    let last = chain.checkpoints[2];
    let checkpoint = Checkpoint { seq: last.seq + 1, prev_digest: last.digest(), next_set_root: root, ..last };
    let attested = CkptRef { seq: checkpoint.seq, digest: checkpoint.digest() };
    let commit = CommitRef { index: checkpoint.commit_index, digest: checkpoint.commit_digest };
    let core = |author| {
        let core = BlockCore { attestation: attested, commit_vote: commit, ..chain.core(author, 0) };
        SignedCore::decode(&sign(core)).expect("a core")
    };
    let cert = EpochCert { epoch: 0, commit, checkpoint: attested, cores: [0, 1, 3].map(core).to_vec() };
    let hop = EpochHop { certificate: cert.encode(), checkpoint: checkpoint.encode(), validators: set.encode() };
    (hop, cert)
}

fn next_set() -> ValidatorSet {
    let member = |id: u32| SetMember {
        id,
        name: format!("v{id}"),
        address: owner(0),
        consensus_key: key(u16::try_from(id).expect("few")),
        network_key: PublicKey::new(vec![2; 40]),
        stake: 5,
    };
    ValidatorSet { epoch: 1, validators: vec![member(1), member(6), member(7)] }
}

#[test]
fn a_hop_leads_to_the_validators_that_the_final_checkpoint_names() {
    let (chain, set) = (chain(&[1; 4]), next_set());
    let (hop, _) = hop_to(&chain, &set, Some(set.root()));
    let next = chain.trusted().hop_all(std::slice::from_ref(&hop), &Stub).expect("holds");
    assert_eq!((next.epoch(), next.committee().total(), next.committee().quorum()), (1, 15, 11));
    // The validators of epoch 0 prove nothing in epoch 1, and a hop leads over one epoch only.
    assert!(matches!(chain.proof().verify(&next, &Stub), Err(LightError::Epoch { expected: 1, .. })));
    assert!(matches!(next.hop(&hop, &Stub), Err(LightError::Epoch { found: 0, expected: 1, .. })));
}

#[test]
fn a_hop_with_another_set_without_a_quorum_or_with_a_bad_signature_is_refused() {
    let (chain, set) = (chain(&[1; 4]), next_set());
    let trusted = chain.trusted();
    let mut richer = set.clone();
    richer.validators[1].stake = 500;
    let (hop, cert) = hop_to(&chain, &set, Some(set.root()));
    let other = EpochHop { validators: richer.encode(), ..hop.clone() };
    assert!(matches!(trusted.hop(&other, &Stub), Err(LightError::NextSet { found, .. }) if found == richer.root()));
    let (unnamed, _) = hop_to(&chain, &set, None);
    assert!(matches!(trusted.hop(&unnamed, &Stub), Err(LightError::NextSet { expected: None, .. })));
    let late = ValidatorSet { epoch: 2, ..set.clone() };
    let (skips, _) = hop_to(&chain, &late, Some(late.root()));
    assert!(matches!(trusted.hop(&skips, &Stub), Err(LightError::Epoch { found: 2, expected: 1, .. })));
    let mut few = cert.clone();
    few.cores.pop();
    let few = EpochHop { certificate: few.encode(), ..hop.clone() };
    assert!(matches!(trusted.hop(&few, &Stub), Err(LightError::Stake { stake: 2, .. })));
    let mut forged = cert;
    forged.cores[1].core.timestamp_ms += 1;
    let forged = EpochHop { certificate: forged.encode(), ..hop };
    assert!(matches!(trusted.hop(&forged, &Stub), Err(LightError::Signature { author: 1, .. })));
}
