//! Exchanging snapshots with peers: serves this node's, and takes one when the order waits for it.
//!
//! A manifest proves its checkpoint by itself; its list of chunks is proven once all are there, by the state root and the
//! digest of the order's state. Chunks come from every peer whose snapshot has the same content. What was taken is
//! proven as a whole, marked to be begun with, and the process starts again from it (`install`).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::{Committee, TrustedSet};
use aurigraph_ledger::{Foundation, Hash, h};
use aurigraph_runtime::{ActorError, Address, Behaviour, Context};
use bytes::Bytes;
use parking_lot::Mutex;

use super::fetch::{Fetch, Got, Progress, Unfinished};
use super::files::{self, Signatures};
use super::install;
use super::manifest::Manifest;
use super::shelf::Shelf;
use super::wire::{ManifestPart, SnapshotMessage};
use crate::bounds::snapshots as bounds;
use crate::consensus::ValidatorMsg;
use crate::context::NodeContext;

/// What the actor is told.
#[derive(Debug)]
pub enum SnapshotSyncMsg {
    /// See whether a snapshot is waited for, and what has not come in time.
    Look,
    /// A peer's message.
    Network {
        /// Who sent it.
        peer: String,
        /// The message.
        bytes: Bytes,
    },
    /// A peer's manifest was checked: the manifest, or why it is refused.
    Proven {
        /// Whose.
        peer: String,
        /// The manifest.
        outcome: Result<Box<Manifest>, String>,
    },
    /// The snapshot that was taken proves itself, and is marked to be begun with; or not.
    Finished(Finished),
}

/// What became of a snapshot whose chunks were all there.
#[derive(Debug)]
pub struct Finished(Result<u64, Unfinished>);

/// Exchanges snapshots; one per node.
pub struct SnapshotSync(pub Arc<NodeContext>);

/// What one incarnation holds.
pub struct State {
    validator: Address<ValidatorMsg>,
    phase: Phase,
    /// Not asked before this.
    rests_until: Option<Instant>,
    /// How often peers were asked: each time others come first.
    turn: usize,
    /// Peers whose snapshot was wrong, and since when.
    struck: HashMap<String, Instant>,
    /// Requests of each peer in the current second.
    served: HashMap<String, (Instant, u32)>,
    shelf: Arc<Mutex<Shelf>>,
}

enum Phase {
    Idle,
    Asking(Offers),
    Fetching(Box<Fetch>),
    Proving { holders: Vec<String> },
}

/// What peers offer.
struct Offers {
    /// When something came last.
    since: Instant,
    /// Peers that have not given all of their manifest yet, and what of it is here.
    asked: BTreeMap<String, Option<ManifestPart>>,
    /// Peers whose manifests are being checked.
    checking: BTreeSet<String>,
    proven: BTreeMap<String, Box<Manifest>>,
}

impl Offers {
    /// Whether nothing more is to be waited for.
    fn are_in(&self, now: Instant) -> bool {
        let patience = if self.proven.is_empty() { bounds::MANIFESTS_WITHIN } else { bounds::OTHERS_WITHIN };
        let late = now.duration_since(self.since) >= patience;
        self.checking.is_empty() && (self.asked.is_empty() || late)
    }
}

impl Behaviour for SnapshotSync {
    type Msg = SnapshotSyncMsg;
    type State = State;

    async fn start(&self, ctx: &Context<SnapshotSyncMsg>) -> Result<State, ActorError> {
        let directory = self.0.settings.data_dir.clone();
        // A fetch that was cut begins anew.
        blocking(move || files::abandon(&directory)).await??;
        drop(ctx.send_after(bounds::LOOK_EVERY, SnapshotSyncMsg::Look));
        Ok(State {
            validator: ctx.registry.role("validator"),
            phase: Phase::Idle,
            rests_until: None,
            turn: 0,
            struck: HashMap::new(),
            served: HashMap::new(),
            shelf: Arc::default(),
        })
    }

