//! The worker of a device: a thin actor before the one thread that owns it.
//!
//! Jobs are gathered into batches by size or time. A batch that the device fails is checked on the processor; one in so many
//! signatures is checked there in any case, and a device that lied once is never believed again. A thread that hangs in
//! the device cannot be killed: the device is given up, the actor fails, and its successor checks on the processor.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use aurigraph_gpu::{BatchVerifier, Cuda, Device, KeyCacheCounts, KeyUse, Seed, Signer, VerifyItem, test_device};
use aurigraph_runtime::{ActorError, Behaviour, Context, Mouth};

use super::gpu_state::{GpuState, GpuStatus};
use super::job_reply::JobReply;
use super::messages::{Check, VerifierMsg, items};
use super::verifier::{EIGHT, Farewell, VerifierError};
use crate::bounds::crypto as bounds;

/// Opens the device, in the thread that will own it. The error is what `/info` says.
pub type Open = Arc<dyn Fn() -> Result<Box<dyn Device>, String> + Send + Sync>;

/// Batches that the thread holds: one that it works on, and one so that it never waits.
const IN_FLIGHT: usize = 2;

/// Sizes and times; the defaults are the documented bounds.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    /// Signatures that make a batch full.
    pub batch: usize,
    /// How long a batch that is not full waits.
    pub wait: Duration,
    /// A batch that takes longer hangs.
    pub deadline: Duration,
    /// One in so many signatures is checked on the processor as well.
    pub check_every: usize,
    /// From how many signatures on a batch goes to the device; measured at the start if none is given.
    pub crossover: Option<usize>,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            batch: bounds::ITEMS_PER_DEVICE_JOB,
            wait: bounds::DEVICE_WAIT,
            deadline: bounds::DEVICE_DEADLINE,
            check_every: bounds::DEVICE_CHECK_EVERY,
            crossover: None,
        }
    }
}

/// The worker.
pub struct GpuWorker {
    state: Arc<GpuState>,
    open: Open,
    cpu: Arc<dyn BatchVerifier>,
    tuning: Tuning,
}

impl GpuWorker {
    /// The worker of the CUDA device whose state this is.
    #[must_use]
    pub fn cuda(state: Arc<GpuState>) -> Self {
        let index = state.index();
        let open = move || {
            let count = aurigraph_gpu::count_devices().map_err(|none| none.to_string())?;
            if index >= count {
                return Err(format!("no CUDA device {index}: the driver finds {count}"));
            }
            Cuda::open(index)
                .map(|device| Box::new(device) as Box<dyn Device>)
                .map_err(|error| format!("the CUDA device {index} cannot be used: {error}"))
        };
        Self::new(state, Arc::new(open), super::cpu_back_end(), Tuning::default())
    }

    /// A worker of any device.
    #[must_use]
    pub fn new(state: Arc<GpuState>, open: Open, cpu: Arc<dyn BatchVerifier>, tuning: Tuning) -> Self {
        Self { state, open, cpu, tuning }
    }
}

/// What the worker's timers and thread report.
#[derive(Debug)]
pub enum DeviceMsg {
    /// A batch has waited long enough.
    Flush(u64),
    /// A batch should be done by now.
    Overdue(u64),
    /// A batch is done.
    Done {
        /// One verdict an item.
        verdicts: Vec<bool>,
        /// How long the device worked on it; zero if the processor did.
        busy: Duration,
        /// Bytes copied to and from the device for it.
        transferred: u64,
    },
    /// A second has passed.
    Second,
}

type Job = (Arc<[Check]>, JobReply);

struct Batch {
    number: u64,
    jobs: Vec<Arc<[Check]>>,
}

struct Waiting {
    number: u64,
    replies: Vec<(usize, JobReply)>,
}

/// What an incarnation holds. Dropping it ends the thread after the batch that it is at.
pub struct GpuWorkerState {
    queue: SyncSender<Batch>,
    ended: Arc<AtomicBool>,
    /// Jobs of the batch that is being gathered, which has this number.
    gathered: Vec<Job>,
    next: u64,
    in_flight: VecDeque<Waiting>,
    /// The device's time since the last second's end.
    busy: Duration,
    measured: Instant,
}

impl Drop for GpuWorkerState {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Behaviour for GpuWorker {
    type Msg = VerifierMsg;
    type State = GpuWorkerState;

