//! Verify: attaches verdicts to the transactions of a commit before it reaches the single-writer execution.
//!
//! Most verdicts wait in the dispatcher's cache since the batch arrived. A transaction without a verdict is checked at
//! execution; a wrong or missing verdict can cost time, never change a result.

use std::sync::Arc;
use std::time::Duration;

use aurigraph_consensus::{Commit, Epoch, ProvenFault};
use aurigraph_ledger::{
    CommitInput, CommittedBatch, EpochEnd, Fault, FaultKind, PreparedTransaction, Transaction, Verdict,
};
use aurigraph_runtime::{ActorError, Address, Behaviour, Context};

use super::deliver;
use super::messages::{ExecuteMsg, OrderedCommit, VerifiedCommit, VerifyMsg};
use crate::consensus::protocol_version;
use crate::context::NodeContext;
use crate::crypto::{DispatchMsg, Priority, TransactionCheck};
use crate::mempool::ChainView;

/// How long the dispatcher may take for the transactions of one commit before execution checks them itself.
const VERIFY_TIMEOUT: Duration = Duration::from_secs(10);

/// The actor that attaches verdicts.
pub struct Verify {
    node: Arc<NodeContext>,
}

impl Verify {
    /// A verify stage of this node.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>) -> Self {
        Self { node }
    }
}

/// What lives as long as one incarnation.
pub struct State {
    dispatcher: Address<DispatchMsg>,
    execute: Address<ExecuteMsg>,
    /// The newest epoch that was asked about, and its protocol version.
    epoch: Option<(Epoch, u16)>,
}

impl Behaviour for Verify {
    type Msg = VerifyMsg;
    type State = State;

    async fn start(&self, ctx: &Context<VerifyMsg>) -> Result<State, ActorError> {
        let (dispatcher, execute) = (ctx.registry.role("verify-dispatcher"), ctx.registry.role("execute"));
        Ok(State { dispatcher, execute, epoch: None })
    }

    async fn handle(&self, _ctx: &Context<VerifyMsg>, message: VerifyMsg, state: &mut State) -> Result<(), ActorError> {
        let VerifyMsg::Commit(ordered) = message;
        // A stream of an incarnation that has ended: its successor has asked for its own. One of an incarnation that is
        // still starting has a higher number than the one that is known here.
        if ordered.stream < state.execute.generation() {
            return Ok(());
        }
        let mut transactions: Vec<Vec<PreparedTransaction>> = delivered(&ordered);
        // What was executed before was checked before: execution takes the mark's word, see `Mark::invalid`.
        if ordered.mark.is_none() {
            self.attach(state, &mut transactions).await;
        }
        let version = self.version(state, ordered.commit.header.epoch)?;
        let input = input(&ordered, version, transactions);
        let verified = VerifiedCommit { stream: ordered.stream, input, mark: ordered.mark };
        deliver(&state.execute, ExecuteMsg::Commit(Box::new(verified))).await
    }
}

impl Verify {
    /// The protocol version of an epoch: in the log since the epoch's start, which is ahead of its commits.
    fn version(&self, state: &mut State, epoch: Epoch) -> Result<u16, ActorError> {
        match state.epoch {
            Some((known, version)) if known == epoch => Ok(version),
            _ => {
                let version = protocol_version(&self.node.journal, epoch)?;
                state.epoch = Some((epoch, version));
                Ok(version)
            }
        }
    }

    async fn attach(&self, state: &State, batches: &mut [Vec<PreparedTransaction>]) {
        let published = self.node.published.borrow().clone();
        let checks: Vec<TransactionCheck> = batches
            .iter()
            .flatten()
            .map(|prepared| TransactionCheck {
                transaction: Arc::clone(&prepared.transaction),
                key: published
                    .as_ref()
                    .and_then(|state| state.account(&prepared.transaction.sender()))
                    .and_then(|account| account.key),
            })
            .collect();
        if checks.is_empty() {
            return;
        }
        let answer = state
            .dispatcher
            .call(VERIFY_TIMEOUT, |reply| DispatchMsg::VerifyTransactions {
                checks,
                priority: Priority::Execution,
                reply: Some(reply),
            })
            .await;
        match answer {
            Ok(Ok(verdicts)) => {
                for (prepared, verdict) in batches.iter_mut().flatten().zip(verdicts) {
                    prepared.verdict = verdict.map(|verdict| Verdict {
                        key_hash: aurigraph_ledger::Address(verdict.key_hash),
                        signature_digest: prepared.transaction.signature_digest(),
                        valid: verdict.valid,
                    });
                }
            }
            Ok(Err(error)) => tracing::warn!(%error, "execution checks signatures itself"),
            Err(error) => tracing::warn!(%error, "execution checks signatures itself"),
        }
    }
}

fn delivered(ordered: &OrderedCommit) -> Vec<Vec<PreparedTransaction>> {
    let prepared =
        |transaction: &Arc<Transaction>| PreparedTransaction { transaction: Arc::clone(transaction), verdict: None };
    let epoch = ordered.commit.header.epoch;
    ordered
        .batches
        .iter()
        .map(|(block, named, batch)| batch.delivered_by(epoch, block.author, named).iter().map(prepared).collect())
        .collect()
}

/// The signatures of carried evidence were checked before its block was accepted: a commit holds what is proven.
fn fault_of(fault: &ProvenFault) -> Fault {
    Fault {
        validator: fault.author,
        epoch: fault.epoch,
        kind: match fault.kind {
            aurigraph_consensus::FaultKind::Equivocation => FaultKind::Equivocation,
            aurigraph_consensus::FaultKind::ConflictingAttestation => FaultKind::ConflictingAttestation,
            aurigraph_consensus::FaultKind::ConflictingCommitVote => FaultKind::ConflictingCommitVote,
            aurigraph_consensus::FaultKind::Downtime => FaultKind::Downtime,
            aurigraph_consensus::FaultKind::WrongAttestation => FaultKind::WrongAttestation,
        },
        reporter: fault.reporter,
        digest: fault.digest,
    }
}

/// The faults that a commit proves, as the ledger takes them.
#[must_use]
pub fn faults_of(commit: &Commit) -> Vec<Fault> {
    commit.faults.iter().map(fault_of).collect()
}

fn input(ordered: &OrderedCommit, version: u16, transactions: Vec<Vec<PreparedTransaction>>) -> CommitInput {
    let header = &ordered.commit.header;
    let commit_digest = header.digest();
    let batches = ordered.batches.iter().zip(transactions);
    CommitInput {
        epoch: header.epoch,
        version,
        commit_index: header.index,
        commit_digest,
        timestamp_ms: header.timestamp_ms,
        leader: header.leader.author,
        round: header.leader.round,
        consensus_state_digest: ordered.commit.state_digest,
        batches: batches
            .map(|((block, named, _), transactions)| CommittedBatch {
                proposer: block.author,
                digest: named.digest,
                transactions,
            })
            .collect(),
        faults: faults_of(&ordered.commit),
        epoch_end: ordered.commit.epoch_end.as_ref().map(|end| EpochEnd { delivered: end.delivered.clone() }),
    }
}
