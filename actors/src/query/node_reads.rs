//! Accounts, the network and the node itself, out of memory: never blocks for longer than a file of `/proc`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;

use aurigraph_consensus::{ScheduleStatus, Status};
use aurigraph_ledger::types::NONCE_WINDOW;
use aurigraph_ledger::{Address, Hash};
use aurigraph_runtime::{ActorState, KillMode};

use super::chain_reads::Read;
use super::messages::{KillOutcome, QueryError};
use super::process::ProcessFigures;
use super::sources::{LinkFacts, Sources};
use super::validator_reads::stakes_of;
use super::values::{Timestamp, Units};
use super::views::{
    AccountProofView, ActorTreeView, BalanceView, ChainStats, ConsensusView, DeviceView, EdgeStatus, EncryptionKeyView,
    EnvelopeView, FeatureView, HealthView, InfoView, NetworkStats, NodePerformance, NodeStatus, NodeType, NodeView,
    PerformanceView, ReadyCheck, ReadyView, ScheduleView, SigningView, TopologyEdge, TopologySummary, TopologyView,
};
use crate::crypto::{GpuState, GpuStatus};
use crate::published::{BlockSummary, Published};

/// A link with a longer round trip is degraded.
const DEGRADED_MS: f64 = 500.0;
/// The window for rates, milliseconds of the wall clock.
const WINDOW_MS: u64 = 10_000;
/// A node that is more commits behind the quorum than this has not caught up.
const COMMITS_BEHIND: u64 = 20;

/// Reads of one query actor.
pub(super) struct NodeReads {
    pub(super) sources: Arc<Sources>,
    /// Bytes and time of the last look at each link.
    traffic: HashMap<String, (u64, Instant)>,
}

/// What recent blocks come to.
pub(super) struct Rates {
    operations: Option<f64>,
    transactions: Option<f64>,
    window_ms: u64,
    pub(super) block_time: Option<f64>,
    finality: Option<f64>,
}

#[allow(clippy::cast_precision_loss)]
pub(super) const fn float(value: u64) -> f64 {
    value as f64
}

pub(super) fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

/// Rates over the window before now: what was published in it, divided by its length (or by the uptime, if shorter).
fn rates(published: &Published, now: u64, uptime_ms: u64) -> Rates {
    let window_ms = WINDOW_MS.min(uptime_ms).max(1);
    let start = now.saturating_sub(window_ms);
    let inside = |block: &&Arc<BlockSummary>| block.published_at_ms >= start && block.header.height > 0;
    let blocks: Vec<&BlockSummary> = published.recent.iter().filter(inside).map(|block| &**block).collect();
    // Before anything was published by this process there is nothing to measure. Recent blocks are bounded: a window
    // that they do not cover is cut to what they do.
    let oldest = published.recent.front().map_or(now, |block| block.published_at_ms);
    let window_ms = if published.totals.blocks > published.recent.len() as u64 && oldest > start {
        now.saturating_sub(oldest).max(1)
    } else {
        window_ms
    };
    let per_second = |sum: u64| Some(float(sum) * 1_000.0 / float(window_ms));
    // Genesis is no block that was produced: its time says nothing about the pace.
    let produced = published.recent.iter().filter(|block| block.header.height > 0);
    let times: Vec<u64> = produced.map(|block| block.header.timestamp_ms).collect();
    let gaps = times.windows(2).map(|pair| float(pair[1].saturating_sub(pair[0])));
    Rates {
        operations: per_second(blocks.iter().map(|block| block.header.operations).sum()),
        transactions: per_second(blocks.iter().map(|block| u64::from(block.header.transactions)).sum()),
        window_ms,
        block_time: mean(gaps),
        finality: mean(blocks.iter().filter_map(|block| block.finalized_after_ms.map(float))),
    }
}

