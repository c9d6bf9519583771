//! The snapshots actor: writes one now and then in the background, of the published state that readers share.
//!
//! Execution never waits for it: a view of a checkpoint is immutable, and is written by a thread of the blocking pool.
//! A state is written once its checkpoint is certified, which is a few rounds after it was executed.

use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::Certificate;
use aurigraph_ledger::{Checkpoint, StateView};
use aurigraph_runtime::{ActorError, Behaviour, Context};

use super::files::{self, Found};
use crate::bounds::snapshots as bounds;
use crate::context::NodeContext;
use crate::storage::{Record, RecordKind};

/// What the snapshots actor is told, by itself only.
#[derive(Debug)]
pub enum SnapshotsMsg {
    /// See whether one is due.
    Look,
    /// One was written, or could not be.
    Written(Result<Found, String>),
}

/// Writes snapshots; one per node.
pub struct Snapshots {
    node: Arc<NodeContext>,
}

impl Snapshots {
    /// The actor of this node.
    #[must_use]
    pub const fn new(node: Arc<NodeContext>) -> Self {
        Self { node }
    }
}

/// What one incarnation holds.
pub struct State {
    /// Height of the newest snapshot on disk.
    newest: u64,
    /// A state that waits for its certificate, and since when.
    waiting: Option<(StateView, Instant)>,
    writing: bool,
}

impl Behaviour for Snapshots {
    type Msg = SnapshotsMsg;
    type State = State;

    async fn start(&self, ctx: &Context<SnapshotsMsg>) -> Result<State, ActorError> {
        let directory = self.node.settings.data_dir.clone();
        let found = tokio::task::spawn_blocking(move || files::clean(&directory, bounds::KEPT))
            .await
            .map_err(|error| format!("the cleaning thread ended: {error}"))??;
        drop(ctx.send_after(bounds::LOOK_EVERY, SnapshotsMsg::Look));
        Ok(State { newest: found.first().map_or(0, |found| found.height), waiting: None, writing: false })
    }

    async fn handle(
        &self,
        ctx: &Context<SnapshotsMsg>,
        message: SnapshotsMsg,
        state: &mut State,
    ) -> Result<(), ActorError> {
        match message {
            SnapshotsMsg::Look => {
                drop(ctx.send_after(bounds::LOOK_EVERY, SnapshotsMsg::Look));
                self.look(ctx, state)
            }
            SnapshotsMsg::Written(outcome) => {
                state.writing = false;
                match outcome {
                    Ok(found) => {
                        state.newest = state.newest.max(found.height);
                        #[allow(clippy::cast_precision_loss)]
                        metrics::gauge!("snapshot_height").set(found.height as f64);
                        metrics::counter!("snapshots_written_total").increment(1);
                        tracing::info!(height = found.height, path = %found.path.display(), "a snapshot is written");
                    }
                    // The next look tries a newer state.
                    Err(error) => tracing::warn!(%error, "a snapshot could not be written"),
                }
                Ok(())
            }
        }
    }
}

impl Snapshots {
    fn look(&self, ctx: &Context<SnapshotsMsg>, state: &mut State) -> Result<(), ActorError> {
        let every = self.node.settings.snapshot_every_blocks;
        if every == 0 || state.writing || self.node.divergence.lock().is_some() {
            return Ok(());
        }
        if state.waiting.as_ref().is_none_or(|(_, since)| since.elapsed() > bounds::CERTIFIED_WITHIN) {
            let proving = self.node.published.borrow().as_ref().and_then(|published| published.proving.clone());
            let due = |view: &StateView| view.height() >= state.newest.saturating_add(every) && view.height() > 0;
            state.waiting = proving.filter(due).map(|view| (view, Instant::now()));
        }
        let Some((view, _)) = &state.waiting else { return Ok(()) };
        let Some((certificate, followers)) = self.certificate(view.checkpoint())? else { return Ok(()) };
        let (view, directory, mouth) = (view.clone(), self.node.settings.data_dir.clone(), ctx.mouth());
        (state.waiting, state.writing) = (None, true);
        tokio::task::spawn_blocking(move || {
            let began = Instant::now();
            let outcome = files::write(&directory, &view, &certificate, &followers).and_then(|(found, _)| {
                files::clean(&directory, bounds::KEPT)?;
                Ok(found)
            });
            metrics::histogram!("snapshot_write_seconds").record(began.elapsed().as_secs_f64());
            mouth.send(SnapshotsMsg::Written(outcome.map_err(|error| error.to_string())));
        });
        Ok(())
    }

    /// The certificate of a checkpoint with the checkpoints up to the newest that it attests, if the log has them.
    fn certificate(&self, checkpoint: &Checkpoint) -> Result<Option<(Certificate, Vec<Checkpoint>)>, ActorError> {
        let journal = &self.node.journal;
        let Some(body) = journal.get(RecordKind::Certificate, &Record::index_key(checkpoint.seq))? else {
            return Ok(None);
        };
        let certificate =
            Certificate::decode(&body).map_err(|error| format!("a certificate does not decode: {error}"))?;
        let last = certificate.newest_attested().min(checkpoint.seq + bounds::FOLLOWERS as u64);
        let mut followers = Vec::new();
        for seq in checkpoint.seq + 1..=last {
            let Some(body) = journal.get(RecordKind::Checkpoint, &Record::index_key(seq))? else { return Ok(None) };
            followers
                .push(Checkpoint::decode(&body).map_err(|error| format!("a checkpoint does not decode: {error}"))?);
        }
        Ok(Some((certificate, followers)))
    }
}
