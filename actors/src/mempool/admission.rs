//! Admission: from a client's bytes to a batcher. Refuses early, with the rule that was broken.
//!
//! Never waits in its loop: signatures are checked by the dispatcher, and the answers come back as messages. What it
//! remembers dies with it; transactions that it handed to a batcher go on without it.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_ledger::transaction::Transaction;
use aurigraph_ledger::{AccountIndex, FeeSchedule, Hash};
use aurigraph_runtime::{ActorError, Address, Behaviour, CallError, Context, Reply, SendError};
use bytes::Bytes;
use tokio::task::JoinSet;

use super::chain_view::{ChainView, Latest};
use super::messages::{Accepted, AdmissionMsg, BatcherMsg, RETRY_AFTER, Source};
use super::pool::{Pool, Rules};
use super::refusal::Refusal;
use crate::bounds::mempool as bounds;
use crate::crypto::{DispatchError, DispatchMsg, Priority, TransactionCheck, Verdict};

/// What admission is made of.
pub struct AdmissionParts {
    /// The chain that transactions must name.
    pub chain_id: Hash,
    /// What they cost.
    pub fees: FeeSchedule,
    /// How many batchers there are: `batcher/0` and so on.
    pub batchers: usize,
    /// Whether this node is a validator now.
    pub proposes: Arc<dyn Fn() -> bool + Send + Sync>,
    /// The newest published state.
    pub latest: Latest,
    /// Whether this node's state is far behind the others'.
    pub behind: Behind,
}

/// Tells whether a node's state is far behind the others'.
pub type Behind = Arc<dyn Fn() -> bool + Send + Sync>;

/// The admission actor.
pub struct Admission {
    parts: AdmissionParts,
}

impl Admission {
    /// The actor of these parts.
    #[must_use]
    pub const fn new(parts: AdmissionParts) -> Self {
        Self { parts }
    }
}

/// What a client of a node without batchers is told.
const OBSERVER: &str = "this node is an observer, send to a validator";

type Outcome = Result<Accepted, Refusal>;

/// Where the answers of one message go.
#[derive(Debug)]
enum Answer {
    One(Reply<Outcome>),
    Many(Reply<Vec<Outcome>>),
}

impl Answer {
    /// Every place is filled when this is called; one that is not would be the node's fault, not the client's.
    fn give(self, outcomes: Vec<Option<Outcome>>) {
        let missing = || Err(Refusal::Overloaded { what: "no verdict", retry_after: RETRY_AFTER });
        let mut outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(missing));
        match self {
            Self::One(reply) => reply.send(outcomes.next().unwrap_or_else(missing)),
            Self::Many(reply) => reply.send(outcomes.collect()),
        }
    }
}

/// One message's transactions while their signatures are checked.
#[derive(Debug)]
pub struct Submission {
    answer: Answer,
    outcomes: Vec<Option<Outcome>>,
    /// Place among the outcomes, and the transaction.
    checking: Vec<(usize, Arc<Transaction>)>,
}

/// What admission's own tasks report.
#[derive(Debug)]
pub enum Internal {
    /// Signatures were checked, or could not be.
    Verified {
        /// Whose.
        submission: Submission,
        /// One verdict per checked transaction.
        verdicts: Result<Vec<Option<Verdict>>, Refusal>,
    },
    /// A new incarnation of this batcher runs.
    BatcherUp(usize),
}

/// What one incarnation holds.
pub struct AdmissionState {
    pool: Pool,
    view: Option<Arc<dyn ChainView>>,
    dispatcher: Address<DispatchMsg>,
    batchers: Vec<Address<BatcherMsg>>,
    proposes: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Waits for verdicts and for new batchers; aborted with the incarnation, which drops the clients' replies.
    tasks: JoinSet<()>,
}

impl Behaviour for Admission {
    type Msg = AdmissionMsg;
    type State = AdmissionState;

    async fn start(&self, ctx: &Context<AdmissionMsg>) -> Result<AdmissionState, ActorError> {
        let mut tasks = JoinSet::new();
        let mut batchers = Vec::new();
        for at in 0..self.parts.batchers {
            let address = ctx.registry.role::<BatcherMsg>(&format!("batcher/{at}"));
            let (mut generations, mouth) = (address.generations(), ctx.mouth());
            tasks.spawn(async move {
                while generations.changed().await.is_ok() {
                    mouth.send(AdmissionMsg::Internal(Internal::BatcherUp(at)));
                }
            });
            batchers.push(address);
        }
        let rules = Rules { chain_id: self.parts.chain_id, fees: self.parts.fees };
        Ok(AdmissionState {
            pool: Pool::new(rules),
            view: (self.parts.latest)(),
            dispatcher: ctx.registry.role("verify-dispatcher"),
            batchers,
            proposes: Arc::clone(&self.parts.proposes),
            tasks,
        })
    }

