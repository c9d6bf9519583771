//! Bugs that other consensus systems have had, one test each: `docs/historic-bugs.md` is their table, and says which of
//! its lines other tests guard. Here only what one machine, or a small cluster of them, can show.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use aurigraph_ledger::hash::{Hash, h};

use crate::block::{Block, BlockCore, Evidence, EvidenceKind};
use crate::cluster::{Cluster, stub_signature};
use crate::commit::{CommitHeader, blocks_root, genesis_commit};
use crate::committee::Committee;
use crate::config::{Config, MAX_BATCH_REFS, MAX_BLOCK_BYTES};
use crate::event::{Effect, Event};
use crate::fetch::Fetcher;
use crate::machine::{Machine, Recovery};
use crate::message::{CommitRange, Message, RoundProof, encode_block};
use crate::record::Record;
use crate::schedule::Schedule;
use crate::status::Mode;
use crate::testing::{genesis_of, reseal, sealed_block};
use crate::types::{AuthorIdx, BatchRef, BlockRef, LeaderSlot, Now, Round, TimeMs};

/// All keys are others than in the epochs before: so far is an earlier key from the author.
pub(crate) const EARLIER_KEYS: AuthorIdx = 50;

/// Machine 0 of four with everything around it that answers at once; the other three are fed by hand.
pub(crate) struct One {
    pub(crate) config: Config,
    pub(crate) machine: Machine,
    pub(crate) now: Now,
    /// What it has signed, by round.
    pub(crate) signed: BTreeMap<Round, BlockCore>,
    /// What it has sent to one peer.
    pub(crate) sent: Vec<(AuthorIdx, Message)>,
    pub(crate) log: Vec<Record>,
    pub(crate) evidence: usize,
    pub(crate) charges: usize,
    /// What it has broadcast, by round, in all its lives.
    pub(crate) broadcast: BTreeMap<Round, Hash>,
    pub(crate) queue: VecDeque<Event>,
    /// Length of the log that is safe once a sync has ended.
    pub(crate) syncing: BTreeMap<u64, usize>,
    pub(crate) synced: usize,
    /// The process ends after so many more effects.
    pub(crate) effects_left: Option<u32>,
    /// When it wants to be called again.
    pub(crate) timer_ms: Option<TimeMs>,
}

