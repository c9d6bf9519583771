//! The verify-dispatcher: bounded queues by class, fair between senders, over all verifiers; remembers verdicts.
//!
//! A job whose verifier dies comes back by its dropped reply and goes to another. Nothing survives the dispatcher: its
//! callers see their replies dropped and ask again.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aurigraph_ledger::transaction::Transaction;
use aurigraph_runtime::{ActorError, Address, Behaviour, Context, Reply};
use foldhash::fast::RandomState;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::cache::{VerdictCache, VerdictKey};
use super::gpu_state::GpuState;
use super::job_reply::JobReply;
use super::messages::{
    Check, DispatchError, DispatchMsg, KnownKey, Priority, Signed, TransactionCheck, Verdict, VerifierMsg,
};
use super::queue::{Lane, Queues};
use super::requests::{Answer, Place, Requests};
use super::share::{Load, share};
use crate::bounds::crypto as bounds;

/// What the dispatcher's own tasks report.
#[derive(Debug)]
pub enum Internal {
    /// A job ended; without verdicts it was not done.
    Done {
        /// The job's number.
        job: u64,
        /// One verdict per item.
        verdicts: Option<Vec<bool>>,
    },
    /// A new incarnation of this verifier runs.
    VerifierUp(usize),
    /// Time to look for jobs that take too long.
    Look,
}

/// A verifier that the dispatcher may use.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Its role, `cpu-verifier/0`.
    pub role: String,
    /// For the worker of a device: where that stands. Without its device the worker would take the processor from the
    /// others, and is used only while no other runs.
    pub device: Option<Arc<GpuState>>,
}

/// The dispatcher.
pub struct VerifyDispatcher {
    workers: Vec<Worker>,
    deadline: Duration,
}

impl VerifyDispatcher {
    /// A dispatcher over these verifiers.
    #[must_use]
    pub const fn new(workers: Vec<Worker>) -> Self {
        Self { workers, deadline: bounds::JOB_DEADLINE }
    }

    /// Another deadline for jobs than the usual one.
    #[must_use]
    pub const fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

#[derive(Debug)]
struct Item {
    check: Check,
    /// For transactions: what the verdict is about.
    key: Option<VerdictKey>,
    place: Place,
}

struct Verifier {
    address: Address<VerifierMsg>,
    device: Option<Arc<GpuState>>,
    up: bool,
    jobs: usize,
    /// Signatures in those jobs.
    outstanding: usize,
    /// Signatures a second, as its jobs were done lately; none before the first.
    rate: Option<f64>,
    /// When it was last done with a job.
    done: Instant,
}

/// How often within their deadline late jobs are looked for.
const LOOKS: u32 = 4;

/// What a verifier is taken to do before it has done anything, signatures a second.
const FIRST_RATE: f64 = 10_000.0;

impl Verifier {
    /// A device's worker without its device.
    fn is_reserve(&self) -> bool {
        self.device.as_ref().is_some_and(|device| device.ready().is_none())
    }

    /// From how many signatures on its device is worth asking; none if there is none.
    fn crossover(&self) -> Option<usize> {
        self.device.as_ref()?.ready().map(|(crossover, _)| crossover)
    }

    /// What it holds, and its rate: of a device that is there the one measured at its start, until it has done a job.
    fn load(&self) -> Load {
        let first = || self.device.as_ref().and_then(|device| device.ready()).map_or(FIRST_RATE, |(_, rate)| rate);
        Load { outstanding: self.outstanding, rate: self.rate.unwrap_or_else(first) }
    }

    /// A job of so many signatures was done, which was given to it at that time.
    fn was_done(&mut self, items: usize, given: Instant) {
        let now = Instant::now();
        // It worked on another one before.
        let took = now.duration_since(given.max(self.done)).as_secs_f64().max(1e-6);
        let rate = items as f64 / took;
        self.rate = Some(self.rate.map_or(rate, |before| before + (rate - before) / 8.0));
        self.done = now;
    }

    /// A job of this incarnation was not done. If the incarnation is still there it dies now or hangs; either way its
    /// successor is announced.
    fn lost_a_job(&mut self, generation: u64) {
        let same = self.address.generation() == generation;
        if same {
            // Not running, or full of work that it does not do: nothing to tell it.
            let _ = self.address.send(VerifierMsg::GiveUp { generation });
        }
        self.up = !same && self.address.is_running();
    }
}

/// Of which classes a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Of the most urgent one that waits.
    OneClass,
    /// Of all but blocks of consensus: the processor is done with a few of those before a device is with a large job.
    NoBlocks,
    /// Of all.
    All,
}

