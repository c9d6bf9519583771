//! Coverage marks: counts of the situations that a run has been in. A run that never was in one has not tested it.

use std::fmt;

macro_rules! marks {
    ($($name:ident: $text:literal,)*) => {
        /// A situation that the runs must reach.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Mark {
            $(#[doc = $text] $name,)*
        }

        impl Mark {
            /// All marks.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What the mark counts.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

marks! {
    DirectCommit: "leader slots committed directly",
    IndirectCommit: "leader slots committed indirectly",
    Skip: "leader slots skipped",
    LeaderTimeout: "rounds entered on a leader time-out",
    CatchUp: "times catch-up was entered",
    Fetch: "fetch requests",
    BlockFetched: "blocks that came by fetching",
    Suspended: "observations of suspended blocks",
    BlockInvalid: "blocks refused",
    BlockDropped: "blocks dropped by a limit",
    Charge: "offences charged to peers",
    Equivocation: "equivocations seen by correct validators",
    Evidence: "pieces of evidence",
    Downtime: "validators found absent for too long",
    FaultProven: "faults proven by commits",
    EarlierFaultProven: "faults of an earlier epoch proven by commits",
    WrongAttestation: "wrong attestations proven by commits",
    TwinDelivered: "second versions of a slot delivered without their payload",
    BatchDeliveredOnce: "batches named by several blocks and delivered once",
    Crash: "crashes",
    CrashAmidEffects: "crashes between two effects of a step",
    LostRecords: "crashes that lost unsynced records",
    KeptUnsynced: "crashes that kept unsynced records",
    TornRecord: "crashes that tore a record",
    Restart: "restarts",
    RestartFresh: "restarts before anything was logged",
    RestartFromSnapshot: "restarts from a snapshot",
    CrashAtStart: "crashes while a process started",
    CrashAtSnapshot: "crashes while a process started from a snapshot",
    RolledBack: "disks set back",
    Wiped: "disks replaced by empty ones",
    OwnBlockLost: "disks that lost an own block",
    RollbackUntold: "runs ended by a rollback that nobody need tell of",
    LogDoubted: "logs found doubtful",
    FloorProven: "signing floors proven",
    RestartOfAll: "restarts of all",
    Redelivered: "commits delivered again after a restart",
    StoreAheadOfLog: "restarts with a store ahead of the log",
    StoreImported: "ledgers imported from a stored checkpoint",
    Snapshot: "consensus snapshots taken",
    Partition: "partitions into two sides",
    Isolation: "one-way cuts",
    Heal: "cuts healed",
    LinkDown: "links reported down",
    MessageLost: "messages lost",
    MessageDuplicated: "messages duplicated",
    MessageLate: "messages in the tail of the delay",
    LossBurst: "bursts of loss",
    NarrowLink: "messages that waited for a narrow link",
    LinkFull: "messages dropped before a full link",
    FrozenClock: "spells of a wall clock that stands still",
    RestartOfSome: "restarts of more than F",
    SlowLinks: "spells of slow links",
    ClockJump: "jumps of a wall clock",
    ExecutorStall: "stalled executors",
    BatchFetched: "batch bodies fetched",
    BatchFetchFailed: "batch bodies nobody gave",
    ServedFromLog: "block requests served from the log",
    ServedCommits: "commit ranges served",
    LedgerBlock: "ledger blocks",
    Checkpoint: "checkpoints",
    Certificate: "certificates made by validators",
    Transaction: "transactions included",
    Exclusion: "transactions excluded",
    Silent: "silent validators",
    TwinsSent: "rounds with two versions sent to disjoint sides",
    Withheld: "blocks shown to a few only",
    LateBlock: "blocks released late",
    Garbage: "invalid blocks and bytes sent",
    ConesSent: "rounds with three versions on three histories",
    Flooded: "floods of requests and blocks",
    QuotaCharged: "peers charged for exceeding their quota",
    SpoiltRelay: "blocks of others given with a corrupted signature",
    WrongPlace: "blocks of another epoch, chain or author sent",
    RecoveredAlike: "recoveries compared with one by the whole log",
    RecoveredAsBefore: "recoveries compared with the process before",
    LyingVote: "votes for invented commits",
    LyingAttestation: "attestations of checkpoints that are none",
    EpochEnded: "epochs ended by a validator",
    StakesChanged: "epochs that began with other stakes",
    EpochCertServed: "certificates of an epoch given to a peer",
    RestartInLaterEpoch: "restarts in a later epoch than the first",
    EpochsExecutedAgain: "restarts with commits of earlier epochs to execute again",
    UnevenStakes: "committees of uneven stakes",
    LeaderTable: "observations of a leader table after the first",
    SwappedOut: "validators seen to leave the rotation of leaders",
    SwappedIn: "validators seen back in the rotation of leaders",
    EquivocatorOut: "observations of an equivocator out of the rotation",
    RestartAtTurn: "restarts with the newest commit at the end of a window",
    RestartInFirstWindow: "restarts before the first leader table",
    Held: "messages held back by an adversary who orders them",
    OracleChecked: "comparisons with the oracle",
    SecondOfCopy: "second processes with a running validator's key, from a copy of its disk",
    SecondOfOlder: "second processes with a running validator's key, from an older copy of its disk",
    SecondEmpty: "second processes with a running validator's key, from an empty disk",
    SecondSawFirst: "second processes that came upon a block of the first",
    RangeUncertified: "ranges of commits taken though nobody certifies them",
    RunTwice: "seeds run twice with one trace",
}

/// Counts of the marks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage([u64; Mark::ALL.len()]);

impl Default for Coverage {
    fn default() -> Self {
        Self([0; Mark::ALL.len()])
    }
}

impl Coverage {
    /// How often a mark was hit.
    #[must_use]
    pub const fn get(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Counts once.
    pub const fn hit(&mut self, mark: Mark) {
        self.add(mark, 1);
    }

    /// Counts several times.
    pub const fn add(&mut self, mark: Mark, times: u64) {
        self.0[mark as usize] += times;
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Self) {
        for (sum, more) in self.0.iter_mut().zip(&other.0) {
            *sum += more;
        }
    }

    /// Marks that were never hit, but for one that a run seldom comes to.
    #[must_use]
    pub fn missing(&self) -> Vec<&'static str> {
        let due = Mark::ALL.iter().filter(|mark| **mark != Mark::RollbackUntold);
        due.filter(|mark| self.get(**mark) == 0).map(|mark| mark.text()).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mark in Mark::ALL {
            writeln!(f, "{:>12}  {}", self.get(*mark), mark.text())?;
        }
        Ok(())
    }
}