impl One {
    pub(crate) fn new(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::new(h("chain", b"test"), h("seed", b"test"), vec![1; 4], Some(0));
        change(&mut config);
        let now = Now { mono_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let (machine, effects) = Machine::new(config.clone(), now).expect("valid");
        let mut one = Self {
            config,
            machine,
            now,
            signed: BTreeMap::new(),
            sent: Vec::new(),
            log: Vec::new(),
            evidence: 0,
            charges: 0,
            broadcast: BTreeMap::new(),
            queue: VecDeque::new(),
            syncing: BTreeMap::new(),
            synced: 0,
            effects_left: None,
            timer_ms: None,
        };
        one.execute(effects);
        one.drain();
        one
    }

    /// The process ends and starts again from what it has synced, or from all that it has written.
    pub(crate) fn restart(&mut self, keep_unsynced: bool) {
        if !keep_unsynced {
            self.log.truncate(self.synced);
        }
        self.synced = self.log.len();
        self.queue.clear();
        self.syncing.clear();
        self.effects_left = None;
        self.timer_ms = None;
        self.now.mono_ms += 1_000;
        self.now.wall_ms += 1_000;
        let fresh = !self.log.iter().any(|record| matches!(record, Record::Floor { .. }));
        let (machine, effects) = if fresh {
            Machine::new(self.config.clone(), self.now).expect("valid")
        } else {
            let log = self.log.clone();
            Machine::recover(self.config.clone(), self.now, Recovery::default(), log).expect("recovers")
        };
        self.machine = machine;
        self.execute(effects);
        self.drain();
    }

    pub(crate) fn connect(mut self) -> Self {
        self.connect_all();
        self
    }

    pub(crate) fn connect_all(&mut self) {
        (1..4).for_each(|peer| self.event(Event::PeerUp { peer }));
    }

    /// Takes an event, and then everything that its effects bring back.
    pub(crate) fn event(&mut self, event: Event) {
        self.queue.push_back(event);
        self.drain();
    }

    pub(crate) fn drain(&mut self) {
        while let Some(event) = self.queue.pop_front() {
            if self.effects_left == Some(0) {
                return;
            }
            if let Event::Durable { lsn } = &event {
                self.synced = self.synced.max(self.syncing.remove(lsn).unwrap_or(0));
            }
            let effects = self.machine.step(self.now, event);
            self.execute(effects);
        }
    }

    pub(crate) fn receive(&mut self, peer: AuthorIdx, message: &Message) {
        self.event(Event::Received { peer, bytes: message.encode() });
    }

    pub(crate) fn execute(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match &mut self.effects_left {
                Some(0) => return,
                Some(left) => *left -= 1,
                None => {}
            }
            match effect {
                Effect::VerifySig { ticket, epoch, author, digest, signature } => {
                    let key = if epoch < self.config.epoch { author + EARLIER_KEYS } else { author };
                    let ok = signature == stub_signature(key, &digest);
                    self.queue.push_back(Event::SigChecked { ticket, ok });
                }
                Effect::Sign { ticket, core } => {
                    let signature = stub_signature(core.author, &core.digest());
                    self.signed.insert(core.round, *core);
                    self.queue.push_back(Event::Signed { ticket, signature });
                }
                Effect::Append { lsn, need_fsync, record } => {
                    self.log.push(record);
                    if need_fsync {
                        self.syncing.insert(lsn, self.log.len());
                        self.queue.push_back(Event::Durable { lsn });
                    }
                }
                Effect::Broadcast { block, .. } => {
                    let before = self.broadcast.insert(block.round, block.digest);
                    assert!(
                        before.is_none_or(|digest| digest == block.digest),
                        "{block} is another block of its round"
                    );
                }
                Effect::Send { to, bytes, .. } => {
                    let message = Message::decode(&bytes).expect("own messages decode");
                    self.sent.push((to, message.clone()));
                    if let Message::ProbeRequest { epoch, nonce } = message {
                        let reply = Message::ProbeReply { epoch, nonce, commit_index: 0, round: Some(1), newest: None };
                        self.queue.push_back(Event::Received { peer: to, bytes: reply.encode() });
                    }
                }
                Effect::SetTimer { at_mono_ms } => {
                    assert!(at_mono_ms > self.now.mono_ms, "a timer in the past makes a busy loop");
                    self.timer_ms = Some(at_mono_ms);
                }
                Effect::Evidence(_) => self.evidence += 1,
                Effect::Charge { .. } => self.charges += 1,
                Effect::Halt(reason) => panic!("{reason}"),
                _ => {}
            }
        }
    }

    pub(crate) fn wait(&mut self, ms: TimeMs) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.event(Event::Tick);
    }

    /// Nothing happens but its own timers, until a time. Returns how often they went off.
    pub(crate) fn run_timers_until(&mut self, end_ms: TimeMs, mut each: impl FnMut(&mut Self)) -> u32 {
        let mut ticks = 0;
        while let Some(at) = self.timer_ms.take().filter(|at| *at <= end_ms) {
            ticks += 1;
            assert!(ticks < 100_000, "a busy loop");
            let ms = at.saturating_sub(self.now.mono_ms);
            self.wait(ms);
            each(self);
        }
        ticks
    }

    /// A block of another validator on these parents, its own among them.
    pub(crate) fn block(&self, round: Round, author: AuthorIdx, parents: &[BlockRef]) -> Block {
        let mut parents = parents.to_vec();
        parents.sort_by_key(|parent| (parent.author != author, parent.author));
        sealed_block(&self.config, round, author, parents, vec![])
    }

    pub(crate) fn push(&mut self, block: &Block) {
        self.event(Event::Received { peer: block.core.author, bytes: encode_block(&block.encode()) });
    }

    /// Blocks of the three others for a round, all on all blocks of the round before.
    pub(crate) fn round(&self, round: Round, parents: &[BlockRef]) -> Vec<Block> {
        (1..4).map(|author| self.block(round, author, parents)).collect()
    }

    /// Two peers say that they are this many commits ahead.
    pub(crate) fn far_ahead(&mut self, commit_index: u64) {
        for peer in 1..3 {
            self.receive(peer, &Message::FetchReply { request: 0, commit_index, blocks: vec![] });
        }
    }
}