    async fn handle(
        &self,
        ctx: &Context<SnapshotSyncMsg>,
        message: SnapshotSyncMsg,
        state: &mut State,
    ) -> Result<(), ActorError> {
        match message {
            SnapshotSyncMsg::Look => {
                drop(ctx.send_after(bounds::LOOK_EVERY, SnapshotSyncMsg::Look));
                self.look(state).await
            }
            SnapshotSyncMsg::Network { peer, bytes } => match SnapshotMessage::decode(&bytes) {
                Ok(message) => self.on_message(ctx, state, peer, message).await,
                Err(error) => {
                    charge(state, &peer, &error.to_string());
                    Ok(())
                }
            },
            SnapshotSyncMsg::Proven { peer, outcome } => {
                self.on_proven(state, peer, outcome);
                Ok(())
            }
            SnapshotSyncMsg::Finished(Finished(outcome)) => {
                self.on_finished(state, outcome);
                Ok(())
            }
        }
    }
}

impl SnapshotSync {
    async fn look(&self, state: &mut State) -> Result<(), ActorError> {
        let now = Instant::now();
        state.struck.retain(|_, since| now.duration_since(*since) < bounds::STRUCK_FOR);
        state.served.retain(|_, (since, _)| now.duration_since(*since) < bounds::MANIFESTS_WITHIN);
        if let Some(mut shelf) = state.shelf.try_lock() {
            shelf.tidy(now);
        }
        match &mut state.phase {
            Phase::Idle => {
                let waits = self.0.consensus_status.borrow().as_ref().is_some_and(|status| status.awaits_snapshot);
                if waits && state.rests_until.is_none_or(|until| until <= now) {
                    self.begin(state, now).await?;
                }
                return Ok(());
            }
            Phase::Asking(offers) => {
                if offers.are_in(now) {
                    return self.choose(state).await;
                }
            }
            Phase::Fetching(fetch) => {
                fetch.expire(now);
                self.pump(fetch, now);
                fetch.tell(now);
                if fetch.holders().is_empty() {
                    return self.give_up(state, "no peer gives its parts any more").await;
                }
            }
            Phase::Proving { .. } => {}
        }
        tell(state, true);
        Ok(())
    }

    /// The order waits for a snapshot: asks peers for theirs.
    async fn begin(&self, state: &mut State, now: Instant) -> Result<(), ActorError> {
        // An earlier incarnation's thread may have come to its end.
        let directory = self.0.settings.data_dir.clone();
        if let Some(height) = blocking(move || install::requested(&directory)).await?? {
            self.leave(height);
            return Ok(());
        }
        if self.0.settings.retention.is_none() && self.0.journal.highest_commit().is_some() {
            return self.give_up(state, "storage.archive keeps the log whole, and it has begun").await;
        }
        let ask = SnapshotMessage::AskManifest { digest: Hash::ZERO, part: 0 }.frame();
        let mut peers = self.0.net.connected();
        peers.retain(|peer| !state.struck.contains_key(peer));
        let count = peers.len().max(1);
        peers.rotate_left(state.turn.wrapping_mul(bounds::MANIFESTS_AT_ONCE) % count);
        state.turn = state.turn.wrapping_add(1);
        peers.truncate(bounds::MANIFESTS_AT_ONCE);
        peers.retain(|peer| self.0.net.send_serving(peer, ask.clone()));
        tracing::info!(?peers, "far behind: asks peers for a snapshot");
        state.phase = Phase::Asking(Offers {
            since: now,
            asked: peers.into_iter().map(|peer| (peer, None)).collect(),
            checking: BTreeSet::new(),
            proven: BTreeMap::new(),
        });
        tell(state, true);
        Ok(())
    }

    async fn on_message(
        &self,
        ctx: &Context<SnapshotSyncMsg>,
        state: &mut State,
        peer: String,
        message: SnapshotMessage,
    ) -> Result<(), ActorError> {
        match message {
            SnapshotMessage::AskManifest { .. } | SnapshotMessage::AskChunk { .. } => {
                if may_ask(&mut state.served, &peer, Instant::now()) {
                    return self.serve(state, peer, message).await;
                }
                metrics::counter!("snapshot_requests_dropped_total", "peer" => peer).increment(1);
            }
            SnapshotMessage::Manifest(answer) => self.on_manifest(ctx, state, peer, answer),
            SnapshotMessage::Chunk { height, number, bytes } => {
                return self.on_chunk(ctx, state, &peer, height, number as usize, bytes).await;
            }
        }
        Ok(())
    }

