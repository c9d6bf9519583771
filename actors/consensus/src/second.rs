//! A second process with the key of a test cluster's node 3: it hears what the others push and answer, and what it sends
//! reaches them as if node 3 had sent it. Two blocks of a round by either fail the test.

use crate::block::Block;
use crate::cluster::{Cluster, stub_signature};
use crate::epoch::EpochCert;
use crate::event::{Effect, Event};
use crate::machine::{Machine, Recovery};
use crate::message::{Message, pushed_block};
use crate::record::Record;

/// The node whose key it has.
const FIRST: usize = 3;

pub(crate) struct Second {
    pub(crate) machine: Machine,
    /// Without, it stays in the epoch in which it is.
    pub(crate) executes: bool,
    heard: usize,
}

impl Second {
    /// Starts it in the first epoch with these records of the first process's log.
    pub(crate) fn start(c: &mut Cluster, records: Vec<Record>) -> Self {
        let last = |record: &Record| match record {
            Record::Commit(commit) => Some(commit.header.index),
            _ => None,
        };
        let recovery =
            Recovery { executed_index: records.iter().filter_map(last).max().unwrap_or(0), ..Recovery::default() };
        let (machine, effects) = Machine::recover(c.config_of(FIRST), c.now(), recovery, records).expect("recovers");
        c.record_traffic = true;
        let mut second = Self { machine, executes: true, heard: c.traffic.len() };
        second.execute(c, effects);
        second.meet(c);
        second
    }

    fn meet(&mut self, c: &mut Cluster) {
        (0..3).for_each(|peer| self.step(c, Event::PeerUp { peer }));
    }

    fn step(&mut self, c: &mut Cluster, event: Event) {
        let effects = self.machine.step(c.now(), event);
        self.execute(c, effects);
    }

    fn execute(&mut self, c: &mut Cluster, effects: Vec<Effect>) {
        let mut ended = None;
        for effect in effects {
            match effect {
                Effect::VerifySig { ticket, author, digest, signature, .. } => {
                    let ok = signature == stub_signature(author, &digest);
                    self.step(c, Event::SigChecked { ticket, ok });
                }
                Effect::Sign { ticket, core } => {
                    let signature = stub_signature(core.author, &core.digest());
                    self.step(c, Event::Signed { ticket, signature });
                }
                Effect::Append { lsn, need_fsync: true, .. } => self.step(c, Event::Durable { lsn }),
                Effect::Broadcast { bytes, .. } => Self::push(c, &bytes),
                Effect::Send { to, bytes, .. } if usize::from(to) != FIRST => {
                    self.ask(c, usize::from(to), bytes.to_vec());
                }
                Effect::FetchBatches { batches, .. } => {
                    for batch in batches {
                        self.step(c, Event::BatchStored { digest: batch.digest, len: batch.len });
                    }
                }
                Effect::Deliver { commit } if self.executes => {
                    let checkpoint = c.executed(FIRST, &commit);
                    self.step(c, Event::Executed { commit_index: commit.header.index, checkpoint });
                }
                Effect::EpochEnded(cert) => ended = Some(cert),
                Effect::Halt(reason) => panic!("{reason}"),
                _ => {}
            }
        }
        if let Some(cert) = ended {
            self.next_epoch(c, &cert);
        }
    }

    fn push(c: &mut Cluster, bytes: &[u8]) {
        let core = Block::decode(pushed_block(bytes).expect("a block")).expect("decodes").core;
        let (reference, slot) = (core.reference(), (core.epoch, core.round));
        let before = c.nodes[FIRST].sent_rounds.insert(slot, reference.digest);
        assert!(before.is_none_or(|digest| digest == reference.digest), "two blocks of epoch and round {slot:?} left");
        c.broadcast(FIRST, bytes);
    }

    fn next_epoch(&mut self, c: &mut Cluster, cert: &EpochCert) {
        let held = self.machine.take_held();
        let start = self.machine.next_start(vec![7; 3]).expect("has ended");
        let stakes = c.set_of(cert.epoch + 1).into_iter().map(|(_, stake)| stake).collect();
        let config = self.machine.config().at(&start, stakes, self.machine.config().own);
        let (machine, effects) = self.machine.next_epoch(config, &start, c.now()).expect("the next epoch starts");
        self.machine = machine;
        self.execute(c, effects);
        self.meet(c);
        for (peer, bytes) in held {
            self.step(c, Event::Received { peer, bytes });
        }
    }

    /// Gives a peer a message, and what it answers, from memory or the log, to this process instead of the first.
    fn ask(&mut self, c: &mut Cluster, to: usize, bytes: Vec<u8>) {
        let now = c.now();
        let Some(machine) = c.nodes[to].machine.as_mut() else { return };
        let effects = machine.step(now, Event::Received { peer: 3, bytes });
        let peer = u16::try_from(to).expect("few");
        for effect in effects {
            match effect {
                Effect::Send { to: 3, bytes, .. } => self.step(c, Event::Received { peer, bytes: bytes.to_vec() }),
                Effect::ServeBlocks { to: 3, .. }
                | Effect::ServeCommits { to: 3, .. }
                | Effect::ServeEpochCert { to: 3, .. } => {
                    let answers = c.traffic.len();
                    let apart = c.cut.insert((to, FIRST));
                    c.execute(to, vec![effect]);
                    if apart {
                        c.cut.remove(&(to, FIRST));
                    }
                    for bytes in c.traffic.split_off(answers) {
                        self.step(c, Event::Received { peer, bytes });
                    }
                }
                effect => c.execute(to, vec![effect]),
            }
        }
    }

    /// Lets time go by, and hears what the others push.
    pub(crate) fn run(&mut self, c: &mut Cluster, duration: u64, look: impl Fn(&Machine)) {
        let end = c.time + duration;
        while c.time < end {
            c.run_for(5);
            let heard: Vec<Vec<u8>> = c.traffic[self.heard..].to_vec();
            self.heard = c.traffic.len();
            for bytes in heard {
                let Ok(Message::Block(block)) = Message::decode(&bytes) else { continue };
                let peer = Block::decode(&block).expect("decodes").core.author;
                self.step(c, Event::Received { peer, bytes });
            }
            self.step(c, Event::Tick);
            look(&self.machine);
        }
    }
}