pub(crate) fn refs(blocks: &[Block]) -> Vec<BlockRef> {
    blocks.iter().map(Block::reference).collect()
}

/// With two leaders a round the second one, too, is drawn by stake from those that are left.
#[test]
fn h03_the_second_leader_of_a_round_is_chosen_by_stake() {
    let stakes = [10_u32, 20, 30, 40];
    let committee = Committee::new(stakes.map(u64::from).to_vec()).expect("valid");
    let mut config = Config::new(Hash([1; 32]), Hash([7; 32]), stakes.map(u64::from).to_vec(), None);
    config.params.leaders_per_round = 2;
    let schedule = Schedule::new(&config);
    let rounds = 20_000_u32;
    let mut count = [0_u32; 4];
    for round in 1..=rounds {
        count[usize::from(schedule.leaders(&committee, round)[1])] += 1;
    }
    let share = |first: usize, second: usize| {
        let (a, b) = (f64::from(stakes[first]), f64::from(stakes[second]));
        if first == second { 0.0 } else { a / 100.0 * b / (100.0 - a) }
    };
    let expected = |second| (0..4).map(|first| share(first, second)).sum::<f64>() * f64::from(rounds);
    // Chi-square with 3 degrees of freedom: 16.3 is exceeded once in a thousand seeds, and the seed is fixed.
    let chi: f64 = (0..4).map(|a| (f64::from(count[a]) - expected(a)).powi(2) / expected(a)).sum();
    assert!(chi < 16.3, "counts {count:?}, chi-square {chi}");
}

/// The process ends between any two effects, with and without what was not synced: it never says another thing.
#[test]
fn h08_a_crash_between_any_two_effects_signs_nothing_twice() {
    // Rounds 1 to 3 with three others, who build on what this one has sent.
    let live = |one: &mut One| {
        one.connect_all();
        let mut parents = genesis_of(&one.config);
        for round in 1..=3 {
            let made = one.round(round, &parents);
            made.iter().for_each(|block| one.push(block));
            one.wait(600);
            parents = refs(&made);
        }
    };
    let mut whole = One::new(|_| {});
    whole.effects_left = Some(u32::MAX);
    live(&mut whole);
    let effects = u32::MAX - whole.effects_left.expect("counted");
    assert!(effects > 40 && whole.broadcast.len() >= 3, "{effects} effects, {:?}", whole.broadcast);
    let mut said = 0;
    for crash_after in 0..effects {
        for keep_unsynced in [false, true] {
            let mut one = One::new(|_| {});
            one.effects_left = Some(crash_after);
            live(&mut one);
            said += one.broadcast.len();
            one.restart(keep_unsynced);
            live(&mut one);
            assert!(one.broadcast.len() >= 3, "after {crash_after} effects: {:?}", one.broadcast.keys());
        }
    }
    assert!(said > 40, "{said} blocks were sent before a crash");
}

/// What is pushed while far behind is not kept: it could only wait. Now and then its author's vote is looked at.
#[test]
fn h10_pushed_blocks_cost_nothing_while_catching_up() {
    let mut one = One::new(|_| {}).connect();
    one.far_ahead(10_000);
    assert_eq!(one.machine.mode(), Mode::CatchUp);
    let before = one.machine.status();
    let mut parents = genesis_of(&one.config);
    let mut pushed = 0;
    for round in 1..=100 {
        let blocks = one.round(round, &parents);
        // Those of the first round are withheld: the others would all have to wait.
        for block in blocks.iter().filter(|_| round > 1) {
            one.push(block);
            pushed += 1;
        }
        parents = refs(&blocks);
    }
    let after = one.machine.status();
    assert_eq!((after.suspended, after.wanted, after.blocks), (0, 0, before.blocks));
    // No time passes: one of each author.
    assert_eq!(after.counters.signatures_checked - before.counters.signatures_checked, 3);
    assert_eq!(after.counters.blocks_dropped - before.counters.blocks_dropped, pushed);
}

