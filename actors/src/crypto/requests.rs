//! Requests under way: which verdicts are still missing, and how the answer is given.

use std::collections::HashMap;

use aurigraph_ledger::Hash;
use aurigraph_runtime::Reply;
use foldhash::fast::RandomState;

use super::messages::{DispatchError, Verdict};

/// Where the answer goes, and in which form.
#[derive(Debug)]
pub(super) enum Answer {
    /// Plain signatures.
    Plain(Reply<Result<Vec<bool>, DispatchError>>),
    /// Transactions, with the key hash of each that has one.
    Transactions(Reply<Result<Vec<Option<Verdict>>, DispatchError>>, Vec<Option<Hash>>),
    /// Nobody waits: only the cache is filled.
    Nobody,
}

impl Answer {
    pub fn refuse(self, error: DispatchError) {
        match self {
            Self::Plain(reply) => reply.send(Err(error)),
            Self::Transactions(reply, _) => reply.send(Err(error)),
            Self::Nobody => {}
        }
    }

    /// An item without a verdict is invalid for those who asked for a plain answer: there are none in such a request.
    fn give(self, verdicts: Vec<Option<bool>>) {
        match self {
            Self::Plain(reply) => reply.send(Ok(verdicts.into_iter().map(|valid| valid == Some(true)).collect())),
            Self::Transactions(reply, keys) => {
                let verdict = |(key_hash, valid): (Option<Hash>, Option<bool>)| {
                    key_hash.zip(valid).map(|(key_hash, valid)| Verdict { key_hash, valid })
                };
                reply.send(Ok(keys.into_iter().zip(verdicts).map(verdict).collect()));
            }
            Self::Nobody => {}
        }
    }
}

/// Where one verdict belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub request: u64,
    pub at: usize,
}

#[derive(Debug)]
struct Request {
    verdicts: Vec<Option<bool>>,
    missing: usize,
    answer: Answer,
}

/// All requests under way, by number.
#[derive(Debug, Default)]
pub(super) struct Requests {
    open: HashMap<u64, Request, RandomState>,
    next: u64,
}

impl Requests {
    /// Opens a request of which `missing` verdicts are still to come; the others are there. Answers at once if none is
    /// missing.
    pub fn open(&mut self, verdicts: Vec<Option<bool>>, missing: usize, answer: Answer) -> u64 {
        self.next += 1;
        if missing == 0 {
            answer.give(verdicts);
        } else {
            self.open.insert(self.next, Request { verdicts, missing, answer });
        }
        self.next
    }

    /// Fills one place, and answers when it was the last.
    pub fn fill(&mut self, place: Place, valid: bool) {
        let Some(request) = self.open.get_mut(&place.request) else { return };
        let Some(verdict @ None) = request.verdicts.get_mut(place.at) else { return };
        *verdict = Some(valid);
        request.missing -= 1;
        if request.missing == 0
            && let Some(request) = self.open.remove(&place.request)
        {
            request.answer.give(request.verdicts);
        }
    }
}
