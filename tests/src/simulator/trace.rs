//! The digest of a run: every event with its time, every effect with its content, in order.

use aurigraph_consensus::{AuthorIdx, Block, Effect, Event, Message};

/// An odd number with its bits well spread.
const PRIME: u64 = 0x9e37_79b9_7f4a_7c15;

/// Folds a run into one number. No cryptographic hash: nobody tries to make two runs look alike.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    lanes: [u64; 4],
}

impl Trace {
    pub(crate) fn digest(&self) -> u64 {
        let mut sum = Self::default();
        self.lanes.iter().for_each(|lane| sum.number(*lane));
        sum.lanes[0]
    }

    pub(crate) fn event(&mut self, time: u64, node: usize, event: &Event) {
        self.number(time);
        self.number(node as u64);
        match event {
            Event::Signed { ticket, .. } => self.numbers(&[2, *ticket]),
            Event::SigChecked { ticket, ok } => self.numbers(&[3, *ticket, u64::from(*ok)]),
            Event::Durable { lsn } => self.numbers(&[4, *lsn]),
            Event::Tick => self.number(5),
            Event::BatchStored { digest, .. } => {
                self.number(6);
                self.bytes(digest.as_bytes());
            }
            other => self.text(&format!("{other:?}")),
        }
    }

    pub(crate) fn received(&mut self, time: u64, node: usize, peer: AuthorIdx, bytes: &[u8]) {
        self.numbers(&[time, node as u64, 1 << 32 | u64::from(peer)]);
        self.bytes(bytes);
    }

    pub(crate) fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { to, bytes, .. } => {
                self.number(1 << 32 | u64::from(*to));
                self.bytes(bytes);
            }
            Effect::Broadcast { bytes, .. } => self.bytes(bytes),
            Effect::Append { lsn, need_fsync, record } => {
                self.numbers(&[2, *lsn, u64::from(*need_fsync)]);
                match record.block() {
                    Some(block) => self.bytes(block),
                    None => self.bytes(&record.encode()),
                }
            }
            Effect::Sign { ticket, core } => {
                self.numbers(&[3, *ticket]);
                self.bytes(&core.encode());
            }
            Effect::Deliver { commit } => {
                self.numbers(&[4, commit.header.index]);
                self.bytes(commit.header.digest().as_bytes());
                commit.batches().for_each(|(_, batch)| self.bytes(batch.digest.as_bytes()));
            }
            Effect::SetTimer { at_mono_ms } => self.numbers(&[5, *at_mono_ms]),
            Effect::VerifySig { ticket, digest, .. } => {
                self.numbers(&[6, *ticket]);
                self.bytes(digest.as_bytes());
            }
            Effect::Certified(certificate) => {
                let cores = certificate.cores.len() as u64;
                self.numbers(&[7, certificate.checkpoint.seq, cores]);
                self.bytes(certificate.checkpoint.digest.as_bytes());
            }
            other => self.text(&format!("{other:?}")),
        }
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn numbers(&mut self, numbers: &[u64]) {
        numbers.iter().for_each(|number| self.number(*number));
    }

    const fn number(&mut self, number: u64) {
        self.fold(0, number);
    }

    const fn fold(&mut self, lane: usize, word: u64) {
        let mixed = (self.lanes[lane].rotate_left(23) ^ word).wrapping_mul(PRIME);
        self.lanes[lane] = mixed ^ (mixed >> 29);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            for (lane, word) in block.as_chunks::<8>().0.iter().enumerate() {
                self.fold(lane, u64::from_le_bytes(*word));
            }
        }
        for piece in rest.chunks(8) {
            let mut word = [0; 8];
            word[..piece.len()].copy_from_slice(piece);
            self.number(u64::from_le_bytes(word));
        }
    }
}

/// An event in one line, for a run that is told aloud.
pub(crate) fn describe(event: &Event) -> String {
    match event {
        Event::Signed { ticket, .. } => format!("Signed {{ {ticket} }}"),
        other => format!("{other:?}"),
    }
}

/// A message in one line.
pub(crate) fn describe_message(peer: AuthorIdx, bytes: &[u8]) -> String {
    match Message::decode(bytes) {
        Ok(Message::Block(block)) => format!("{peer} pushes {}", block_text(&block)),
        Ok(Message::FetchRequest { request, refs, .. }) => format!("{peer} asks for {refs:?} ({request})"),
        Ok(Message::FetchReply { request, blocks, .. }) => {
            let blocks: Vec<String> = blocks.iter().map(|block| block_text(block)).collect();
            format!("{peer} gives {} ({request})", blocks.join("; "))
        }
        Ok(Message::CommitRangeReply(range)) => format!("{peer} gives {} commits", range.commits.len()),
        Ok(other) => format!("{other:?} from {peer}"),
        Err(error) => format!("{} bytes of garbage from {peer}: {error}", bytes.len()),
    }
}

fn block_text(bytes: &[u8]) -> String {
    match Block::decode(bytes) {
        Ok(block) => {
            let (vote, attestation) = (block.core.commit_vote.index, block.core.attestation.seq);
            format!("{} (vote {vote}, checkpoint {attestation}) on {:?}", block.reference(), block.parents)
        }
        Err(error) => error.to_string(),
    }
}
