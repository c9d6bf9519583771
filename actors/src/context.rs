//! What every actor of one node is given: settings, identities, readers of durable state, links, and the fatal hook.
//!
//! Everything in it is either immutable or a handle to an actor or file that outlives restarts; no actor's state.

use std::collections::BTreeMap;
use std::sync::Arc;

use aurigraph_consensus::{AuthorIdx, Config, Divergence, Epoch, EpochParams, Mode, Now, Status};
use aurigraph_ledger::{Foundation, Hash, StateView};
use aurigraph_runtime::Registry;
use tokio::sync::watch;

use crate::consensus::{Clocks, epochs};
use crate::crypto::Gpus;
use crate::fatal::Fatal;
use crate::members::{Members, MembersOf};
use crate::network::Links;
use crate::pipeline::Resumed;
use crate::published::{Published, Totals};
use crate::settings::NodeSettings;
use crate::storage::{JournalReader, StoreReader};

/// One node's context.
pub struct NodeContext {
    /// What the node was started with.
    pub settings: NodeSettings,
    /// Hash of the genesis.
    pub chain_id: Hash,
    /// The live tree.
    pub registry: Registry,
    /// The log.
    pub journal: JournalReader,
    /// The queryable state.
    pub store: StoreReader,
    /// The lanes to the other nodes.
    pub net: Links,
    /// The way to say that the process must end.
    pub fatal: Fatal,
    /// The consensus machine's state, refreshed a few times a second.
    pub consensus_status: watch::Sender<Option<Status>>,
    /// The newest published state; none until the pipeline has started.
    pub published: watch::Sender<Option<Arc<Published>>>,
    /// Counts since the process started. Written by Publish alone, and kept here so that a restart of it loses none.
    pub(crate) totals: parking_lot::Mutex<Totals>,
    /// From which published state Execute went on at its last start, and how often from that one.
    pub(crate) resumed: parking_lot::Mutex<Resumed>,
    /// Where execution was found to differ: nothing is executed any more. Set by the validator, from its machine or from
    /// the log, and never unset.
    pub(crate) divergence: parking_lot::Mutex<Option<Divergence>>,
    /// The newest state of which a snapshot is due; Publish's.
    pub(crate) due_snapshot: parking_lot::Mutex<Option<StateView>>,
    /// The order's states at the newest anchors, by commit; the validator's.
    pub(crate) anchors: parking_lot::Mutex<BTreeMap<u64, Arc<[u8]>>>,
    /// Where the devices for signatures stand.
    pub gpus: Gpus,
    clocks: Clocks,
    members: watch::Sender<Arc<Members>>,
}

/// Commits that a node which keeps up never lags behind a quorum by: some seconds of them.
pub const FAR_BEHIND: u64 = 64;

/// What a context is made of.
pub struct NodeParts {
    /// What the node was started with.
    pub settings: NodeSettings,
    /// The live tree.
    pub registry: Registry,
    /// The log.
    pub journal: JournalReader,
    /// The queryable state.
    pub store: StoreReader,
    /// The lanes to the other nodes.
    pub net: Links,
    /// The way to say that the process must end.
    pub fatal: Fatal,
    /// The devices for signatures.
    pub gpus: Gpus,
}