    /// Answers a peer from the snapshots on disk.
    async fn serve(&self, state: &State, peer: String, message: SnapshotMessage) -> Result<(), ActorError> {
        let (node, shelf) = (Arc::clone(&self.0), Arc::clone(&state.shelf));
        blocking(move || {
            let reply = shelf.lock().answer(&node.settings.data_dir, &message, Instant::now());
            // A reply that finds no room is asked for again.
            let _ = node.net.send_serving(&peer, reply.frame());
        })
        .await
    }

    fn on_manifest(
        &self,
        ctx: &Context<SnapshotSyncMsg>,
        state: &mut State,
        peer: String,
        answer: Option<ManifestPart>,
    ) {
        let Phase::Asking(offers) = &mut state.phase else { return };
        let Some(before) = offers.asked.remove(&peer) else { return };
        let Some(part) = answer else { return };
        offers.since = Instant::now();
        match joined(before, part) {
            Ok(Joined::More(here)) => {
                let part = here.part + 1;
                let ask = SnapshotMessage::AskManifest { digest: here.digest, part };
                if self.0.net.send_serving(&peer, ask.frame()) {
                    offers.asked.insert(peer, Some(here));
                }
            }
            Ok(Joined::Whole(bytes)) => {
                offers.checking.insert(peer.clone());
                let (genesis, mouth) = (self.0.settings.genesis.clone(), ctx.mouth());
                tokio::spawn(async move {
                    let checked = blocking(move || proven(&bytes, &genesis).map(Box::new)).await;
                    let outcome = checked.unwrap_or_else(|error| Err(error.to_string()));
                    mouth.send(SnapshotSyncMsg::Proven { peer, outcome });
                });
            }
            Err(reason) => charge(state, &peer, reason),
        }
    }

    fn on_proven(&self, state: &mut State, peer: String, outcome: Result<Box<Manifest>, String>) {
        let Phase::Asking(offers) = &mut state.phase else { return };
        offers.checking.remove(&peer);
        offers.since = Instant::now();
        match outcome {
            Ok(manifest) => {
                // One that helps little is no offence.
                if self.0.consensus_status.borrow().as_ref().is_some_and(|status| {
                    manifest.commit_index > status.last_commit.index && manifest.commit_index >= status.snapshot_least
                }) {
                    offers.proven.insert(peer, manifest);
                }
            }
            Err(reason) => charge(state, &peer, &reason),
        }
    }

    /// Takes one of those that were offered, from all who have it.
    async fn choose(&self, state: &mut State) -> Result<(), ActorError> {
        let Phase::Asking(Offers { proven, .. }) = std::mem::replace(&mut state.phase, Phase::Idle) else {
            return Ok(());
        };
        let Some((manifest, holders)) = best(proven, |holders| self.vouch(holders)) else {
            return self.give_up(state, "no peer has one that is new enough").await;
        };
        tracing::info!(
            height = manifest.height,
            commit = manifest.commit_index,
            parts = manifest.chunks.len(),
            bytes = manifest.content_bytes(),
            ?holders,
            "takes a snapshot from peers"
        );
        let directory = self.0.settings.data_dir.clone();
        match blocking(move || Fetch::begin(&directory, manifest, holders)).await? {
            Ok(mut fetch) => {
                self.pump(&mut fetch, Instant::now());
                state.phase = Phase::Fetching(Box::new(fetch));
                tell(state, true);
                Ok(())
            }
            Err(error) => self.give_up(state, &error.to_string()).await,
        }
    }

    /// Whether a correct validator must be among these peers.
    fn vouch(&self, holders: &[String]) -> bool {
        let members = self.0.members();
        let Ok(committee) = Committee::new(members.stakes()) else { return false };
        let stake = holders.iter().filter_map(|name| members.validator(name)).map(|author| committee.stake(author));
        stake.sum::<u64>() >= committee.validity()
    }