    async fn start(&self, ctx: &Context<VerifierMsg>) -> Result<GpuWorkerState, ActorError> {
        let (queue, batches) = sync_channel(IN_FLIGHT);
        let ended = Arc::new(AtomicBool::new(false));
        let owner = Owner {
            state: Arc::clone(&self.state),
            open: Arc::clone(&self.open),
            cpu: Arc::clone(&self.cpu),
            tuning: self.tuning,
            ended: Arc::clone(&ended),
            mouth: ctx.mouth(),
        };
        let farewell = Farewell(ctx.mouth());
        std::thread::Builder::new().name(ctx.name.clone()).spawn(move || owner.run(&batches, farewell))?;
        ctx.send_after(Duration::from_secs(1), VerifierMsg::Device(DeviceMsg::Second));
        Ok(GpuWorkerState {
            queue,
            ended,
            gathered: Vec::new(),
            next: 0,
            in_flight: VecDeque::new(),
            busy: Duration::ZERO,
            measured: Instant::now(),
        })
    }

    async fn handle(
        &self,
        ctx: &Context<VerifierMsg>,
        message: VerifierMsg,
        state: &mut GpuWorkerState,
    ) -> Result<(), ActorError> {
        match message {
            VerifierMsg::Job { items, reply } => {
                state.gathered.push((items, reply));
                if state.gathered.len() == 1 && self.state.ready().is_some() {
                    ctx.send_after(self.tuning.wait, VerifierMsg::Device(DeviceMsg::Flush(state.next)));
                }
                let full = state.waiting() >= self.tuning.batch;
                // Without a device there is nothing to gather for.
                if full || self.state.ready().is_none() { self.send(ctx, state) } else { Ok(()) }
            }
            VerifierMsg::Device(DeviceMsg::Flush(number)) if number == state.next => self.send(ctx, state),
            VerifierMsg::Device(DeviceMsg::Flush(_)) => Ok(()),
            VerifierMsg::Device(DeviceMsg::Done { verdicts, busy, transferred }) => {
                state.busy += busy;
                metrics::counter!("gpu_transferred_bytes_total", "device" => self.state.label()).increment(transferred);
                if let Some(waiting) = state.in_flight.pop_front() {
                    waiting.answer(verdicts);
                }
                self.send(ctx, state)
            }
            VerifierMsg::Device(DeviceMsg::Overdue(number)) => {
                let late = state.in_flight.iter().any(|waiting| waiting.number == number);
                // Once the device is given up the processor may take its time.
                if late && self.state.ready().is_some() {
                    let why = format!("a batch was not done within {:?}", self.tuning.deadline);
                    self.state.quarantine(why, true);
                    self.fell_back("hung");
                    return Err(VerifierError::TooSlow(ctx.name.clone()).into());
                }
                Ok(())
            }
            VerifierMsg::Device(DeviceMsg::Second) => {
                let passed = state.measured.elapsed().as_secs_f64().max(f64::EPSILON);
                let percent = (100.0 * state.busy.as_secs_f64() / passed).min(100.0);
                metrics::gauge!("gpu_utilization_percent", "device" => self.state.label()).set(percent);
                let used = f64::from(u8::from(self.state.ready().is_some()));
                metrics::gauge!("gpu_used", "device" => self.state.label()).set(used);
                (state.busy, state.measured) = (Duration::ZERO, Instant::now());
                ctx.send_after(Duration::from_secs(1), VerifierMsg::Device(DeviceMsg::Second));
                Ok(())
            }
            VerifierMsg::ThreadEnded => Err(VerifierError::ThreadEnded(ctx.name.clone()).into()),
            VerifierMsg::GiveUp { generation } if generation == ctx.generation => {
                Err(VerifierError::TooSlow(ctx.name.clone()).into())
            }
            VerifierMsg::GiveUp { .. } => Ok(()),
        }
    }
}

impl GpuWorkerState {
    fn waiting(&self) -> usize {
        self.gathered.iter().map(|(items, _)| items.len()).sum()
    }
}

impl GpuWorker {
    fn fell_back(&self, why: &'static str) {
        metrics::counter!("gpu_fallbacks_total", "device" => self.state.label(), "why" => why).increment(1);
    }

