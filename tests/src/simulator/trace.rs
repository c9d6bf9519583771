//! The digest of a run: every event with its time, every effect with its content, in order.

use std::hash::{DefaultHasher, Hasher};

use aurigraph_consensus::{Block, Effect, Event, Message};

/// Folds a run into one number.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
}

impl Trace {
    pub(crate) fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) fn event(&mut self, time: u64, node: usize, event: &Event) {
        self.hasher.write_u64(time);
        self.hasher.write_usize(node);
        match event {
            Event::Received { peer, bytes } => {
                self.hasher.write_u16(*peer);
                self.hasher.write(bytes);
            }
            Event::Signed { ticket, .. } => self.hasher.write_u64(*ticket),
            other => self.text(&format!("{other:?}")),
        }
    }

    pub(crate) fn effect(&mut self, effect: &Effect) {
        match effect {
            Effect::Send { to, bytes, .. } => {
                self.hasher.write_u16(*to);
                self.hasher.write(bytes);
            }
            Effect::Broadcast { bytes, .. } => self.hasher.write(bytes),
            Effect::Append { lsn, record, .. } => {
                self.hasher.write_u64(*lsn);
                self.hasher.write(&record.encode());
            }
            Effect::Sign { core, .. } => self.hasher.write(&core.encode()),
            Effect::Deliver { commit } => self.hasher.write(&commit.encode()),
            Effect::SetTimer { at_mono_ms } => self.hasher.write_u64(*at_mono_ms),
            Effect::VerifySig { ticket, digest, .. } => {
                self.hasher.write_u64(*ticket);
                self.hasher.write(digest.as_bytes());
            }
            other => self.text(&format!("{other:?}")),
        }
    }

    fn text(&mut self, text: &str) {
        self.hasher.write(text.as_bytes());
    }
}

/// An event in one line, for a run that is told aloud.
pub(crate) fn describe(event: &Event) -> String {
    match event {
        Event::Received { peer, bytes } => match Message::decode(bytes) {
            Ok(Message::Block(block)) => format!("{peer} pushes {}", block_text(&block)),
            Ok(Message::FetchRequest { request, refs, .. }) => format!("{peer} asks for {refs:?} ({request})"),
            Ok(Message::FetchReply { request, blocks, .. }) => {
                let blocks: Vec<String> = blocks.iter().map(|block| block_text(block)).collect();
                format!("{peer} gives {} ({request})", blocks.join("; "))
            }
            Ok(Message::CommitRangeReply(range)) => format!("{peer} gives {} commits", range.commits.len()),
            Ok(other) => format!("{other:?} from {peer}"),
            Err(error) => format!("{} bytes of garbage from {peer}: {error}", bytes.len()),
        },
        Event::Signed { ticket, .. } => format!("Signed {{ {ticket} }}"),
        other => format!("{other:?}"),
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
