//! What happens in a run: everything follows from the seed, or is set by hand for a fixed case.

use std::collections::BTreeMap;

use aurigraph_consensus::{AuthorIdx, Committee, FIRST_PROTOCOL_VERSION, PROTOCOL_VERSION, Round};

use super::rng::Rng;

/// Virtual milliseconds.
pub type Ms = u64;

/// How a faulty validator behaves. It has a key and no state machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends nothing.
    Silent,
    /// Two versions of every block, to disjoint sides.
    Twins,
    /// Another trick every round.
    Mixed,
    /// Three versions of every block to everybody, each on another version of the one before: histories that double.
    Cones,
    /// Requests by the hundred, and blocks of many rounds at once.
    Flood,
    /// One block for everybody, as a correct one: what is wrong is what it says.
    Liar,
}

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// A process ends after so many more effects, and comes back, if at all.
    Crash {
        /// Which validator.
        node: usize,
        /// Effects it still executes.
        effects: u32,
        /// How long it is down; for ever without.
        down_ms: Option<Ms>,
    },
    /// A process ends, comes back, and ends again after so many more effects of its start: its log is read, or a
    /// snapshot loaded, and little or nothing of what follows from it is done.
    CrashAtStart {
        /// Which validator.
        node: usize,
        /// Effects that the start still executes.
        effects: u32,
        /// How long it is down, each time.
        down_ms: Ms,
    },
    /// All processes end at once and come back within a short time; one perhaps later.
    CrashAll {
        /// How long they are down.
        down_ms: Ms,
        /// Who stays down for how much longer; for ever without a time.
        late: Option<(usize, Option<Ms>)>,
    },
    /// More than F of stake end at once and come back; the others go on running.
    CrashSome {
        /// Who.
        nodes: Vec<usize>,
        /// How long they are down.
        down_ms: Ms,
    },
    /// A process ends, and comes back with an older state of its disk.
    Loss {
        /// Which validator.
        node: usize,
        /// How much of the log is left, of a thousand; nothing, if the disk was replaced.
        kept_permille: usize,
        /// How long it is down.
        down_ms: Ms,
    },
    /// A second process with a validator's key starts from a copy of its disk, while the first one goes on.
    SecondProcess {
        /// Which validator.
        node: usize,
        /// How much of the log the copy has, of a thousand: 0 is an empty disk.
        kept_permille: usize,
        /// How long after the copy was made it starts. Later, if no peer has seen anything that the copy lacks.
        after_ms: Ms,
        /// How long it runs.
        for_ms: Ms,
    },
    /// Two sides cannot talk.
    Partition {
        /// The one side.
        side: Vec<usize>,
        /// For how long.
        for_ms: Ms,
    },
    /// One direction of the links from some to others is dead.
    OneWay {
        /// Pairs of sender and receiver.
        pairs: Vec<(usize, usize)>,
        /// For how long.
        for_ms: Ms,
    },
    /// More messages than usual are lost.
    Drops {
        /// Of a thousand.
        permille: u64,
        /// For how long.
        for_ms: Ms,
    },
    /// A validator's links are slow.
    Slow {
        /// Whose.
        node: usize,
        /// How much.
        extra_ms: Ms,
        /// For how long.
        for_ms: Ms,
    },
    /// A wall clock jumps, and is set right later.
    ClockJump {
        /// Whose.
        node: usize,
        /// How far.
        by_ms: i64,
        /// For how long.
        for_ms: Ms,
    },
    /// What a validator sends goes through a narrow link, one message after the other.
    Narrow {
        /// Whose.
        node: usize,
        /// Bytes of a millisecond.
        bytes_per_ms: u64,
        /// For how long.
        for_ms: Ms,
    },
    /// A wall clock stands still.
    FrozenClock {
        /// Whose.
        node: usize,
        /// For how long.
        for_ms: Ms,
    },
    /// Execution stands still.
    ExecutorStall {
        /// Whose.
        node: usize,
        /// For how long.
        for_ms: Ms,
    },
}