    async fn handle(
        &self,
        ctx: &Context<AdmissionMsg>,
        message: AdmissionMsg,
        state: &mut AdmissionState,
    ) -> Result<(), ActorError> {
        while state.tasks.try_join_next().is_some() {}
        match message {
            AdmissionMsg::Submit { transaction, source, reply } => {
                state.submit(ctx, &self.parts.behind, &[transaction], source, Answer::One(reply));
            }
            AdmissionMsg::SubmitMany { transactions, source, reply } => {
                state.submit(ctx, &self.parts.behind, &transactions, source, Answer::Many(reply));
            }
            AdmissionMsg::Published(view) => {
                state.pool.published(&*view);
                state.view = Some(view);
            }
            AdmissionMsg::Pending { id, reply } => reply.send(state.pool.status(&id)),
            AdmissionMsg::Sealed { batch, ids } => ids.iter().for_each(|id| state.pool.batched(id, batch)),
            AdmissionMsg::Internal(Internal::Verified { submission, verdicts }) => {
                state.verified(submission, verdicts);
            }
            AdmissionMsg::Internal(Internal::BatcherUp(at)) => state.hand_over_again(at),
        }
        metrics::gauge!("mempool_transactions").set(state.pool.len() as f64);
        metrics::gauge!("mempool_bytes").set(state.pool.bytes() as f64);
        Ok(())
    }
}

impl AdmissionState {
    fn submit(
        &mut self,
        ctx: &Context<AdmissionMsg>,
        behind: &Behind,
        transactions: &[Bytes],
        source: Source,
        answer: Answer,
    ) {
        let mut submission = Submission { answer, outcomes: vec![None; transactions.len()], checking: Vec::new() };
        let mut checks = Vec::new();
        for (at, bytes) in transactions.iter().enumerate() {
            let checked = match &self.view {
                // Nothing that is taken here would ever be in a batch.
                _ if self.batchers.is_empty() || !(self.proposes)() => {
                    Err(Refusal::Overloaded { what: OBSERVER, retry_after: RETRY_AFTER })
                }
                Some(view) => match self.pool.admit(&**view, bytes) {
                    // The others' state may well take it: "never" would be wrong.
                    Err(refusal) if refusal.is_of_its_time() && behind() => {
                        Err(Refusal::NotReady { retry_after: RETRY_AFTER })
                    }
                    checked => checked,
                },
                None => Err(Refusal::NotReady { retry_after: RETRY_AFTER }),
            };
            match checked {
                Ok(check) => {
                    submission.checking.push((at, Arc::clone(&check.transaction)));
                    checks.push(check);
                }
                Err(refusal) => submission.outcomes[at] = Some(Err(refusal)),
            }
        }
        metrics::counter!("transactions_submitted_total", "source" => source.name())
            .increment(transactions.len() as u64);
        if checks.is_empty() {
            return finish(submission);
        }
        let (dispatcher, mouth) = (self.dispatcher.clone(), ctx.mouth());
        self.tasks.spawn(async move {
            let verdicts = verify(&dispatcher, checks).await;
            mouth.send(AdmissionMsg::Internal(Internal::Verified { submission, verdicts }));
        });
    }

    fn verified(&mut self, mut submission: Submission, verdicts: Result<Vec<Option<Verdict>>, Refusal>) {
        let mut valid: BTreeMap<usize, Vec<(usize, Arc<Transaction>)>> = BTreeMap::new();
        let checking = std::mem::take(&mut submission.checking);
        for (number, (at, transaction)) in checking.into_iter().enumerate() {
            let id = transaction.id();
            let verdict = verdicts.as_ref().map(|all| all.get(number).copied().flatten());
            let refusal = match verdict {
                Ok(Some(Verdict { valid: true, .. })) => match self.pool.queue(&transaction) {
                    Some(account) => {
                        valid.entry(self.batcher_of(account)).or_default().push((at, transaction));
                        continue;
                    }
                    None => self.overtaken(&transaction),
                },
                Ok(Some(Verdict { valid: false, .. })) => Refusal::InvalidSignature { id },
                Ok(None) => Refusal::Overloaded { what: "no verdict", retry_after: RETRY_AFTER },
                Err(refusal) => refusal.clone(),
            };
            self.pool.remove(&id);
            submission.outcomes[at] = Some(Err(refusal));
        }
        for (batcher, transactions) in valid {
            self.hand_over(batcher, transactions, &mut submission.outcomes);
        }
        finish(submission);
    }

