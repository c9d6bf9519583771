//! Signs transactions for accounts that the node holds: the one place where their nonces are chosen.
//!
//! Being one actor makes it safe under concurrency. A new incarnation forgets what is pending: the mempool then says
//! which nonces are taken, and others are tried.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aurigraph_gpu::{Seed, Signer as KeyPair};
use aurigraph_ledger::types::{MAX_EXPIRY, NONCE_WINDOW};
use aurigraph_ledger::{
    AccountIndex, Address as AccountAddress, BuildError, Hash, SenderKey, Target, TransactionBuilder,
};
use aurigraph_runtime::{ActorError, Address, Behaviour, CallError, Context, Reply};
use bytes::Bytes;

use super::port::{Action, Fate, Order, Submitted};
use super::sources::Sources;
use crate::bounds::query as bounds;

use crate::events::EventHubMsg;
use crate::mempool::{Accepted, AdmissionMsg, ChainView, Refusal, Source};
use crate::published::Published;

/// Attempts with other nonces, if the one that was chosen turns out to be taken.
const ATTEMPTS: usize = 8;
/// Signed transactions can be included for this many heights.
const EXPIRY: u64 = MAX_EXPIRY / 4;

/// Why a transaction was not signed or not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignerError {
    /// The node holds no key for the account.
    #[error("this node holds no key for account {0}")]
    UnknownAccount(Hash),
    /// The account was never credited.
    #[error("account {0} does not exist in the ledger yet: it was never credited")]
    NoAccountYet(Hash),
    /// Nothing is published yet.
    #[error("the node has not published a state yet")]
    NotReady,
    /// All nonces of the window are in use.
    #[error("account {account} has {pending} transactions pending")]
    NoNonceLeft {
        /// The account.
        account: Hash,
        /// How many are pending.
        pending: usize,
    },
    /// The transaction cannot be expressed.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The key could not be used.
    #[error("signing failed: {0}")]
    Key(String),
    /// The mempool refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The mempool did not answer.
    #[error(transparent)]
    Call(#[from] CallError),
}

/// What the signer is told.
#[derive(Debug)]
pub enum SignerMsg {
    /// Sign and submit a transaction.
    Sign {
        /// What it is to do.
        order: Box<Order>,
        /// Whether the client waits for the commit.
        wait: bool,
        /// Once the mempool has answered.
        reply: Reply<Result<Submitted, SignerError>>,
    },
    /// For the signer itself: the mempool answered.
    Answered(Box<Attempt>, Result<Accepted, SignerError>),
}

/// One try of one order.
#[derive(Debug)]
pub struct Attempt {
    order: Box<Order>,
    wait: bool,
    nonce: u64,
    left: usize,
    fate: Option<Fate>,
    reply: Reply<Result<Submitted, SignerError>>,
}

struct Held {
    key: KeyPair,
    /// Nonces given out, and the last height at which they can be used.
    pending: BTreeMap<u64, u64>,
}

/// The signer.
pub struct Signer {
    sources: Arc<Sources>,
}

impl Signer {
    /// A signer for the accounts of the node's settings.
    #[must_use]
    pub const fn new(sources: Arc<Sources>) -> Self {
        Self { sources }
    }
}

/// What one incarnation holds.
pub struct SignerState {
    held: HashMap<Hash, Held>,
    admission: Address<AdmissionMsg>,
    hub: Address<EventHubMsg>,
}

/// Of the nonces of the window this far up, a node takes those of its own class first.
const CLASS_WINDOW: u64 = NONCE_WINDOW / 4;

/// Which nonces a node prefers: those that leave its own remainder, so that nodes that sign for one account at the same
/// time rarely take the same. It falls back to any, because the window slides only when every nonce at its base is used.
#[derive(Debug, Clone, Copy)]
struct Class {
    nodes: u64,
    own: u64,
}

/// The first nonce that is neither used nor pending: of the own class close to the base, else of any.
fn free_nonce(pending: &BTreeMap<u64, u64>, base: u64, class: Class, used: impl Fn(u64) -> bool) -> Option<u64> {
    let free = |nonce: &u64| !pending.contains_key(nonce) && !used(*nonce);
    let preferred = base..base.saturating_add(CLASS_WINDOW);
    let own = preferred.filter(|nonce| nonce % class.nodes == class.own).find(free);
    own.or_else(|| (base..base.saturating_add(NONCE_WINDOW)).find(free))
}