/// Peers that have nothing to give are asked again at a pace, not in a loop; between, what is pushed comes in.
#[test]
fn h11_when_every_peer_fails_catch_up_asks_again_at_a_pace() {
    let mut one = One::new(|_| {}).connect();
    one.far_ahead(10_000);
    let end = one.now.mono_ms + 10_000;
    let (mut asked, mut modes) = (0_u32, BTreeSet::new());
    let mut answer = |one: &mut One| {
        modes.insert(one.machine.mode() == Mode::CatchUp);
        // A reply may bring the next request at once.
        while !one.sent.is_empty() {
            for (peer, message) in std::mem::take(&mut one.sent) {
                if let Message::CommitRangeRequest { request, .. } = message {
                    asked += 1;
                    one.receive(peer, &Message::CommitRangeReply(CommitRange::new(request, 10_000)));
                }
            }
            assert!(asked < 1_000, "a busy loop");
        }
    };
    answer(&mut one);
    let ticks = one.run_timers_until(end, answer);
    assert!((20..=80).contains(&asked), "{asked} ranges asked for in 10 s");
    assert!(ticks <= 400, "{ticks} timers in 10 s");
    assert_eq!(modes.len(), 2, "it goes on both ways");
    assert!(one.machine.status().counters.catch_ups >= 2, "it goes on trying");
}

/// Peers whose logs begin later than what is missing here have nothing to give, ever: a snapshot is waited for, not the
/// commits. Sync from the beginning alone never ended there.
#[test]
fn h24_logs_that_begin_later_bring_a_wait_for_a_snapshot_and_one_that_does_not_is_used() {
    let answers = |one: &mut One, oldest: [u64; 3]| {
        for _ in 0..20 {
            for (peer, message) in std::mem::take(&mut one.sent) {
                if let Message::CommitRangeRequest { request, from, .. } = message {
                    let range =
                        CommitRange { oldest: oldest[usize::from(peer) - 1], ..CommitRange::new(request, 10_000) };
                    assert_eq!(from, 1);
                    one.receive(peer, &Message::CommitRangeReply(range));
                }
            }
        }
        one.machine.status()
    };
    for (distance, oldest, least) in
        [(60_000, [900, 700, 800], Some(699)), (60_000, [1, 1, 0], None), (0, [900, 700, 800], None)]
    {
        let mut one = One::new(|config| config.limits.snapshot_distance = distance).connect();
        one.far_ahead(10_000);
        let mut status = answers(&mut one, oldest);
        for _ in 0..20 {
            if status.awaits_snapshot {
                break;
            }
            one.wait(600);
            status = answers(&mut one, oldest);
        }
        assert_eq!(status.awaits_snapshot.then_some(status.snapshot_least), least, "logs from {oldest:?}");
        assert_eq!(one.charges, 0);
        if least.is_some() {
            // None comes: it asks again, and waits again.
            one.event(Event::SnapshotSync { goes_on: false });
            one.wait(600);
            assert!(one.sent.iter().any(|(_, message)| matches!(message, Message::CommitRangeRequest { .. })));
        }
    }
}

/// Own blocks take their time from a clock that others need not agree with.
#[test]
fn h13_a_clock_behind_the_parents_or_set_back_stalls_nothing() {
    let mut one = One::new(|_| {}).connect();
    let genesis = genesis_of(&one.config);
    let mut first = one.round(1, &genesis);
    for block in &mut first {
        block.core.timestamp_ms = one.now.wall_ms + 900;
        *block = reseal(block.clone());
        one.push(block);
    }
    one.wait(600);
    let mut parents = refs(&first);
    parents.push(one.signed[&1].reference());
    let second = one.round(2, &parents);
    second.iter().for_each(|block| one.push(block));
    one.now.wall_ms -= 900;
    one.wait(600);
    assert!(one.signed.contains_key(&3), "{:?}", one.signed.keys());
    let times: Vec<TimeMs> = one.signed.values().map(|core| core.timestamp_ms).collect();
    assert!(times.windows(2).all(|pair| pair[0] <= pair[1]), "own time goes back: {times:?}");
}