    fn pump(&self, fetch: &mut Fetch, now: Instant) {
        for (peer, number) in fetch.due(now) {
            let (height, digest) = (fetch.manifest.height, fetch.manifest.chunks[number].digest);
            let ask = SnapshotMessage::AskChunk { height, number: u32::try_from(number).unwrap_or(u32::MAX), digest };
            // A request that finds no room is asked again when its time is over.
            let _ = self.0.net.send_serving(&peer, ask.frame());
        }
    }

    async fn on_chunk(
        &self,
        ctx: &Context<SnapshotSyncMsg>,
        state: &mut State,
        peer: &str,
        height: u64,
        number: usize,
        bytes: Option<Vec<u8>>,
    ) -> Result<(), ActorError> {
        let Phase::Fetching(fetch) = &mut state.phase else { return Ok(()) };
        let Some(place) = fetch.expects(peer, number).filter(|_| fetch.manifest.height == height) else {
            return Ok(());
        };
        let got = match bytes {
            None => Ok(Got::Nothing),
            Some(bytes) => blocking(move || place.put(&bytes)).await?,
        };
        let got = match got {
            Ok(got) => got,
            Err(error) => return self.give_up(state, &format!("a part cannot be written: {error}")).await,
        };
        match fetch.settle(peer, number, got) {
            Progress::All => self.prove(ctx, state),
            Progress::More => self.pump(fetch, Instant::now()),
        }
        if got == Got::Wrong {
            charge(state, peer, "a part with another digest");
        }
        Ok(())
    }

    /// The order goes on without.
    async fn give_up(&self, state: &mut State, why: &str) -> Result<(), ActorError> {
        tracing::warn!(why, "no snapshot is taken: the commits are asked for instead");
        metrics::counter!("snapshot_sync_given_up_total").increment(1);
        if let Phase::Fetching(fetch) = std::mem::replace(&mut state.phase, Phase::Idle) {
            let folder = fetch.folder().to_owned();
            blocking(move || files::remove(&folder)).await??;
        }
        state.rests_until = Some(Instant::now() + bounds::REST);
        tell(state, false);
        Ok(())
    }

    /// All chunks are there: proves the whole and marks it.
    fn prove(&self, ctx: &Context<SnapshotSyncMsg>, state: &mut State) {
        let Phase::Fetching(mut fetch) = std::mem::replace(&mut state.phase, Phase::Idle) else { return };
        fetch.tell(Instant::now());
        state.phase = Phase::Proving { holders: fetch.holders() };
        let (directory, genesis) = (self.0.settings.data_dir.clone(), self.0.settings.genesis.clone());
        let mouth = ctx.mouth();
        tokio::spawn(async move {
            let finished = blocking(move || fetch.finish(&directory, &genesis)).await;
            let outcome = finished.unwrap_or_else(|error| Err(Unfinished::Here(error.to_string())));
            mouth.send(SnapshotSyncMsg::Finished(Finished(outcome)));
        });
        tell(state, true);
    }

    fn on_finished(&self, state: &mut State, outcome: Result<u64, Unfinished>) {
        let Phase::Proving { holders } = std::mem::replace(&mut state.phase, Phase::Idle) else { return };
        match outcome {
            Ok(height) => {
                metrics::counter!("snapshots_taken_total").increment(1);
                state.phase = Phase::Proving { holders };
                self.leave(height);
            }
            // Others may have a good one.
            Err(Unfinished::False(reason)) => holders.iter().for_each(|peer| charge(state, peer, &reason)),
            Err(Unfinished::Here(reason)) => {
                tracing::warn!(reason, "the snapshot that was taken cannot be kept");
                state.rests_until = Some(Instant::now() + bounds::REST);
            }
        }
    }

    fn leave(&self, height: u64) {
        self.0.fatal.leave(format!("the snapshot of height {height} is taken, and the node starts again from it"));
    }
}

/// Runs what blocks on a thread for that.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ActorError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| format!("a thread of snapshot sync ended: {error}").into())
}

/// A peer has sent what no correct node sends: it is not asked again for a while.
fn charge(state: &mut State, peer: &str, reason: &str) {
    metrics::counter!("snapshot_offences_total", "peer" => peer.to_owned()).increment(1);
    if state.struck.insert(peer.to_owned(), Instant::now()).is_none() {
        tracing::warn!(peer, reason, "a peer's snapshot is refused");
    }
}