/// How links behave outside of faults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Links {
    /// Least delay.
    pub delay_ms: Ms,
    /// Most delay on top of it.
    pub jitter_ms: Ms,
    /// Messages in the tail, of a thousand.
    pub tail_permille: u64,
    /// Most delay of those.
    pub tail_ms: Ms,
    /// Messages lost, of a thousand.
    pub loss_permille: u64,
    /// Messages delivered twice, of a thousand.
    pub duplicate_permille: u64,
}

/// An attacker who orders all messages from a time on, and delivers each within a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adversary {
    /// From when: the global stabilisation time.
    pub from_ms: Ms,
    /// The longest delay of a message.
    pub delta_ms: Ms,
}

/// A deliberate error, to show that the checks notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sabotage {
    /// Disks say that they have synced, and have not.
    SyncLies,
    /// One executor leaves out the first transaction of each batch.
    ExecutorForgets,
    /// A faulty validator's blocks are held to the rules of correct ones.
    TwinsCountAsCorrect,
    /// A partition is never healed.
    NeverHeals,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Where all randomness comes from.
    pub seed: u64,
    /// Stake of each validator, in the first epoch and every second one after it.
    pub stakes: Vec<u64>,
    /// In the epochs between.
    pub other_stakes: Vec<u64>,
    /// The protocol version of the first epoch. Later ones run the newest that a quorum supports.
    pub version: u16,
    /// Commits of an epoch; without end, if 0.
    pub epoch_commits: u64,
    /// Garbage-collection depth.
    pub gc_depth: Round,
    /// Leaders of a round.
    pub leaders_per_round: u16,
    /// Commits between two leader tables.
    pub schedule_window: u32,
    /// Least time between two blocks of a validator with payload, and without.
    pub min_delay_ms: (Ms, Ms),
    /// Catch-up starts and ends so far behind.
    pub catch_up: (u64, u64),
    /// Who is faulty, and how.
    pub byzantine: BTreeMap<AuthorIdx, Behaviour>,
    /// Blocks of faulty validators that say anything of checkpoints, of a thousand: seldom the truth.
    pub lies_permille: u64,
    /// The links.
    pub links: Links,
    /// Least and most time of a sync.
    pub sync_ms: (Ms, Ms),
    /// How late timers go off, at most.
    pub timers_late_ms: Ms,
    /// How far each wall clock is off.
    pub skew_ms: Vec<i64>,
    /// What goes wrong, and when.
    pub faults: Vec<(Ms, Fault)>,
    /// When everything that went wrong is over.
    pub quiet_ms: Ms,
    /// Time between snapshots of a validator.
    pub snapshot_ms: Option<Ms>,
    /// Whether stored ledger checkpoints may be newer than the synced log.
    pub store_ahead: bool,
    /// Signatures that the signer fails to give, of a thousand.
    pub unsigned_permille: u64,
    /// How often a look at everybody compares a validator with the oracle, of a thousand.
    pub oracle_permille: u64,
    /// Time between batches of clients.
    pub client_ms: Ms,
    /// Least virtual time of the run.
    pub least_ms: Ms,
    /// Least rounds of the run.
    pub least_rounds: Round,
    /// One validator's executor leaves out transactions from a time on: that validator has to notice.
    pub corrupted: Option<(usize, Ms)>,
    /// The leader time-out, if it is not to adapt.
    pub leader_timeout_ms: Option<Ms>,
    /// Who orders messages.
    pub adversary: Option<Adversary>,
    /// A deliberate error.
    pub sabotage: Option<Sabotage>,
}

/// Faults of a seed at least, faulty validators not counted.
pub const LEAST_FAULTS: usize = 5;
const FAULTS_FROM_MS: Ms = 1_000;
const FAULTS_UNTIL_MS: Ms = 13_000;