    /// Gives the gathered batch to the thread, if it has room.
    fn send(&self, ctx: &Context<VerifierMsg>, state: &mut GpuWorkerState) -> Result<(), ActorError> {
        let queue = metrics::gauge!("gpu_queue", "device" => self.state.label());
        queue.set(state.waiting() as f64);
        if state.gathered.is_empty() || state.in_flight.len() >= IN_FLIGHT {
            return Ok(());
        }
        let (number, items) = (state.next, state.waiting());
        let (mut jobs, mut replies) = (Vec::new(), Vec::new());
        for (items, reply) in state.gathered.drain(..) {
            replies.push((items.len(), reply));
            jobs.push(items);
        }
        state.next += 1;
        queue.set(0.0);
        metrics::gauge!("gpu_batch_size", "device" => self.state.label()).set(items as f64);
        match state.queue.try_send(Batch { number, jobs }) {
            Ok(()) => {
                state.in_flight.push_back(Waiting { number, replies });
                ctx.send_after(self.tuning.deadline, VerifierMsg::Device(DeviceMsg::Overdue(number)));
                Ok(())
            }
            // Never, as no more are in flight than there is room for; the dropped replies send the jobs elsewhere.
            Err(TrySendError::Full(_)) => Ok(()),
            Err(TrySendError::Disconnected(_)) => Err(VerifierError::ThreadEnded(ctx.name.clone()).into()),
        }
    }
}

impl Waiting {
    fn answer(self, verdicts: Vec<bool>) {
        let mut rest = verdicts.as_slice();
        for (len, reply) in self.replies {
            // A batch that is short of verdicts was not done: the dropped replies say so.
            let Some((mine, others)) = rest.split_at_checked(len) else { return };
            reply.send(mine.to_vec());
            rest = others;
        }
    }
}

/// The thread that owns the device.
struct Owner {
    state: Arc<GpuState>,
    open: Open,
    cpu: Arc<dyn BatchVerifier>,
    tuning: Tuning,
    ended: Arc<AtomicBool>,
    mouth: Mouth<VerifierMsg>,
}

/// A thread that panics in a device's code takes the device with it.
struct Blame<'a>(&'a GpuState);

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.quarantine("its thread panicked".to_owned(), false);
        }
    }
}

impl Owner {
    fn run(self, batches: &Receiver<Batch>, _farewell: Farewell) {
        let _blame = Blame(&self.state);
        let owned = if self.state.may_open() { self.state.own(self.tuning.deadline) } else { None };
        let mut device = match &owned {
            Some(_) => self.open(),
            None => {
                if self.state.may_open() {
                    self.state.quarantine("the thread before does not let go of it".to_owned(), true);
                }
                None
            }
        };
        if let Some(why) = self.state.why_not() {
            tracing::info!(device = self.state.index(), back_end = self.cpu.name(), "{why}: checking on the processor");
        }
        while let Ok(batch) = batches.recv() {
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            let checks = || batch.jobs.iter().flat_map(|job| job.iter());
            let messages: Vec<_> = checks().map(Check::message).collect();
            let items = items(checks(), &messages);
            let (start, mut busy) = (Instant::now(), Duration::ZERO);
            let mut verdicts = None;
            let mut transferred = 0;
            if let Some(mut used) = device.take() {
                let (before, keys) = (used.transferred(), used.table_counts());
                verdicts = self.on_device(&mut *used, batch.number, &items);
                busy = start.elapsed();
                transferred = used.transferred().saturating_sub(before);
                self.measure_keys(keys, used.table_counts());
                if verdicts.is_some() {
                    device = Some(used);
                }
            }
            let by = if verdicts.is_some() { "cuda" } else { self.cpu.name() };
            let Some(verdicts) = verdicts.or_else(|| self.on_processor(&items)) else { return };
            metrics::counter!("signature_checks_total", "backend" => by).increment(items.len() as u64);
            super::back_end::measure();
            self.mouth.send(VerifierMsg::Device(DeviceMsg::Done { verdicts, busy, transferred }));
        }
    }

    /// What a batch did to the device's table of expanded keys.
    fn measure_keys(&self, before: KeyCacheCounts, now: KeyCacheCounts) {
        let more = |now: u64, before: u64| now.saturating_sub(before);
        let device = || self.state.label();
        metrics::counter!("gpu_key_hits_total", "device" => device()).increment(more(now.hits, before.hits));
        metrics::counter!("gpu_key_misses_total", "device" => device()).increment(more(now.misses, before.misses));
        metrics::counter!("gpu_key_evictions_total", "device" => device())
            .increment(more(now.evictions, before.evictions));
        metrics::gauge!("gpu_key_bytes", "device" => device()).set(now.bytes as f64);
    }