/// An item out of its queue without its check: where it stood, and where its verdict belongs.
struct Taken {
    priority: Priority,
    lane: Lane,
    key: Option<VerdictKey>,
    place: Place,
}

struct Job {
    verifier: usize,
    generation: u64,
    /// One for each item; the verifier shares them.
    checks: Arc<[Check]>,
    items: Vec<Taken>,
    given: Instant,
}

/// What one incarnation holds.
pub struct DispatcherState {
    verifiers: Vec<Verifier>,
    queues: Queues<Item>,
    requests: Requests,
    cache: VerdictCache,
    jobs: HashMap<u64, Job, RandomState>,
    next_job: u64,
    /// Wait for new incarnations and for the time to look; aborted with the incarnation.
    _tasks: JoinSet<()>,
}

impl Behaviour for VerifyDispatcher {
    type Msg = DispatchMsg;
    type State = DispatcherState;

    async fn start(&self, ctx: &Context<DispatchMsg>) -> Result<DispatcherState, ActorError> {
        let mut tasks = JoinSet::new();
        let mut verifiers = Vec::new();
        for (at, worker) in self.workers.iter().enumerate() {
            let address = ctx.registry.role::<VerifierMsg>(&worker.role);
            let (mut generations, mouth) = (address.generations(), ctx.mouth());
            tasks.spawn(async move {
                while generations.changed().await.is_ok() {
                    mouth.send(DispatchMsg::Internal(Internal::VerifierUp(at)));
                }
            });
            let up = address.is_running();
            let device = worker.device.clone();
            let (jobs, outstanding, rate, done) = (0, 0, None, Instant::now());
            verifiers.push(Verifier { address, device, up, jobs, outstanding, rate, done });
        }
        let (mouth, deadline) = (ctx.mouth(), self.deadline);
        tasks.spawn(async move {
            let mut looks = tokio::time::interval(deadline / LOOKS);
            looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            while mouth.send(DispatchMsg::Internal(Internal::Look)) {
                looks.tick().await;
            }
        });
        Ok(DispatcherState {
            verifiers,
            queues: Queues::new(),
            requests: Requests::default(),
            cache: VerdictCache::new(bounds::VERDICTS),
            jobs: HashMap::default(),
            next_job: 0,
            _tasks: tasks,
        })
    }

    async fn handle(
        &self,
        ctx: &Context<DispatchMsg>,
        message: DispatchMsg,
        state: &mut DispatcherState,
    ) -> Result<(), ActorError> {
        match message {
            DispatchMsg::Verify { items, priority, reply } => state.take_plain(items, priority, reply),
            DispatchMsg::VerifyTransactions { checks, priority, reply } => {
                state.take_transactions(checks, priority, reply);
            }
            DispatchMsg::Internal(Internal::Done { job, verdicts }) => state.finish(job, verdicts),
            DispatchMsg::Internal(Internal::Look) => state.give_up_late_jobs(self.deadline),
            DispatchMsg::Internal(Internal::VerifierUp(at)) => {
                if let Some(verifier) = state.verifiers.get_mut(at) {
                    verifier.up = true;
                }
            }
        }
        state.share_out(ctx);
        state.measure();
        Ok(())
    }
}

impl DispatcherState {
    fn refusal(&mut self, priority: Priority, asked: usize) -> Option<DispatchError> {
        let (queued, bound) = self.queues.refuses(priority, asked)?;
        metrics::counter!("verify_refused_total", "class" => priority.name()).increment(asked as u64);
        Some(DispatchError::Overloaded { queued, bound, asked, retry_after: crate::mempool::RETRY_AFTER })
    }

    fn take_plain(&mut self, items: Vec<Check>, priority: Priority, reply: Reply<Result<Vec<bool>, DispatchError>>) {
        let answer = Answer::Plain(reply);
        if let Some(refusal) = self.refusal(priority, items.len()) {
            return answer.refuse(refusal);
        }
        let request = self.requests.open(vec![None; items.len()], items.len(), answer);
        for (at, check) in items.into_iter().enumerate() {
            let lane = lane_of(&check.public_key);
            self.queues.push(priority, lane, Item { check, key: None, place: Place { request, at } });
        }
    }