/// Tells the order whether the snapshot that it waits for is still on its way.
fn tell(state: &State, goes_on: bool) {
    // A validator that does not hear it goes on by itself.
    let _ = state.validator.send(ValidatorMsg::SnapshotSync { goes_on });
}

fn may_ask(served: &mut HashMap<String, (Instant, u32)>, peer: &str, now: Instant) -> bool {
    let (since, count) = served.entry(peer.to_owned()).or_insert((now, 0));
    if now.duration_since(*since).as_secs() >= 1 {
        (*since, *count) = (now, 0);
    }
    *count += 1;
    *count <= bounds::SERVED_PER_SECOND
}

/// What is here of a manifest.
#[derive(Debug, PartialEq, Eq)]
enum Joined {
    /// Its beginning: the bytes so far, under the number of the last piece.
    More(ManifestPart),
    /// All of its bytes.
    Whole(Vec<u8>),
}

/// Puts the next piece of a manifest to those that are here.
fn joined(before: Option<ManifestPart>, part: ManifestPart) -> Result<Joined, &'static str> {
    if u64::from(part.total) > bounds::MANIFEST {
        return Err("a manifest that is too long");
    }
    let here = match before {
        None if part.part == 0 => part,
        Some(mut here) if (part.digest, part.total, part.part) == (here.digest, here.total, here.part + 1) => {
            here.part = part.part;
            here.bytes.extend_from_slice(&part.bytes);
            here
        }
        _ => return Err("a piece of a manifest that was not asked for"),
    };
    let (have, total) = (here.bytes.len(), here.total as usize);
    if have < total && have == (here.part as usize + 1) * bounds::CHUNK {
        return Ok(Joined::More(here));
    }
    if have != total || h("snapshot", &here.bytes) != here.digest {
        return Err("a manifest that is not what it says");
    }
    Ok(Joined::Whole(here.bytes))
}

/// A manifest whose checkpoint a quorum has signed, and whose content is not larger than a node takes.
fn proven(bytes: &[u8], genesis: &Foundation) -> Result<Manifest, String> {
    let manifest = Manifest::decode(bytes).map_err(|error| format!("its manifest: {error}"))?;
    let trusted = TrustedSet::of_genesis(genesis).map_err(|error| error.to_string())?;
    let shown = manifest.prove(&trusted, &Signatures).map_err(|error| format!("its checkpoint: {error}"))?.checkpoint;
    let said = (manifest.chain_id, manifest.height, manifest.commit_index);
    if said != (shown.chain_id, shown.ledger_height, shown.commit_index) {
        return Err("its manifest is of another checkpoint than its proof".to_owned());
    }
    for (what, bytes, most) in [
        ("content", manifest.content_bytes(), bounds::TAKEN),
        ("order's part", manifest.order_bytes(), bounds::ORDER_PART),
    ] {
        if bytes > most {
            return Err(format!("its {what} has {bytes} bytes, at most {most} are taken"));
        }
    }
    Ok(manifest)
}

/// The newest content for which the stake of a correct validator stands, else the newest; of those equally new the one with
/// most holders. Nothing but the holders vouches for the list of chunks before all of them are there.
fn best(
    proven: BTreeMap<String, Box<Manifest>>,
    vouched: impl Fn(&[String]) -> bool,
) -> Option<(Manifest, Vec<String>)> {
    let mut offers: BTreeMap<Hash, (Box<Manifest>, Vec<String>)> = BTreeMap::new();
    for (peer, manifest) in proven {
        offers.entry(manifest.content()).or_insert_with(|| (manifest, Vec::new())).1.push(peer);
    }
    let rank = |manifest: &Manifest, holders: &[String]| (vouched(holders), manifest.commit_index, holders.len());
    let chosen = offers.into_values().max_by_key(|(manifest, holders)| rank(manifest, holders));
    chosen.map(|(manifest, holders)| (*manifest, holders))
}

#[cfg(test)]
#[path = "sync_tests.rs"]
mod tests;