impl Scenario {
    /// Validators of equal stake, good links and disks, no faults: what the fixed cases start from.
    #[must_use]
    pub fn calm(n: usize, seed: u64) -> Self {
        Self {
            seed,
            stakes: vec![1; n],
            other_stakes: vec![1; n],
            version: FIRST_PROTOCOL_VERSION,
            epoch_commits: 0,
            gc_depth: 64,
            leaders_per_round: 1,
            schedule_window: 10,
            min_delay_ms: (50, 100),
            catch_up: (128, 8),
            byzantine: BTreeMap::new(),
            lies_permille: 0,
            links: Links {
                delay_ms: 5,
                jitter_ms: 10,
                tail_permille: 0,
                tail_ms: 0,
                loss_permille: 0,
                duplicate_permille: 0,
            },
            sync_ms: (1, 4),
            timers_late_ms: 2,
            skew_ms: vec![0; n],
            faults: Vec::new(),
            quiet_ms: 0,
            snapshot_ms: None,
            store_ahead: false,
            unsigned_permille: 0,
            oracle_permille: 25,
            client_ms: 60,
            least_ms: 20_000,
            least_rounds: 150,
            corrupted: None,
            leader_timeout_ms: None,
            adversary: None,
            sabotage: None,
        }
    }

    /// The run of a seed: at least 20 seconds, 150 rounds and 5 faults.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5157_1a70_1234_abcd);
        let n = *rng.pick(&[4, 4, 4, 4, 4, 4, 5, 5, 6, 7]).expect("not empty");
        let uneven = rng.chance(200);
        let mut scenario = Self::calm(n, seed);
        if uneven {
            scenario.stakes = (0..n).map(|_| rng.between(1, 4)).collect();
        }
        scenario.other_stakes.clone_from(&scenario.stakes);
        scenario.gc_depth = *rng.pick(&[64, 64, 32, 16]).expect("not empty");
        scenario.leaders_per_round = if rng.chance(200) { 2 } else { 1 };
        scenario.min_delay_ms = (rng.between(30, 60), rng.between(60, 110));
        scenario.catch_up = *rng.pick(&[(128, 8), (24, 8), (24, 4), (16, 4)]).expect("not empty");
        scenario.byzantine = byzantine(&mut rng, &scenario.stakes);
        scenario.links = links(&mut rng);
        scenario.sync_ms = (1, rng.between(2, 15));
        scenario.timers_late_ms = *rng.pick(&[2, 2, 2, 25, 120]).expect("not empty");
        scenario.skew_ms = (0..n).map(|_| signed(&mut rng, 300)).collect();
        scenario.snapshot_ms = rng.chance(500).then(|| rng.between(700, 3_000));
        scenario.store_ahead = rng.chance(300);
        scenario.unsigned_permille = *rng.pick(&[0, 5]).expect("not empty");
        scenario.client_ms = rng.between(40, 120);
        scenario.schedule_window = *rng.pick(&[10, 10, 7, 3, 1, 300]).expect("not empty");
        scenario.draw_faults(&mut rng);
        scenario.draw_crash_at_start();
        scenario.draw_epochs();
        scenario.draw_second_process();
        scenario.draw_version();
        scenario
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        let correct: Vec<usize> = (0..self.stakes.len()).filter(|node| !self.is_byzantine(*node)).collect();
        let count = rng.between(LEAST_FAULTS as u64, 9);
        for _ in 0..count {
            let at = rng.between(FAULTS_FROM_MS, FAULTS_UNTIL_MS);
            let fault = draw_fault(rng, &self.stakes, &correct);
            self.faults.push((at, fault));
        }
        if rng.chance(50) {
            let node = *rng.pick(&correct).expect("a correct validator");
            let effects = u32::try_from(rng.below(3)).expect("small");
            self.faults.push((rng.between(0, 15), Fault::Crash { node, effects, down_ms: Some(500) }));
        }
        // Only where all others are correct do they go on meanwhile.
        if self.byzantine.is_empty() && rng.chance(400) {
            let node = *rng.pick(&correct).expect("a correct validator");
            let effects = u32::try_from(rng.below(30)).expect("small");
            let down_ms = Some(rng.between(6_000, 9_000));
            self.faults.push((rng.between(1_000, 4_000), Fault::Crash { node, effects, down_ms }));
        }
        self.draw_loss(rng);
        self.faults.sort_by_key(|(at, _)| *at);
        self.quiet_ms = self.faults.iter().map(|(at, fault)| at + fault.duration_ms()).max().unwrap_or(0) + 500;
        if rng.chance(60) {
            self.adversary = Some(Adversary { from_ms: self.quiet_ms, delta_ms: rng.between(60, 250) });
        }
    }

    /// In one of five seeds, before everything is quiet. Drawn apart: the other seeds stay what they were.
    fn draw_crash_at_start(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0xc4a5_4a75_7a47_0001);
        if !rng.chance(200) {
            return;
        }
        let correct: Vec<usize> = (0..self.stakes.len()).filter(|node| !self.is_byzantine(*node)).collect();
        let node = *rng.pick(&correct).expect("a correct validator");
        let effects = u32::try_from(rng.below(4)).expect("small");
        let fault = Fault::CrashAtStart { node, effects, down_ms: rng.between(50, 1_000) };
        let latest = self.quiet_ms.saturating_sub(500 + fault.duration_ms()).max(FAULTS_FROM_MS);
        let at = rng.between(FAULTS_FROM_MS, FAULTS_UNTIL_MS).min(latest);
        self.faults.push((at, fault));
        self.faults.sort_by_key(|(at, _)| *at);
    }

    /// A lost disk is a fault of its owner: only where nobody else is faulty, and its stake is none too many.
    fn draw_loss(&mut self, rng: &mut Rng) {
        let most = Committee::new(self.stakes.clone()).map_or(0, |committee| committee.faulty());
        let node = rng.index(self.stakes.len());
        if self.byzantine.is_empty() && self.stakes[node] <= most && rng.chance(350) {
            let kept_permille = if rng.chance(500) { 0 } else { rng.index(1_000) };
            let down_ms = rng.between(50, 2_500);
            self.faults.push((rng.between(2_000, 10_000), Fault::Loss { node, kept_permille, down_ms }));
        }
    }

    /// Three of ten seeds have several epochs, most of them with other stakes in every second one. Drawn apart: the other
    /// seeds stay what they were.
    fn draw_epochs(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x0e90_c4a9_5eed_77aa);
        if !rng.chance(300) {
            return;
        }
        let loses = self.faults.iter().any(|(_, fault)| matches!(fault, Fault::Loss { .. }));
        // With a lost disk they may also be shorter than the silence after which a doubtful validator signs.
        self.epoch_commits = if loses { rng.between(15, 140) } else { rng.between(25, 90) };
        let stakes: Vec<u64> = self.stakes.iter().map(|_| rng.between(1, 4)).collect();
        let most = Committee::new(stakes.clone()).map_or(0, |committee| committee.faulty());
        let stake = |node: &usize| stakes[*node];
        let byzantine: u64 = self.byzantine.keys().map(|author| stake(&usize::from(*author))).sum();
        let lost = self.faults.iter().filter_map(|(_, fault)| match fault {
            Fault::Loss { node, .. } => Some(stake(node)),
            _ => None,
        });
        if byzantine <= most && lost.max().unwrap_or(0) <= most {
            self.other_stakes = stakes;
        }
    }

    /// In one of seven seeds, when all other faults are over: beside a first one that nobody hears for seconds, as after a
    /// partition, a second process does sign, and has to. Drawn apart: the other seeds stay what they were.
    fn draw_second_process(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x2b0d_1e5a_77e1_5c0d);
        if !rng.chance(150) {
            return;
        }
        let gone = |node: usize| {
            self.faults.iter().any(|(_, fault)| match fault {
                Fault::Crash { node: it, down_ms: None, .. } | Fault::Loss { node: it, .. } => *it == node,
                _ => false,
            })
        };
        let may = |node: &usize| !self.is_byzantine(*node) && !gone(*node) && self.is_told_by_correct(*node);
        let sound: Vec<usize> = (0..self.stakes.len()).filter(may).collect();
        let Some(node) = rng.pick(&sound).copied() else { return };
        let older = 300 + rng.index(700);
        let kept_permille = *rng.pick(&[0, older, 1_000]).expect("not empty");
        let (after_ms, for_ms) = (rng.between(100, 1_500), rng.between(4_000, 8_000));
        let fault = Fault::SecondProcess { node, kept_permille, after_ms, for_ms };
        let at = self.quiet_ms + rng.between(1_500, 3_500);
        self.quiet_ms = at + fault.duration_ms() + 500;
        self.faults.push((at, fault));
    }

    /// Whether a correct validator is among any others whose answers this one waits for when it starts, in every epoch.
    /// Where faulty ones have that stake alone, nobody need tell a second process of the first (ADR 0013).
    fn is_told_by_correct(&self, node: usize) -> bool {
        [&self.stakes, &self.other_stakes].into_iter().all(|stakes| {
            let faulty: u64 = self.byzantine.keys().map(|author| stakes[usize::from(*author)]).sum();
            let quorum = Committee::new(stakes.clone()).map_or(0, |committee| committee.quorum());
            faulty < quorum.saturating_sub(stakes[node]).max(1)
        })
    }

    /// Half of the seeds begin with the newest protocol version, and in half of them faulty validators lie about checkpoints.
    /// Drawn apart: the other seeds stay what they were.
    fn draw_version(&mut self) {
        let mut rng = Rng::new(self.seed ^ 0x7e25_104b_c4ec_a77e);
        if rng.chance(500) {
            self.version = PROTOCOL_VERSION;
        }
        if rng.chance(500) {
            self.lies_permille = *rng.pick(&[30, 200, 900]).expect("not empty");
            // Equivocators are soon heard no more.
            for behaviour in self.byzantine.values_mut().filter(|_| rng.chance(300)) {
                *behaviour = Behaviour::Liar;
            }
        }
    }

    /// The stakes of an epoch.
    #[must_use]
    pub fn stakes_in(&self, epoch: u64) -> &[u64] {
        if epoch.is_multiple_of(2) { &self.stakes } else { &self.other_stakes }
    }

    /// Whether the validator is faulty.
    #[must_use]
    pub fn is_byzantine(&self, node: usize) -> bool {
        AuthorIdx::try_from(node).is_ok_and(|author| self.byzantine.contains_key(&author))
    }
}