impl Held {
    /// Forgets what was included or can no longer be, then takes a nonce.
    fn take_nonce(
        &mut self,
        published: &Published,
        account: AccountIndex,
        base: u64,
        class: Class,
        expiry: u64,
    ) -> Option<u64> {
        let (height, used) = (published.height(), |nonce| published.nonce_used(account, nonce));
        self.pending.retain(|nonce, expiry| *nonce >= base && *expiry > height && !used(*nonce));
        if self.pending.len() >= bounds::SIGNER_PENDING {
            return None;
        }
        let nonce = free_nonce(&self.pending, base, class, used)?;
        self.pending.insert(nonce, expiry);
        Some(nonce)
    }
}

fn class_of(sources: &Sources) -> Class {
    let nodes = (sources.settings.genesis.validators.len() as u64).max(1);
    Class { nodes, own: sources.settings.validator.map_or(0, u64::from) % nodes }
}

impl SignerState {
    /// Builds and signs with a fresh nonce.
    fn sign(&mut self, sources: &Sources, order: &Order) -> Result<(Hash, Bytes, u64), SignerError> {
        let published = sources.newest().ok_or(SignerError::NotReady)?;
        let held = self.held.get_mut(&order.from).ok_or(SignerError::UnknownAccount(order.from))?;
        let index = published.view.find(&AccountAddress(order.from));
        let account = index.and_then(|index| published.view.account(index));
        let account = account.ok_or(SignerError::NoAccountYet(order.from))?;
        let expiry = published.height() + EXPIRY;
        let nonce = held.take_nonce(&published, account.index, account.nonce, class_of(sources), expiry);
        let full = || SignerError::NoNonceLeft { account: order.from, pending: held.pending.len() };
        let nonce = nonce.ok_or_else(full)?;
        match held.signed(sources.chain_id, &published, order, account.has_key.then_some(account.index), nonce, expiry)
        {
            Ok((id, bytes)) => Ok((id, bytes, nonce)),
            Err(error) => {
                held.pending.remove(&nonce);
                Err(error)
            }
        }
    }

    fn attempt(&mut self, sources: &Sources, ctx: &Context<SignerMsg>, mut attempt: Box<Attempt>) {
        let (id, transaction) = match self.sign(sources, &attempt.order) {
            Ok((id, bytes, nonce)) => {
                attempt.nonce = nonce;
                (id, bytes)
            }
            Err(error) => return attempt.reply.send(Err(error)),
        };
        if attempt.wait {
            // Before it is submitted, so that the commit is not missed. A hub that cannot take it: the client polls.
            attempt.fate = self.hub.ask(|reply| EventHubMsg::AwaitTransaction { hash: id, reply }).ok();
        }
        let (admission, mouth) = (self.admission.clone(), ctx.mouth());
        // As many of these tasks as nonces are pending, which is bounded.
        tokio::spawn(async move {
            let ask = |reply| AdmissionMsg::Submit { transaction, source: Source::Node, reply };
            let answer = match admission.call(bounds::ADMISSION_WITHIN, ask).await {
                Ok(answer) => answer.map_err(SignerError::from),
                Err(error) => Err(error.into()),
            };
            mouth.send(SignerMsg::Answered(attempt, answer));
        });
    }

    fn answered(
        &mut self,
        sources: &Sources,
        ctx: &Context<SignerMsg>,
        mut attempt: Box<Attempt>,
        answer: Result<Accepted, SignerError>,
    ) {
        let error = match answer {
            Ok(accepted) => return attempt.reply.send(Ok(Submitted { id: accepted.id, fate: attempt.fate })),
            Err(error) => error,
        };
        let taken = matches!(error, SignerError::Refused(Refusal::NonceUsed { .. } | Refusal::NoncePending { .. }));
        if taken && attempt.left > 0 {
            // The nonce stays marked: somebody else has it.
            attempt.left -= 1;
            return self.attempt(sources, ctx, attempt);
        }
        // After a time-out nobody knows whether the mempool has it. The nonce is free again all the same: if the mempool has
        // it, the next try is told so and moves on; a nonce that stayed marked would block the account in the end.
        if !taken && let Some(held) = self.held.get_mut(&attempt.order.from) {
            held.pending.remove(&attempt.nonce);
        }
        attempt.reply.send(Err(error));
    }
}