pub(super) fn rates_now(sources: &Sources, published: &Published) -> Rates {
    let uptime = u64::try_from(sources.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    rates(published, Timestamp::now().0, uptime)
}

impl NodeReads {
    pub(super) fn new(sources: Arc<Sources>) -> Self {
        Self { sources, traffic: HashMap::new() }
    }

    pub(super) fn newest(&self) -> Read<Arc<Published>> {
        self.sources.newest().ok_or(QueryError::NotReady)
    }

    fn rates(&self, published: &Published) -> Rates {
        rates_now(&self.sources, published)
    }

    pub(super) fn balance(&self, address: Hash) -> Read<Option<BalanceView>> {
        let published = self.newest()?;
        let view = &published.view;
        let Some(account) = view.find(&Address(address)).and_then(|index| view.account(index)) else {
            return Ok(None);
        };
        let (stake, delegations, unbonding) = stakes_of(view, &account);
        let window = account.nonce..account.nonce.saturating_add(NONCE_WINDOW);
        Ok(Some(BalanceView {
            address,
            index: account.index.0,
            balance: Units(account.balance),
            nonce_base: account.nonce,
            used_nonces: window.filter(|nonce| view.nonce_used(account.index, *nonce)).collect(),
            key_registered: account.has_key,
            encryption_key_number: view
                .identity()
                .and_then(|table| table.encryption_key(account.index))
                .map(|key| key.signed.number),
            // This protocol version knows no other tokens.
            tokens: Vec::new(),
            stake,
            delegations,
            unbonding,
            height: published.height(),
        }))
    }

    pub(super) fn encryption_key(&self, address: Hash) -> Read<Option<EncryptionKeyView>> {
        let published = self.newest()?;
        let view = &published.view;
        let found = || {
            let account = view.find(&Address(address))?;
            let key = view.identity()?.encryption_key(account)?;
            let digits = |bytes: &[u8]| format!("0x{}", hex::encode(bytes));
            Some(EncryptionKeyView {
                address,
                public_key: digits(&view.public_key(account)?),
                number: key.signed.number,
                encryption_key: digits(&key.signed.key),
                signature: digits(&key.signed.signature),
                height: key.height,
            })
        };
        Ok(found())
    }

    pub(super) fn envelope(&self, sender: Hash, digest: Hash) -> Read<Option<EnvelopeView>> {
        let published = self.newest()?;
        let view = &published.view;
        let anchor = view.find(&Address(sender)).and_then(|account| view.identity()?.anchor(account, &digest));
        Ok(anchor.map(|anchor| EnvelopeView {
            sender,
            digest,
            height: anchor.height,
            timestamp: Timestamp(anchor.timestamp_ms),
        }))
    }

    pub(super) fn account_proof(&self, address: Hash) -> Read<Option<AccountProofView>> {
        let published = self.newest()?;
        let view = published.proving.as_ref().ok_or(QueryError::NoCheckpoint)?;
        let Some(index) = view.find(&Address(address)) else { return Ok(None) };
        // The view is one of a checkpoint: otherwise it would not be handed out for proofs.
        let proof = view.account_proof(index).map_err(|_| QueryError::NoCheckpoint)?;
        let checkpoint = view.checkpoint();
        Ok(proof.map(|proof| AccountProofView {
            address,
            state_root: checkpoint.state_root,
            checkpoint_sequence: checkpoint.seq,
            height: checkpoint.ledger_height,
            proof,
        }))
    }

    pub(super) fn chain_stats(&self) -> Read<ChainStats> {
        let published = self.newest()?;
        let rates = self.rates(&published);
        let genesis = &self.sources.settings.genesis;
        let newest = &published.newest;
        Ok(ChainStats {
            chain_id: self.sources.chain_id,
            network: genesis.network.clone(),
            height: published.height(),
            block_hash: newest.hash,
            timestamp: Timestamp(newest.header.timestamp_ms),
            total_accounts: published.view.account_count().into(),
            total_supply: Units(genesis.supply()),
            fee_pool: Units(published.view.fee_pool()),
            transactions_since_start: published.totals.transactions,
            operations_since_start: published.totals.operations,
            blocks_since_start: published.totals.blocks,
            transactions_per_second: rates.transactions,
            operations_per_second: rates.operations,
            average_block_time: rates.block_time,
            validators: genesis.validators.len() as u64,
        })
    }

    pub(super) fn consensus(&self) -> Read<ConsensusView> {
        let published = self.newest()?;
        let status = self.sources.status();
        let header = &published.newest.header;
        let epoch = status.as_ref().map_or(header.epoch, |status| status.epoch.epoch);
        let certified = status.as_ref().map_or(published.certified, |status| status.certified);
        let leader = status.as_ref().and_then(|status| status.last_leader).map(|leader| leader.author);
        let leader = leader.or((header.height > 0).then_some(header.leader));
        let connected =
            |status: &Status| status.peers.iter().filter(|peer| self.is_connected(peer.author, peer.connected)).count();
        Ok(ConsensusView {
            height: published.height(),
            block_hash: published.newest.hash,
            state_root: header.state_root,
            checkpoint_height: Some(published.view.checkpoint().ledger_height),
            round: status.as_ref().map(|status| status.round),
            executed_height: published.height(),
            leader: leader.and_then(|leader| self.sources.validator_name(epoch, leader)),
            epoch,
            protocol_version: status.as_ref().map(|status| status.epoch.version),
            epoch_first_commit: status.as_ref().map(|status| status.epoch.first_index),
            epoch_last_commit: status.as_ref().and_then(|status| status.epoch.last_commit).map(|commit| commit.index),
            epoch_attested_stake: status.as_ref().map(|status| status.epoch.attesting.to_string()),
            last_commit_index: status.as_ref().map(|status| status.last_commit.index),
            executed_commit_index: published.executed_commit,
            checkpoint_sequence: status.as_ref().map(|status| status.checkpoint.seq),
            certified_sequence: certified.map(|certified| certified.checkpoint.seq),
            certified_digest: certified.map(|certified| certified.checkpoint.digest),
            certificate_stake: certified.map(|certified| certified.stake.to_string()),
            quorum_stake: self
                .sources
                .committee(epoch)
                .map_or_else(String::new, |committee| committee.quorum().to_string()),
            divergence: status.as_ref().and_then(|status| status.divergence).map(Into::into),
            mode: status.as_ref().map(|status| status.mode.name().to_owned()),
            signing: status.as_ref().map(|status| SigningView {
                state: status.signing.state.name().to_owned(),
                floor: status.signing.floor,
                why: status.signing.doubt.map(|doubt| doubt.to_string()),
            }),
            connected_validators: status.as_ref().map(|status| connected(status) as u64),
            schedule: status.as_ref().map(|status| self.schedule(epoch, &status.schedule)),
        })
    }

    fn schedule(&self, epoch: u64, status: &ScheduleStatus) -> ScheduleView {
        let names =
            |authors: &[u16]| authors.iter().filter_map(|author| self.sources.validator_name(epoch, *author)).collect();
        ScheduleView {
            digest: status.digest,
            updates: status.updates,
            from_round: status.from_round,
            bad: names(&status.bad),
            good: names(&status.good),
        }
    }

    fn is_connected(&self, validator: u16, connected: bool) -> bool {
        connected || self.sources.members().own == Some(validator)
    }

    pub(super) fn performance(&self) -> Read<PerformanceView> {
        let published = self.newest()?;
        let rates = self.rates(&published);
        let process = ProcessFigures::read();
        let tree = self.sources.registry.tree();
        let running = tree.iter().filter(|row| row.state == ActorState::Running);
        let ratio = rates.operations.zip(rates.transactions).filter(|(_, signatures)| *signatures > 0.0);
        Ok(PerformanceView {
            timestamp: Timestamp::now(),
            operations_per_second: rates.operations,
            signatures_per_second: rates.transactions,
            operations_per_signature: ratio.map(|(operations, signatures)| operations / signatures),
            window_ms: rates.window_ms,
            operations: published.totals.operations,
            transactions: published.totals.transactions,
            blocks: published.totals.blocks,
            average_finality_ms: rates.finality,
            average_block_time_ms: rates.block_time,
            cpu_seconds: process.cpu_seconds,
            resident_bytes: process.resident_bytes,
            threads: process.threads,
            open_files: process.open_files,
            actor_messages: tree.iter().map(|row| row.messages).sum(),
            mailbox_depth: tree.iter().map(|row| row.mailbox_depth as u64).sum(),
            actors: running.count() as u64,
        })
    }

    pub(super) fn info(&self) -> InfoView {
        let (settings, sources) = (&self.sources.settings, &self.sources);
        let on = |enabled: bool| FeatureView {
            enabled,
            reason: (!enabled).then(|| "switched off in the config".to_owned()),
        };
        let features = &settings.features;
        let gpu = match (features.gpu_acceleration, sources.gpus.why_none()) {
            (true, Some(reason)) => FeatureView { enabled: false, reason: Some(reason) },
            (enabled, _) => on(enabled),
        };
        let features = BTreeMap::from([
            ("transactionBatching".to_owned(), on(features.transaction_batching)),
            ("consensusPipelining".to_owned(), on(features.consensus_pipelining)),
            ("memoryPooling".to_owned(), on(features.memory_pooling)),
            ("networkBatching".to_owned(), on(features.network_batching)),
            ("gpuAcceleration".to_owned(), gpu),
        ]);
        InfoView {
            node: settings.name.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            schema_version: sources.schema_version,
            chain_id: sources.chain_id,
            network: settings.genesis.network.clone(),
            role: if settings.validator.is_some() { "validator" } else { "observer" }.to_owned(),
            started_at: sources.started_at,
            chaos: settings.chaos,
            features,
            devices: sources.gpus.iter().map(|gpu| device(gpu)).collect(),
        }
    }

    pub(super) fn health(&self) -> HealthView {
        let node = self.sources.settings.name.clone();
        let diverged = self.sources.status().is_some_and(|status| status.divergence.is_some());
        HealthView { status: if diverged { "DIVERGED" } else { "UP" }.into(), node, uptime: self.sources.uptime() }
    }

    pub(super) fn ready(&self) -> ReadyView {
        let (published, status) = (self.sources.newest(), self.sources.status());
        let checks = vec![
            ReadyCheck {
                name: "published".into(),
                ok: published.is_some(),
                detail: published.as_ref().map_or_else(
                    || "no state is published yet".into(),
                    |published| format!("height {}", published.height()),
                ),
            },
            self.caught_up(published.as_deref(), status.as_ref()),
            self.quorum(status.as_ref()),
            agrees(status.as_ref()),
        ];
        ReadyView { ready: checks.iter().all(|check| check.ok), checks }
    }

    fn caught_up(&self, published: Option<&Published>, status: Option<&Status>) -> ReadyCheck {
        let name = "caughtUp".to_owned();
        let Some((published, status)) = published.zip(status) else {
            return ReadyCheck { name, ok: false, detail: "consensus has not reported yet".into() };
        };
        let (executed, quorum) = (published.executed_commit, status.quorum_index.max(status.last_commit.index));
        let following = !matches!(
            status.mode,
            aurigraph_consensus::Mode::Probing | aurigraph_consensus::Mode::CatchUp | aurigraph_consensus::Mode::Halted
        );
        let ok = following && executed.saturating_add(COMMITS_BEHIND) >= quorum;
        let detail = format!("mode {}, executed commit {executed} of {quorum}", status.mode.name());
        ReadyCheck { name, ok, detail }
    }

    fn quorum(&self, status: Option<&Status>) -> ReadyCheck {
        let name = "quorumReachable".to_owned();
        let Some(status) = status else {
            return ReadyCheck { name, ok: false, detail: "consensus has not reported yet".into() };
        };
        let validators = &self.sources.members().validators;
        let stake_of =
            |index: u16| validators.get(usize::from(index)).map_or(0, |validator| u128::from(validator.stake));
        let total: u128 = validators.iter().map(|validator| u128::from(validator.stake)).sum();
        let connected = status.peers.iter().filter(|peer| self.is_connected(peer.author, peer.connected));
        let reached: u128 = connected.map(|peer| stake_of(peer.author)).sum();
        ReadyCheck { name, ok: 3 * reached > 2 * total, detail: format!("stake {reached} of {total} is reachable") }
    }

    pub(super) fn actors(&self) -> ActorTreeView {
        let actors: Vec<_> = self.sources.registry.tree().into_iter().map(Into::into).collect();
        let total = actors.len() as u64;
        ActorTreeView { actors, total }
    }

    /// Ends an actor. The answer of an order that ends the server itself would be lost, so that one comes a moment later.
    pub(super) fn kill(&self, name: &str, mode: KillMode) -> Option<KillOutcome> {
        let registry = &self.sources.registry;
        registry.row(name)?;
        tracing::warn!(aurigraph.actor = name, ?mode, "an actor is ended on purpose through the admin route");
        let carries_answer = |role: &str| name == registry.name_of(role);
        if name == registry.node() || carries_answer("api") || carries_answer("http-server") {
            let (registry, name) = (registry.clone(), name.to_owned());
            tokio::spawn(async move {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                registry.kill(&name, mode);
            });
            return Some(KillOutcome::Scheduled);
        }
        Some(if registry.kill(name, mode) { KillOutcome::Killed } else { KillOutcome::NotRunning })
    }

    pub(super) fn topology(&mut self) -> TopologyView {
        let (nodes, links) = self.nodes();
        let edges: Vec<TopologyEdge> = links.iter().map(|link| self.edge(link)).collect();
        let summary = summary(&nodes, &links);
        TopologyView { nodes, edges, summary }
    }

    pub(super) fn node(&self, id: &str) -> Option<NodeView> {
        self.nodes().0.into_iter().find(|node| node.id == id)
    }

    pub(super) fn network_stats(&self) -> NetworkStats {
        let (nodes, links) = self.nodes();
        let figures = summary(&nodes, &links);
        let sum = |count: fn(&LinkFacts) -> u64| Some(links.iter().map(count).sum());
        NetworkStats {
            total_nodes: figures.total_nodes,
            active_nodes: figures.active_nodes,
            total_connections: figures.total_connections,
            avg_latency: figures.average_latency,
            network_health: figures.network_health,
            bytes_in: sum(|link| link.bytes_in),
            bytes_out: sum(|link| link.bytes_out),
            messages_in: sum(|link| link.messages_in),
            messages_out: sum(|link| link.messages_out),
        }
    }

    fn stake(&self, validator: Option<u16>) -> Option<String> {
        let validators = &self.sources.settings.genesis.validators;
        validator.and_then(|index| validators.get(usize::from(index))).map(|validator| validator.stake.to_string())
    }

    fn nodes(&self) -> (Vec<NodeView>, Vec<LinkFacts>) {
        let links = (self.sources.links)();
        let by_name: HashMap<&str, &LinkFacts> = links.iter().map(|link| (link.name.as_str(), link)).collect();
        let mut nodes = vec![self.own_node(&links)];
        for peer in &self.sources.settings.peers {
            let link = by_name.get(peer.name.as_str()).copied();
            nodes.push(self.peer_node(peer, link));
        }
        nodes.sort_by(|a, b| a.id.cmp(&b.id));
        (nodes, links)
    }

    fn own_node(&self, links: &[LinkFacts]) -> NodeView {
        let (settings, ready) = (&self.sources.settings, self.ready());
        let caught_up = ready.checks.iter().take(2).all(|check| check.ok);
        let tps = self.sources.newest().and_then(|published| self.rates(&published).transactions);
        NodeView {
            id: settings.name.clone(),
            name: settings.name.clone(),
            kind: kind_of(settings.validator),
            status: if caught_up { NodeStatus::Active } else { NodeStatus::Syncing },
            ip_address: settings.listen.ip().to_string(),
            port: settings.listen.port(),
            region: None,
            uptime: Some(self.sources.uptime()),
            connections: Some(links.iter().filter(|link| link.up).count() as u64),
            last_seen: Some(Timestamp::now()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            stake: self.stake(settings.validator),
            performance: NodePerformance { tps, latency: None, error_rate: None },
        }
    }

    fn peer_node(&self, peer: &crate::settings::PeerSettings, link: Option<&LinkFacts>) -> NodeView {
        let up = link.filter(|link| link.up);
        let behind = peer.validator.is_some_and(|index| !self.sources.validators.lock().of(index).active);
        NodeView {
            id: peer.name.clone(),
            name: peer.name.clone(),
            kind: kind_of(peer.validator),
            status: match up {
                None => NodeStatus::Inactive,
                Some(_) if behind => NodeStatus::Syncing,
                Some(_) => NodeStatus::Active,
            },
            ip_address: peer.address.ip().to_string(),
            port: peer.address.port(),
            region: None,
            uptime: up.and_then(|link| link.since.elapsed().ok()).map(|time| time.as_secs()),
            connections: up.map(|_| 1),
            last_seen: last_seen(link),
            version: None,
            stake: self.stake(peer.validator),
            performance: NodePerformance {
                tps: None,
                latency: up.and_then(|link| link.round_trip_ms),
                error_rate: None,
            },
        }
    }

    fn edge(&mut self, link: &LinkFacts) -> TopologyEdge {
        let (bytes, now) = (link.bytes_in + link.bytes_out, Instant::now());
        let last = self.traffic.insert(link.name.clone(), (bytes, now));
        let (before, since) = last.unwrap_or((0, self.sources.started));
        let seconds = now.saturating_duration_since(since).as_secs_f64();
        TopologyEdge {
            source: self.sources.settings.name.clone(),
            target: link.name.clone(),
            latency: link.round_trip_ms.filter(|_| link.up),
            bandwidth: (seconds > 0.0).then(|| float(bytes.saturating_sub(before)) / seconds),
            status: match link.round_trip_ms {
                _ if !link.up => EdgeStatus::Down,
                Some(latency) if latency > DEGRADED_MS => EdgeStatus::Degraded,
                _ => EdgeStatus::Healthy,
            },
        }
    }
}

/// Whether this node's state is that of the others, as far as attestations tell.
fn device(gpu: &GpuState) -> DeviceView {
    let (state, used) = match gpu.status() {
        GpuStatus::Off(_) => ("off", None),
        GpuStatus::Starting => ("starting", None),
        GpuStatus::Absent(_) => ("absent", None),
        GpuStatus::Ready { name, crossover, rate } => ("ready", Some((name, crossover as u64, rate))),
        GpuStatus::Quarantined { .. } => ("quarantined", None),
    };
    DeviceView {
        device: gpu.index() as u64,
        state: state.to_owned(),
        reason: gpu.why_not(),
        crossover: used.as_ref().map(|(_, crossover, _)| *crossover),
        signatures_per_second: used.as_ref().map(|(.., rate)| *rate),
        name: used.map(|(name, ..)| name),
    }
}

fn agrees(status: Option<&Status>) -> ReadyCheck {
    let name = "agrees".to_owned();
    match status.map(|status| (status.divergence, status.certified)) {
        None => ReadyCheck { name, ok: false, detail: "consensus has not reported yet".into() },
        Some((None, certified)) => {
            let newest = certified.map_or(0, |certified| certified.checkpoint.seq);
            ReadyCheck { name, ok: true, detail: format!("checkpoint {newest} is certified") }
        }
        Some((Some(found), _)) => {
            let whole = if found.network_wide { "the whole network has stopped" } else { "this node has stopped" };
            let detail = format!("stake {} attests another checkpoint {}: {whole} executing", found.stake, found.seq);
            ReadyCheck { name, ok: false, detail }
        }
    }
}

const fn kind_of(validator: Option<u16>) -> NodeType {
    if validator.is_some() { NodeType::Validator } else { NodeType::Observer }
}

/// Now for a link that stands; the moment it went down for one that stood; none for one that never did.
fn last_seen(link: Option<&LinkFacts>) -> Option<Timestamp> {
    let link = link?;
    match link.up {
        true => Some(Timestamp::now()),
        false => (link.messages_in > 0).then(|| link.since.into()),
    }
}

fn summary(nodes: &[NodeView], links: &[LinkFacts]) -> TopologySummary {
    let active = nodes.iter().filter(|node| node.status == NodeStatus::Active).count() as u64;
    let up = || links.iter().filter(|link| link.up);
    TopologySummary {
        total_nodes: nodes.len() as u64,
        active_nodes: active,
        total_connections: up().count() as u64,
        average_latency: mean(up().filter_map(|link| link.round_trip_ms)),
        network_health: if nodes.is_empty() { 0.0 } else { 100.0 * float(active) / float(nodes.len() as u64) },
    }
}