impl Fault {
    fn duration_ms(&self) -> Ms {
        match self {
            Self::Crash { down_ms, .. } => down_ms.unwrap_or(0),
            Self::CrashSome { down_ms, .. } => down_ms + 300,
            Self::CrashAtStart { down_ms, .. } => 2 * down_ms,
            Self::SecondProcess { after_ms, for_ms, .. } => after_ms + for_ms,
            // The floor takes its time.
            Self::Loss { down_ms, .. } => down_ms + 5_000,
            Self::CrashAll { down_ms, late } => down_ms + late.and_then(|(_, more)| more).unwrap_or(0) + 300,
            Self::Partition { for_ms, .. }
            | Self::OneWay { for_ms, .. }
            | Self::Drops { for_ms, .. }
            | Self::Slow { for_ms, .. }
            | Self::ClockJump { for_ms, .. }
            | Self::Narrow { for_ms, .. }
            | Self::FrozenClock { for_ms, .. }
            | Self::ExecutorStall { for_ms, .. } => *for_ms,
        }
    }
}

fn signed(rng: &mut Rng, most: u64) -> i64 {
    let size = i64::try_from(rng.below(most + 1)).expect("small");
    if rng.chance(500) { size } else { -size }
}

/// Up to F of stake, in three of five seeds.
fn byzantine(rng: &mut Rng, stakes: &[u64]) -> BTreeMap<AuthorIdx, Behaviour> {
    let mut faulty = BTreeMap::new();
    if rng.chance(400) {
        return faulty;
    }
    let mut left = Committee::new(stakes.to_vec()).map_or(0, |committee| committee.faulty());
    let mut order: Vec<usize> = (0..stakes.len()).collect();
    rng.shuffle(&mut order);
    for node in order {
        if stakes[node] <= left {
            left -= stakes[node];
            let behaviours = [
                Behaviour::Silent,
                Behaviour::Twins,
                Behaviour::Mixed,
                Behaviour::Mixed,
                Behaviour::Mixed,
                Behaviour::Cones,
                Behaviour::Flood,
            ];
            let author = AuthorIdx::try_from(node).expect("few");
            faulty.insert(author, *rng.pick(&behaviours).expect("not empty"));
        }
    }
    faulty
}