/// One block was signed while the clock was an hour ahead: the next one takes the right time, or others would hold it back
/// for an hour.
#[test]
fn h13_a_clock_that_was_far_ahead_does_not_bind_later_blocks() {
    let mut one = One::new(|_| {});
    one.now.wall_ms += 3_600_000;
    one.connect_all();
    assert_eq!(one.signed[&1].timestamp_ms, one.now.wall_ms);
    one.now.wall_ms -= 3_600_000;
    let genesis = genesis_of(&one.config);
    one.round(1, &genesis).iter().for_each(|block| one.push(block));
    one.wait(600);
    assert_eq!(one.signed[&2].timestamp_ms, one.now.wall_ms);
}

/// The round was complete before the least delay had passed, and nothing happens afterwards.
#[test]
fn h17_a_round_that_is_complete_early_is_built_by_the_own_timer() {
    let mut one = One::new(|config| {
        // The leader time-out alone would come much later.
        config.pacing.t_leader_initial_ms = 8_000;
        config.pacing.t_leader_min_ms = 8_000;
        config.pacing.rebroadcast_ms = 60_000;
    })
    .connect();
    assert!(one.signed.contains_key(&1));
    let genesis = genesis_of(&one.config);
    for block in one.round(1, &genesis) {
        one.push(&block);
    }
    assert!(!one.signed.contains_key(&2), "the least delay has not passed");
    let built = one.now.mono_ms;
    one.run_timers_until(built + 500, |_| {});
    assert!(one.signed.contains_key(&2), "after {} ms", one.now.mono_ms - built);
}

/// Two of twenty hold a block: those who are known to hold it are asked, also when the first of them is busy.
#[test]
fn h18_the_holders_of_a_block_are_asked_before_anybody_else() {
    let connected: Vec<AuthorIdx> = (1..20).collect();
    let block = |number: u8| BlockRef { round: 9, author: 12, digest: Hash([number; 32]) };
    let mut fetcher = Fetcher::default();
    // Peer 7 is asked for so much that its places are taken.
    for number in 0..2 {
        fetcher.want(block(number), &[7], 0, 9, 1_000);
        assert_eq!(fetcher.due(0, &connected).iter().map(|(peer, ..)| *peer).collect::<Vec<_>>(), [7]);
    }
    for number in 100..120 {
        fetcher.want(block(number), &[7, 9], 0, 9, 1_000);
    }
    let asked = fetcher.due(0, &connected);
    assert_eq!(asked.iter().map(|(peer, _, refs)| (*peer, refs.len())).collect::<Vec<_>>(), [(9, 20)]);
    // And everybody gets a turn before anybody gets a second one.
    fetcher.want(block(200), &[9], 0, 9, 1_000);
    let mut turns = Vec::new();
    let mut now = 0;
    while turns.len() < connected.len() {
        now += 10;
        for (peer, id, refs) in fetcher.due(now, &connected) {
            if refs.contains(&block(200)) {
                turns.push(peer);
            }
            fetcher.answered(peer, id, now);
        }
    }
    assert_eq!(turns.iter().collect::<BTreeSet<_>>().len(), connected.len() - usize::from(!turns.contains(&7)));
}

/// Blocks from rounds that nobody can have reached are dropped before they cost a signature check.
#[test]
fn h19_rounds_of_the_far_future_are_dropped_unchecked() {
    let mut one = One::new(|_| {}).connect();
    let before = one.machine.status();
    let ahead = one.config.limits.ahead;
    let invented = |round: Round| -> Vec<BlockRef> {
        (0..4).map(|author| BlockRef { round, author, digest: h("none", &round.to_le_bytes()) }).collect()
    };
    for round in (before.round + ahead + 1..).take(2_000).chain([Round::MAX]) {
        let author = u16::try_from(1 + round % 3).expect("small");
        one.push(&one.block(round, author, &invented(round - 1)));
    }
    let after = one.machine.status();
    assert_eq!((after.suspended, after.wanted), (0, 0));
    assert_eq!(after.counters.signatures_checked, before.counters.signatures_checked);
    one.push(&one.block(before.round + ahead, 1, &invented(before.round + ahead - 1)));
    assert_eq!(one.machine.status().suspended, 1, "up to the limit they may come");
}