    /// Opens, tests and measures; whatever goes wrong stands in the state afterwards.
    fn open(&self) -> Option<Box<dyn Device>> {
        self.state.set(GpuStatus::Starting);
        let mut device = match (self.open)() {
            Ok(device) => device,
            Err(why) => {
                self.state.set(GpuStatus::Absent(why));
                return None;
            }
        };
        if let Err(error) = test_device(&mut *device) {
            self.state.quarantine(error.to_string(), true);
            return None;
        }
        let (crossover, rate) = match self.tuning.crossover {
            Some(crossover) => (crossover, 1.0),
            None => match self.measure(&mut *device) {
                Ok(Some(found)) => found,
                Ok(None) => {
                    let why = "the device is slower than the processor at every size of a batch".to_owned();
                    self.state.set(GpuStatus::Absent(why));
                    return None;
                }
                Err(why) => {
                    self.state.quarantine(why, false);
                    return None;
                }
            },
        };
        let info = device.info();
        tracing::info!(device = info.index, name = %info.name, crossover, rate, "a device checks signatures");
        self.state.set(GpuStatus::Ready { name: info.name, crossover, rate });
        Some(device)
    }

    /// From which size of a batch on the device is faster than all of the processor's cores, and its rate there.
    fn measure(&self, device: &mut dyn Device) -> Result<Option<(usize, f64)>, String> {
        let signer = Signer::from_seed(&Seed::new([0x6d; 32])).map_err(|error| error.to_string())?;
        let message = [0x6d; 200];
        let signature = signer.sign(&message).map_err(|error| error.to_string())?;
        let item = VerifyItem::new(signer.public_key(), &message, &signature);
        let start = Instant::now();
        const ON_CPU: u32 = 32;
        for _ in 0..ON_CPU {
            if !self.cpu.verify(&item) {
                return Err("the processor refuses a good signature".to_owned());
            }
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let on_cpu = start.elapsed() / ON_CPU / u32::try_from(cores).unwrap_or(1);
        let mut times = Vec::new();
        for size in [64, 256, 1_024, 4_096] {
            let items = vec![item; size];
            let start = Instant::now();
            // Each key expanded anew: what a batch of strangers costs.
            let verdicts = device.verify(&items, KeyUse::Each).map_err(|error| error.to_string())?;
            if verdicts.len() != size || verdicts.contains(&false) {
                return Err("a batch of good signatures was refused".to_owned());
            }
            times.push((size, start.elapsed()));
        }
        Ok(crossover(&times, on_cpu))
    }

    /// The device's verdicts. None, and the device given up, if it fails or lies.
    fn on_device(&self, device: &mut dyn Device, number: u64, items: &[VerifyItem<'_>]) -> Option<Vec<bool>> {
        let gone = |why: &'static str, text: String, for_good| {
            metrics::counter!("gpu_fallbacks_total", "device" => self.state.label(), "why" => why).increment(1);
            self.state.quarantine(text, for_good);
            None
        };
        let verdicts = match device.verify(items, KeyUse::Table) {
            Ok(verdicts) if verdicts.len() == items.len() => verdicts,
            Ok(verdicts) => {
                return gone("error", format!("{} verdicts for {} signatures", verdicts.len(), items.len()), false);
            }
            Err(error) => return gone("error", error.to_string(), false),
        };
        let every = self.tuning.check_every.max(1);
        // Another place in every batch, and one in any.
        let first = usize::try_from(number).unwrap_or(0) % every.min(items.len().max(1));
        let checks = metrics::counter!("gpu_cross_checks_total", "device" => self.state.label());
        for at in (first..items.len()).step_by(every) {
            checks.increment(1);
            if self.cpu.verify(&items[at]) != verdicts[at] {
                return gone("lie", format!("it called a signature {}, and the processor did not", verdicts[at]), true);
            }
        }
        metrics::counter!("gpu_batches_total", "device" => self.state.label()).increment(1);
        Some(verdicts)
    }

    fn on_processor(&self, items: &[VerifyItem<'_>]) -> Option<Vec<bool>> {
        let mut verdicts = Vec::with_capacity(items.len());
        for eight in items.chunks(EIGHT) {
            // A dead incarnation's work is done by another verifier.
            if self.ended.load(Ordering::Acquire) {
                return None;
            }
            let mut some = [false; EIGHT];
            self.cpu.verify_batch(eight, &mut some[..eight.len()]);
            verdicts.extend_from_slice(&some[..eight.len()]);
        }
        Some(verdicts)
    }
}

/// The first size at which the device is faster than the processor, and its best rate.
fn crossover(times: &[(usize, Duration)], on_cpu: Duration) -> Option<(usize, f64)> {
    let per_second = |(size, time): &(usize, Duration)| *size as f64 / time.as_secs_f64().max(1e-9);
    let faster = times.iter().find(|time| per_second(time) * on_cpu.as_secs_f64() > 1.0)?;
    Some((faster.0, times.iter().map(per_second).fold(0.0, f64::max)))
}

#[cfg(test)]
#[path = "gpu_worker_tests.rs"]
mod tests;