fn links(rng: &mut Rng) -> Links {
    Links {
        delay_ms: rng.between(1, 15),
        jitter_ms: rng.between(1, 25),
        tail_permille: *rng.pick(&[0, 5, 20, 50]).expect("not empty"),
        tail_ms: rng.between(100, 1_500),
        loss_permille: *rng.pick(&[0, 0, 2, 8]).expect("not empty"),
        duplicate_permille: *rng.pick(&[0, 10, 50]).expect("not empty"),
    }
}

/// A little more than F of stake, of the correct ones.
fn more_than_f(rng: &mut Rng, stakes: &[u64], correct: &[usize]) -> Vec<usize> {
    let most = Committee::new(stakes.to_vec()).map_or(0, |committee| committee.faulty());
    let mut order = correct.to_vec();
    rng.shuffle(&mut order);
    let mut sum = 0;
    let until = order.iter().position(|node| {
        sum += stakes[*node];
        sum > most
    });
    order.truncate(until.map_or(order.len(), |at| at + 1));
    order
}

fn draw_fault(rng: &mut Rng, stakes: &[u64], correct: &[usize]) -> Fault {
    let n = stakes.len();
    let node = *rng.pick(correct).expect("a correct validator");
    let for_ms = rng.between(300, 2_500);
    match rng.below(20) {
        0..=5 => {
            let effects = u32::try_from(rng.below(40)).expect("small");
            Fault::Crash { node, effects, down_ms: Some(rng.between(50, 2_500)) }
        }
        6..=7 => {
            let late = rng.chance(400).then(|| (node, Some(rng.between(500, 2_500))));
            Fault::CrashAll { down_ms: rng.between(50, 800), late }
        }
        8..=10 => {
            let mut order: Vec<usize> = (0..n).collect();
            rng.shuffle(&mut order);
            order.truncate(1 + rng.index(n - 1));
            Fault::Partition { side: order, for_ms }
        }
        11 => {
            let pairs = (0..n).flat_map(|a| (0..n).map(move |b| (a, b)));
            Fault::OneWay { pairs: pairs.filter(|(a, b)| a != b && rng.chance(250)).collect(), for_ms }
        }
        12 => Fault::Drops { permille: rng.between(100, 400), for_ms },
        13 => Fault::Slow { node, extra_ms: rng.between(50, 500), for_ms },
        14 => Fault::ClockJump { node, by_ms: signed(rng, 4_000), for_ms },
        15 => Fault::ExecutorStall { node, for_ms },
        16 => Fault::FrozenClock { node, for_ms },
        17 => Fault::Narrow { node, bytes_per_ms: rng.between(60, 400), for_ms },
        _ => Fault::CrashSome { nodes: more_than_f(rng, stakes, correct), down_ms: rng.between(50, 1_500) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_starts_only_where_a_correct_validator_is_among_those_it_must_hear() {
        let mut drawn = 0;
        // 14,167 had a faulty validator whose stake alone was all that the second process waited for.
        for seed in (0..2_000).chain([14_167]) {
            let scenario = Scenario::of_seed(seed);
            for (_, fault) in &scenario.faults {
                let Fault::SecondProcess { node, .. } = fault else { continue };
                drawn += 1;
                for stakes in [&scenario.stakes, &scenario.other_stakes] {
                    let committee = Committee::new(stakes.clone()).unwrap();
                    let faulty: u64 = scenario.byzantine.keys().map(|author| committee.stake(*author)).sum();
                    let waited_for = committee.quorum() - stakes[*node].min(committee.quorum());
                    assert!(faulty == 0 || faulty < waited_for, "seed {seed}: {faulty} of {waited_for}");
                }
            }
        }
        assert!(drawn > 200, "{drawn}");
    }
}