impl NodeContext {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: NodeParts) -> Self {
        let NodeParts { settings, registry, journal, store, net, fatal, gpus } = parts;
        let members = watch::Sender::new(Arc::new(Members::of_genesis(&settings)));
        Self {
            chain_id: settings.genesis.chain_id(),
            settings,
            registry,
            journal,
            store,
            net,
            fatal,
            gpus,
            consensus_status: watch::Sender::new(None),
            published: watch::Sender::new(None),
            totals: parking_lot::Mutex::default(),
            resumed: parking_lot::Mutex::default(),
            divergence: parking_lot::Mutex::default(),
            due_snapshot: parking_lot::Mutex::default(),
            anchors: parking_lot::Mutex::default(),
            clocks: Clocks::start(),
            members,
        }
    }

    /// What both clocks say.
    #[must_use]
    pub fn now(&self) -> Now {
        self.clocks.now()
    }

    /// Whether this node's state is so far behind the others' that it cannot say what they would refuse: consensus is
    /// not rebuilt yet, catches up, or a quorum is [`FAR_BEHIND`] commits ahead of what is executed here.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.consensus_status.borrow().as_ref().is_none_or(|status| {
            status.mode == Mode::CatchUp || status.quorum_index > status.executed_index.saturating_add(FAR_BEHIND)
        })
    }

    /// The epoch's validators and the other peers: one consistent snapshot.
    #[must_use]
    pub fn members(&self) -> Arc<Members> {
        Arc::clone(&self.members.borrow())
    }

    /// The members of an epoch that this node has started; none of any other.
    #[must_use]
    pub fn members_of(&self, epoch: Epoch) -> Option<Arc<Members>> {
        let now = self.members();
        if epoch == now.epoch {
            return Some(now);
        }
        epochs::of_epoch(&self.settings, &self.journal, epoch).ok().flatten().map(Arc::new)
    }

    /// The same for readers that outlive their start.
    #[must_use]
    pub fn members_reader(&self) -> MembersOf {
        let (now, journal, settings) = (self.members.subscribe(), self.journal.clone(), self.settings.clone());
        Arc::new(move |epoch| {
            let now = Arc::clone(&now.borrow());
            match epoch {
                Some(epoch) if epoch != now.epoch => {
                    epochs::of_epoch(&settings, &journal, epoch).ok().flatten().map(Arc::new)
                }
                _ => Some(now),
            }
        })
    }

    /// The validator has started an epoch: these are its members from here on, and the links follow their keys.
    pub(crate) fn enter(&self, members: Members) -> Arc<Members> {
        let before = members.epoch.checked_sub(1).and_then(|epoch| self.members_of(epoch));
        self.net.follow_keys(&members.network_keys(&self.settings, before.as_deref()));
        let members = Arc::new(members);
        self.members.send_replace(Arc::clone(&members));
        members
    }

    /// What the consensus machine of the epoch with these members is started with.
    #[must_use]
    pub fn consensus_config(&self, members: &Members) -> Config {
        let config = self.first_config();
        match &members.start {
            None => Config { own: members.own, ..config },
            Some(start) => config.at(start, members.stakes(), members.own),
        }
    }

    fn first_config(&self) -> Config {
        let mut config = genesis_config(&self.settings.genesis, self.settings.validator);
        config.limits.snapshot_distance = self.settings.snapshot_sync_commits;
        let pacing = &self.settings.pacing;
        config.pacing.min_delay_busy_ms = pacing.min_delay_busy_ms;
        config.pacing.min_delay_idle_ms = pacing.min_delay_idle_ms;
        config.pacing.t_leader_initial_ms = pacing.leader_timeout_ms;
        config.supports = crate::release::supports();
        config.pipelining = self.settings.features.consensus_pipelining;
        config
    }
}

/// What the consensus machine of the first epoch is configured with, but for what may differ between nodes.
pub(crate) fn genesis_config(genesis: &Foundation, own: Option<AuthorIdx>) -> Config {
    let chain_id = genesis.chain_id();
    let stakes = genesis.validators.iter().map(|validator| validator.stake).collect();
    let mut config = Config::new(chain_id, chain_id, stakes, own);
    config.version = crate::release::first_protocol();
    let parameters = &genesis.parameters;
    config.params = EpochParams {
        gc_depth: parameters.gc_depth,
        leaders_per_round: parameters.leaders_per_round,
        schedule_window: parameters.schedule_window,
        schedule_swap_percent: parameters.schedule_swap_percent,
        epoch_ms: parameters.epoch_ms,
        epoch_commits: parameters.epoch_commits,
        evidence_epochs: parameters.staking.unbonding_epochs.into(),
    };
    config
}