    fn take_transactions(
        &mut self,
        checks: Vec<TransactionCheck>,
        priority: Priority,
        reply: Option<Reply<Result<Vec<Option<Verdict>>, DispatchError>>>,
    ) {
        let mut verdicts = vec![None; checks.len()];
        let mut key_hashes = vec![None; checks.len()];
        let mut open = Vec::with_capacity(checks.len());
        for (at, TransactionCheck { transaction, key }) in checks.into_iter().enumerate() {
            let Some(key) = key.or_else(|| carried_key(&transaction)) else { continue };
            key_hashes[at] = Some(key.hash);
            open.push((at, about(&transaction, &key), key, transaction));
        }
        // One look-up after the other, as in all places: they wait for memory together.
        for (at, about, ..) in &open {
            let executed = priority == Priority::Execution;
            verdicts[*at] = if executed { self.cache.take(about) } else { self.cache.get(about) };
        }
        open.retain(|(at, ..)| verdicts[*at].is_none());
        let hits = key_hashes.iter().flatten().count() - open.len();
        metrics::counter!("verdict_cache_hits_total").increment(hits as u64);
        metrics::counter!("verdict_cache_misses_total").increment(open.len() as u64);
        let answer = reply.map_or(Answer::Nobody, |reply| Answer::Transactions(reply, key_hashes));
        if let Some(refusal) = self.refusal(priority, open.len()).filter(|_| !open.is_empty()) {
            return answer.refuse(refusal);
        }
        let request = self.requests.open(verdicts, open.len(), answer);
        for (at, about, key, transaction) in open {
            let lane = lane_of(&key.hash.0);
            let check = Check { public_key: key.bytes, signed: Signed::Transaction(transaction) };
            self.queues.push(priority, lane, Item { check, key: Some(about), place: Place { request, at } });
        }
    }

    /// Takes a job back: its verdicts, or its items for another verifier.
    fn finish(&mut self, number: u64, verdicts: Option<Vec<bool>>) {
        let Some(job) = self.jobs.remove(&number) else { return };
        let verifier = &mut self.verifiers[job.verifier];
        verifier.jobs -= 1;
        verifier.outstanding -= job.items.len();
        match verdicts.filter(|verdicts| verdicts.len() == job.items.len()) {
            Some(verdicts) => {
                verifier.was_done(job.items.len(), job.given);
                for (item, valid) in job.items.iter().zip(&verdicts) {
                    if let Some(key) = item.key {
                        self.cache.put(key, *valid);
                    }
                }
                for (item, valid) in job.items.into_iter().zip(verdicts) {
                    self.requests.fill(item.place, valid);
                }
            }
            None => {
                verifier.lost_a_job(job.generation);
                self.take_back(job.items, &job.checks);
            }
        }
    }

    /// Takes jobs that were given so long ago back, the oldest first.
    fn give_up_late_jobs(&mut self, deadline: Duration) {
        let mut late: Vec<u64> =
            self.jobs.iter().filter(|(_, job)| job.given.elapsed() >= deadline).map(|(number, _)| *number).collect();
        late.sort_unstable();
        for number in late {
            self.finish(number, None);
        }
    }

    fn take_back(&mut self, items: Vec<Taken>, checks: &[Check]) {
        metrics::counter!("verify_redispatched_total").increment(items.len() as u64);
        for (Taken { priority, lane, key, place }, check) in items.into_iter().zip(checks).rev() {
            self.queues.push_again(priority, lane, Item { check: check.clone(), key, place });
        }
    }

    /// Gives jobs to verifiers until either runs out.
    fn share_out(&mut self, ctx: &Context<DispatchMsg>) {
        while let Some((at, most, reach)) = self.choose() {
            let Some((items, checks)) = self.cut_job(most, reach) else { return };
            let generation = self.verifiers[at].address.generation();
            let shared = Arc::clone(&checks);
            self.next_job += 1;
            let reply = JobReply::new(self.next_job, ctx.mouth());
            if self.verifiers[at].address.send(VerifierMsg::Job { items: shared, reply }).is_err() {
                self.verifiers[at].lost_a_job(generation);
                self.take_back(items, &checks);
                continue;
            }
            self.verifiers[at].jobs += 1;
            self.verifiers[at].outstanding += items.len();
            self.jobs.insert(self.next_job, Job { verifier: at, generation, checks, items, given: Instant::now() });
        }
    }

