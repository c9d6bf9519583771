//! A verifier: a thin actor before one thread that checks signatures on the processor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use aurigraph_gpu::BatchVerifier;
use aurigraph_runtime::{ActorError, Behaviour, Context, Mouth};

use super::job_reply::JobReply;
use super::messages::{Check, VerifierMsg, items};
use crate::bounds::crypto as bounds;

/// Why a verifier fails.
#[derive(Debug, thiserror::Error)]
pub(super) enum VerifierError {
    /// Its thread is gone although nobody stopped it.
    #[error("the thread of {0} has ended")]
    ThreadEnded(String),
    /// Its thread hangs.
    #[error("{0} did not finish a job in time")]
    TooSlow(String),
}

/// Signatures given to the back-end together: as many as it hashes side by side, and few enough that an ended incarnation
/// stops soon.
pub(super) const EIGHT: usize = 8;

/// One verifier actor.
pub struct Verifier {
    back_end: Arc<dyn BatchVerifier>,
}

impl Verifier {
    /// A verifier on one core.
    #[must_use]
    pub fn cpu(back_end: Arc<dyn BatchVerifier>) -> Self {
        Self { back_end }
    }
}

struct Job {
    items: Arc<[Check]>,
    reply: JobReply,
}

/// What an incarnation holds. Dropping it ends the thread after the signatures, eight at most, that it is checking.
pub struct VerifierState {
    queue: SyncSender<Job>,
    ended: Arc<AtomicBool>,
}

impl Drop for VerifierState {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Release);
    }
}

impl Behaviour for Verifier {
    type Msg = VerifierMsg;
    type State = VerifierState;

    async fn start(&self, ctx: &Context<VerifierMsg>) -> Result<VerifierState, ActorError> {
        let (queue, jobs) = sync_channel(bounds::JOBS_PER_VERIFIER);
        let ended = Arc::new(AtomicBool::new(false));
        let (back_end, stop, mouth) = (Arc::clone(&self.back_end), Arc::clone(&ended), ctx.mouth());
        std::thread::Builder::new()
            .name(ctx.name.clone())
            .spawn(move || check_until_ended(&*back_end, &jobs, &stop, Farewell(mouth)))?;
        Ok(VerifierState { queue, ended })
    }

    async fn handle(
        &self,
        ctx: &Context<VerifierMsg>,
        message: VerifierMsg,
        state: &mut VerifierState,
    ) -> Result<(), ActorError> {
        match message {
            VerifierMsg::Job { items, reply } => match state.queue.try_send(Job { items, reply }) {
                Ok(()) => Ok(()),
                // More than the dispatcher may give: the dropped reply sends the job elsewhere.
                Err(TrySendError::Full(_)) => Ok(()),
                Err(TrySendError::Disconnected(_)) => Err(VerifierError::ThreadEnded(ctx.name.clone()).into()),
            },
            // Not for a verifier without a device.
            VerifierMsg::Device(_) => Ok(()),
            VerifierMsg::ThreadEnded => Err(VerifierError::ThreadEnded(ctx.name.clone()).into()),
            VerifierMsg::GiveUp { generation } if generation == ctx.generation => {
                Err(VerifierError::TooSlow(ctx.name.clone()).into())
            }
            VerifierMsg::GiveUp { .. } => Ok(()),
        }
    }
}

/// Tells the actor that its thread has ended, also when it panicked.
pub(super) struct Farewell(pub(super) Mouth<VerifierMsg>);

impl Drop for Farewell {
    fn drop(&mut self) {
        // Nobody is there to hear it when the incarnation ended first.
        self.0.send(VerifierMsg::ThreadEnded);
    }
}

fn check_until_ended(back_end: &dyn BatchVerifier, jobs: &Receiver<Job>, ended: &AtomicBool, _farewell: Farewell) {
    let checks = metrics::counter!("signature_checks_total", "backend" => back_end.name());
    while let Ok(job) = jobs.recv() {
        let mut verdicts = Vec::with_capacity(job.items.len());
        for eight in job.items.chunks(EIGHT) {
            // A dead incarnation's work is done by another verifier: dropping the reply says so.
            if ended.load(Ordering::Acquire) {
                return;
            }
            let messages: Vec<_> = eight.iter().map(Check::message).collect();
            let items = items(eight, &messages);
            let mut some = [false; EIGHT];
            back_end.verify_batch(&items, &mut some[..items.len()]);
            verdicts.extend_from_slice(&some[..items.len()]);
        }
        checks.increment(verdicts.len() as u64);
        super::back_end::measure();
        job.reply.send(verdicts);
    }
}