/// No list of a block can make it longer than the published maximum, and the largest block that is allowed fits.
#[test]
fn h20_every_list_of_a_block_has_a_bound() {
    let config = Config::new(h("chain", b"test"), h("seed", b"test"), vec![1; 128], None);
    let parent = |author: u16| BlockRef {
        // A third of them older: those are written out in full.
        round: if author % 3 == 1 { 90 } else { 99 },
        author,
        digest: h("parent", &author.to_le_bytes()),
    };
    let batch = |number: usize| BatchRef { digest: h("batch", &number.to_le_bytes()), len: 9, tx_count: 1 };
    let batches: Vec<BatchRef> = (0..MAX_BATCH_REFS).map(batch).collect();
    let mut block = sealed_block(&config, 100, 0, (0..128).map(parent).collect(), batches);
    let one = block.signed_core();
    let mut other = one.clone();
    other.core.timestamp_ms += 1;
    let proof = Evidence::equivocation(one, other);
    assert_eq!(proof.kind, EvidenceKind::Equivocation);
    block.extras.evidence = vec![proof.clone(); 2];
    let largest = reseal(block);
    let bytes = largest.encode();
    assert!(bytes.len() <= MAX_BLOCK_BYTES, "{}", bytes.len());
    assert_eq!(Block::decode(&bytes), Ok(largest.clone()));
    let refused = |change: &dyn Fn(&mut Block)| {
        let mut block = largest.clone();
        change(&mut block);
        Block::decode(&reseal(block).encode()).is_err()
    };
    assert!(refused(&|block| block.batches.push(batch(1_000))));
    assert!(refused(&|block| block.extras.evidence.push(proof.clone())));
    assert!(refused(&|block| block.parents.extend((128..300).map(|author| BlockRef { round: 90, ..parent(author) }))));
    assert!(refused(&|block| block.batches = (0..2_000).map(batch).collect()));
}

/// A log that ends after any of its records is that of a process that ended there.
#[test]
fn h23_a_log_that_ends_anywhere_recovers_with_the_own_block_that_it_holds() {
    let mut c = Cluster::new(&[1; 4], 901);
    c.start_all();
    for i in 0..8 {
        c.submit(i % 4, &format!("payload {i}"));
        c.run_for(150);
    }
    let records: Vec<Record> = c.nodes[0].log.iter().map(|r| Record::decode(r).expect("decodes")).collect();
    let mut own = None;
    let mut seen = 0;
    for end in 0..=records.len() {
        if let Some(Record::OwnBlock(bytes)) = end.checked_sub(1).map(|last| &records[last]) {
            own = Some(Block::decode(bytes).expect("decodes").reference());
            seen += 1;
        }
        let log = records[..end].to_vec();
        let (mut machine, effects) =
            Machine::recover(c.config_of(0), c.now(), Recovery::default(), log).expect("recovers");
        let halted = effects.iter().any(|effect| matches!(effect, Effect::Halt(_)));
        assert!(!halted, "after {end} records");
        assert_eq!(machine.proposer.last, own, "after {end} records");
        machine.step(c.now(), Event::PeerUp { peer: 1 });
    }
    assert!(seen > 10, "{seen} own blocks");
}