impl Held {
    fn signed(
        &self,
        chain_id: Hash,
        published: &Published,
        order: &Order,
        registered: Option<AccountIndex>,
        nonce: u64,
        expiry: u64,
    ) -> Result<(Hash, Bytes), SignerError> {
        let sender = registered.map_or_else(|| SenderKey::PublicKey(self.key.public_key().to_vec()), SenderKey::Index);
        let unsigned =
            TransactionBuilder::new(chain_id, sender, nonce, expiry).fees(published.view.fees()).memo(&order.memo);
        let unsigned = match &order.action {
            Action::Transfer { recipient, amount } => {
                unsigned.transfer(Target::Address(AccountAddress(*recipient)), *amount)
            }
            Action::Staking(operation) => unsigned.staking(operation.clone()),
        }
        .build()?;
        let signature =
            self.key.sign(&unsigned.signing_message()).map_err(|error| SignerError::Key(error.to_string()))?;
        let transaction = unsigned.with_signature(&signature)?;
        Ok((transaction.id(), transaction.shared_bytes()))
    }
}

impl Behaviour for Signer {
    type Msg = SignerMsg;
    type State = SignerState;

    async fn start(&self, ctx: &Context<SignerMsg>) -> Result<SignerState, ActorError> {
        let mut held = HashMap::new();
        for account in &self.sources.settings.accounts {
            let key = KeyPair::from_seed(&Seed::new(account.seed))?;
            held.insert(account.address, Held { key, pending: BTreeMap::new() });
        }
        Ok(SignerState { held, admission: ctx.registry.role("admission"), hub: ctx.registry.role("event-hub") })
    }

    async fn handle(
        &self,
        ctx: &Context<SignerMsg>,
        message: SignerMsg,
        state: &mut SignerState,
    ) -> Result<(), ActorError> {
        match message {
            SignerMsg::Sign { order, wait, reply } => {
                let attempt = Attempt { order, wait, nonce: 0, left: ATTEMPTS, fate: None, reply };
                state.attempt(&self.sources, ctx, Box::new(attempt));
            }
            SignerMsg::Answered(attempt, answer) => state.answered(&self.sources, ctx, attempt, answer),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_nonce_skips_what_is_used_or_pending() {
        let pending = BTreeMap::from([(5, 100), (7, 100)]);
        let alone = Class { nodes: 1, own: 0 };
        assert_eq!(free_nonce(&pending, 5, alone, |nonce| nonce == 6), Some(8));
        assert_eq!(free_nonce(&BTreeMap::new(), 5, alone, |_| false), Some(5));
        assert_eq!(free_nonce(&BTreeMap::new(), 5, alone, |_| true), None);
        assert_eq!(free_nonce(&BTreeMap::new(), u64::MAX, alone, |_| false), None);
    }

    #[test]
    fn nodes_take_nonces_of_their_own_class_first_and_one_alone_can_use_all() {
        let mut taken = std::collections::BTreeSet::new();
        let mut pending = [BTreeMap::new(), BTreeMap::new()];
        for _ in 0..100 {
            for own in 0..2_u64 {
                let pending = &mut pending[usize::from(own == 1)];
                let nonce = free_nonce(pending, 0, Class { nodes: 2, own }, |_| false).expect("room");
                pending.insert(nonce, 9);
                assert!(taken.insert(nonce), "{nonce} is taken twice");
            }
        }
        let mut pending = BTreeMap::new();
        while let Some(nonce) = free_nonce(&pending, 0, Class { nodes: 4, own: 3 }, |_| false) {
            pending.insert(nonce, 9);
        }
        assert_eq!(pending.len() as u64, NONCE_WINDOW);
    }
}