    /// Who gets the next job, how many signatures it may have, and of which classes. A device is asked when as many wait
    /// as it needs to be faster, the one first that is done first, and gets the share of them with which all are done at
    /// the same time.
    fn choose(&self) -> Option<(usize, usize, Reach)> {
        let running = || self.verifiers.iter().enumerate().filter(|(_, verifier)| verifier.up);
        let on_processor = running().any(|(_, verifier)| verifier.device.is_none());
        let is_block = |priority| priority == Priority::Consensus;
        let device = running()
            .filter(|(_, verifier)| verifier.jobs < bounds::JOBS_PER_DEVICE)
            .filter_map(|(at, verifier)| {
                let crossover = verifier.crossover()?;
                let blocks = !on_processor || self.queues.len(is_block) >= crossover;
                let waiting = self.queues.len(|priority| blocks || !is_block(priority));
                let reach = if blocks { Reach::All } else { Reach::NoBlocks };
                (waiting >= crossover).then_some((at, verifier.load(), crossover, waiting, reach))
            })
            .min_by(|(_, one, ..), (_, other, ..)| one.seconds().total_cmp(&other.seconds()));
        if let Some((at, load, crossover, waiting, reach)) = device {
            let all = running().map(|(_, verifier)| verifier).filter(|verifier| !verifier.is_reserve());
            let share = share(waiting, load, all.map(Verifier::load));
            return Some((at, share.max(crossover).min(bounds::ITEMS_PER_DEVICE_JOB), reach));
        }
        let others_run = running().any(|(_, verifier)| !verifier.is_reserve());
        running()
            .filter(|(_, verifier)| verifier.jobs < bounds::JOBS_PER_VERIFIER)
            .filter(|(_, verifier)| !others_run || !verifier.is_reserve())
            // Small jobs go to a device only where nobody else is there.
            .min_by(|(_, one), (_, other)| {
                let of = |verifier: &Verifier| (verifier.device.is_some(), verifier.load().seconds());
                of(one).partial_cmp(&of(other)).unwrap_or(std::cmp::Ordering::Equal)
            })
            .filter(|(_, verifier)| verifier.device.is_none() || verifier.is_reserve() || !on_processor)
            .map(|(at, verifier)| (at, bounds::items_per_job(verifier.load().rate), Reach::OneClass))
    }

    /// The next items, the most urgent classes first. A small job is of one class: nothing urgent waits behind it for long.
    /// A device's job, which is done as a whole, is filled up out of the classes below. What another request has settled
    /// meanwhile is answered from the cache, and its place in the job goes to the next one.
    fn cut_job(&mut self, most: usize, reach: Reach) -> Option<(Vec<Taken>, Arc<[Check]>)> {
        let (mut items, mut checks) = (Vec::<Taken>::new(), Vec::new());
        loop {
            let before = items.len();
            while items.len() < most {
                let class = items.first().map(|item| item.priority);
                let may = |priority| match reach {
                    Reach::OneClass => class.is_none_or(|class| class == priority),
                    Reach::NoBlocks => priority != Priority::Consensus,
                    Reach::All => true,
                };
                let Some((priority, lane, item)) = self.queues.pop(may) else { break };
                items.push(Taken { priority, lane, key: item.key, place: item.place });
                checks.push(item.check);
            }
            let cached = |item: &Taken| item.key.and_then(|key| self.cache.get(&key));
            let settled: Vec<Option<bool>> = items[before..].iter().map(cached).collect();
            if settled.iter().all(Option::is_none) {
                return (!items.is_empty()).then(|| (items, checks.into()));
            }
            for (at, valid) in settled.into_iter().enumerate().rev() {
                if let Some(valid) = valid {
                    self.requests.fill(items.swap_remove(before + at).place, valid);
                    checks.swap_remove(before + at);
                }
            }
        }
    }

    fn measure(&self) {
        for (priority, len) in self.queues.lens() {
            metrics::gauge!("verify_queue", "class" => priority.name()).set(len as f64);
        }
        metrics::gauge!("verdict_cache_entries").set(self.cache.len() as f64);
    }
}

fn lane_of(key: &[u8]) -> Lane {
    key.first_chunk().map_or(0, |first| Lane::from_le_bytes(*first))
}

/// The key that the transaction carries, if it names its sender by address.
fn carried_key(transaction: &Transaction) -> Option<KnownKey> {
    let carried = transaction.sender_key()?;
    Some(KnownKey::of(transaction.shared_bytes().slice_ref(carried)))
}

fn about(transaction: &Transaction, key: &KnownKey) -> VerdictKey {
    VerdictKey { id: transaction.id(), signature: transaction.signature_digest(), key: key.hash }
}