/// Validators that are none, named in every place of every message where a validator can be named.
#[test]
fn h27_strangers_named_anywhere_in_any_message_do_no_harm() {
    for stranger in [4, 127, 128, u16::MAX] {
        let mut one = One::new(|_| {}).connect();
        let genesis = genesis_of(&one.config);
        let strange = BlockRef { round: 1, author: stranger, digest: Hash([5; 32]) };
        let mut by_stranger = one.block(1, 1, &genesis);
        by_stranger.core.author = stranger;
        let mut names_stranger = one.block(2, 1, &refs(&one.round(1, &genesis)));
        names_stranger.parents.push(strange);
        let strangers = [reseal(by_stranger), reseal(names_stranger)];
        let named = refs(&strangers);
        let mut ranges = CommitRange::new(0, 9_000);
        one.far_ahead(9_000);
        for (peer, message) in std::mem::take(&mut one.sent) {
            if let Message::CommitRangeRequest { request, .. } = message {
                ranges.request = request;
                let header = CommitHeader {
                    epoch: 0,
                    index: 1,
                    prev_digest: genesis_commit(&one.config.chain_id, 0, &one.config.epoch_seed, one.config.base)
                        .digest,
                    timestamp_ms: 5,
                    leader: named[0],
                    blocks_root: blocks_root(named.iter()),
                    block_count: 2,
                    gc_round: 0,
                    schedule_digest: Hash::ZERO,
                    last_decided: LeaderSlot { round: 1, offset: 0, author: stranger },
                };
                assert!(ranges.push(header, strangers.iter().map(|b| (b.reference(), b.encode())).collect()));
                one.receive(peer, &Message::CommitRangeReply(ranges.clone()));
            }
        }
        let cores = strangers.iter().map(Block::signed_core).collect();
        for block in &strangers {
            one.receive(1, &Message::Block(block.encode()));
            one.receive(1, &Message::FetchReply { request: 1, commit_index: 0, blocks: vec![block.encode()] });
            let newest = Some(block.encode());
            one.receive(1, &Message::ProbeReply { epoch: 0, nonce: 0, commit_index: 0, round: Some(9), newest });
        }
        one.receive(1, &Message::FetchRequest { epoch: 0, request: 1, ancestors_above: 0, refs: vec![strange] });
        one.receive(1, &Message::ProofReply(RoundProof { nonce: 0, round: 2, cores }));
        one.receive(stranger, &Message::ProbeRequest { epoch: 0, nonce: 1 });
        one.event(Event::PeerUp { peer: stranger });
        one.event(Event::PeerDown { peer: stranger });
        let end = one.now.mono_ms + 5_000;
        one.run_timers_until(end, |_| {});
        let status = one.machine.status();
        // Not even a signature of such a block is looked at.
        assert_eq!((status.suspended, status.blocks, status.counters.signatures_checked), (0, 1, 0));
        assert!(one.sent.iter().all(|(to, _)| *to < 4) && one.charges > 0);
    }
}

/// The missing parent of the lowest round is the one that lets everything else in: it stays, garbage goes.
#[test]
fn h29_garbage_from_later_rounds_does_not_evict_the_parent_that_is_needed() {
    let mut fetcher = Fetcher::default();
    let needed = BlockRef { round: 5, author: 2, digest: Hash([1; 32]) };
    let garbage =
        |number: u32| BlockRef { round: 20 + number % 100, author: 3, digest: h("garbage", &number.to_le_bytes()) };
    (0..500).for_each(|number| fetcher.want(garbage(number), &[3], 0, 5, 64));
    fetcher.want(needed, &[1], 0, 5, 64);
    (500..5_000).for_each(|number| fetcher.want(garbage(number), &[3], 0, 5, 64));
    assert!(fetcher.is_wanted(&needed));
    assert!(fetcher.wanted() <= 64, "{} wanted", fetcher.wanted());
    let asked = fetcher.due(0, &[1, 2, 3]);
    assert!(asked.iter().any(|(peer, _, refs)| *peer == 1 && *refs == [needed]), "{asked:?}");
}

/// The first version came before the process ended, the second after it started again.
#[test]
fn h32_two_versions_of_a_slot_before_and_after_a_restart_are_evidence() {
    let mut one = One::new(|_| {});
    let genesis = genesis_of(&one.config);
    let first = one.block(1, 2, &genesis);
    let mut twin = first.clone();
    twin.core.timestamp_ms += 1;
    let twin = reseal(twin);
    one.push(&first);
    assert_eq!((one.machine.status().blocks, one.evidence), (1, 0));
    one.restart(true);
    assert_eq!(one.machine.status().blocks, 1);
    one.push(&twin);
    assert_eq!(one.evidence, 1);
    one.push(&twin);
    assert_eq!(one.evidence, 1, "once");
}