    /// While its signature was checked, it expired, or its nonce was used by what others committed.
    fn overtaken(&self, transaction: &Transaction) -> Refusal {
        let (nonce, expiry) = (transaction.nonce(), transaction.expiry());
        match &self.view {
            Some(view) if view.height() < expiry => {
                let base = view.account(&transaction.sender()).map_or(0, |account| account.nonce_base);
                Refusal::NonceUsed { nonce, base }
            }
            Some(view) => Refusal::Expired { expiry, height: view.height() + 1 },
            None => Refusal::NotReady { retry_after: RETRY_AFTER },
        }
    }

    const fn batcher_of(&self, account: AccountIndex) -> usize {
        if self.batchers.is_empty() { 0 } else { account.as_usize() % self.batchers.len() }
    }

    fn hand_over(
        &mut self,
        batcher: usize,
        transactions: Vec<(usize, Arc<Transaction>)>,
        outcomes: &mut [Option<Outcome>],
    ) {
        let all = transactions.iter().map(|(_, transaction)| Arc::clone(transaction)).collect();
        let sent = match self.batchers.get(batcher) {
            Some(address) => address.send(BatcherMsg::Add { transactions: all }),
            None => Ok(()),
        };
        // One that is restarting gets them when it is back; one that is full would not.
        let full = sent.is_err_and(|error: SendError<_>| error.is_full());
        for (at, transaction) in transactions {
            let id = transaction.id();
            outcomes[at] = Some(if full {
                self.pool.remove(&id);
                Err(Refusal::Overloaded { what: "the batcher's mailbox", retry_after: RETRY_AFTER })
            } else {
                Ok(Accepted { id })
            });
        }
    }

    /// A new batcher has nothing of what the one before held.
    fn hand_over_again(&self, batcher: usize) {
        let transactions = self.pool.queued(|account| self.batcher_of(account) == batcher);
        if let Some(address) = self.batchers.get(batcher).filter(|_| !transactions.is_empty()) {
            metrics::counter!("transactions_handed_over_again_total").increment(transactions.len() as u64);
            // If it has ended again, its successor gets them.
            let _ = address.send(BatcherMsg::Add { transactions });
        }
    }
}

fn finish(submission: Submission) {
    for outcome in submission.outcomes.iter().flatten() {
        match outcome {
            Ok(_) => metrics::counter!("transactions_admitted_total").increment(1),
            Err(refusal) => {
                metrics::counter!("transactions_refused_total", "reason" => refusal.name()).increment(1);
            }
        }
    }
    submission.answer.give(submission.outcomes);
}

/// Asks the dispatcher, and its successors if it ends meanwhile.
async fn verify(
    dispatcher: &Address<DispatchMsg>,
    checks: Vec<TransactionCheck>,
) -> Result<Vec<Option<Verdict>>, Refusal> {
    let overloaded = |what| Refusal::Overloaded { what, retry_after: RETRY_AFTER };
    for _ in 0..bounds::VERIFY_ATTEMPTS {
        let before = dispatcher.generation();
        let checks = checks.clone();
        let asked = dispatcher.ask(|reply| DispatchMsg::VerifyTransactions {
            checks,
            priority: Priority::Admission,
            reply: Some(reply),
        });
        match asked {
            Ok(answer) => match answer.await {
                Ok(Ok(verdicts)) => return Ok(verdicts),
                Ok(Err(DispatchError::Overloaded { .. })) => return Err(overloaded("signature checks")),
                Err(_) => {}
            },
            Err(CallError::Full(_)) => return Err(overloaded("signature checks")),
            Err(_) => {}
        }
        let mut generations = dispatcher.generations();
        let back = generations.wait_for(|generation| *generation != before);
        if tokio::time::timeout(bounds::DISPATCHER_BACK, back).await.is_err() {
            break;
        }
    }
    Err(overloaded("the verifiers are restarting"))
}
