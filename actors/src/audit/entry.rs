//! One entry of the audit log: its fields, its canonical bytes, its place in the chain.

use aurigraph_ledger::codec::{CodecError, Reader, Writer};
use aurigraph_ledger::hash::DIGEST_LEN;
use aurigraph_ledger::{Hash, h};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::bounds::audit as bounds;

/// How much an entry matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AuditLevel {
    /// Something ordinary was done.
    Info = 0,
    /// Somebody should look at it.
    Warning = 1,
    /// Something failed.
    Error = 2,
    /// Somebody must look at it now.
    Critical = 3,
}

impl AuditLevel {
    const ALL: [Self; 4] = [Self::Info, Self::Warning, Self::Error, Self::Critical];
}

/// How the action ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AuditStatus {
    /// It was done.
    Success = 0,
    /// It was tried and failed.
    Failure = 1,
    /// It was refused.
    Denied = 2,
}

impl AuditStatus {
    const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Denied];
}

/// What somebody reports; the audit actor makes an entry of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// How much it matters.
    pub level: AuditLevel,
    /// Which kind of event, `actor_failure`, `admin_kill`.
    pub event_type: String,
    /// Who did it; `system` for the node itself.
    pub user: String,
    /// What was done.
    pub action: String,
    /// To which kind of thing.
    pub resource: String,
    /// To which one.
    pub resource_id: String,
    /// From where; empty inside the node.
    pub ip: String,
    /// How it ended.
    pub status: AuditStatus,
    /// Anything else.
    pub details: String,
}

impl AuditRecord {
    /// A record about a part of the node itself.
    #[must_use]
    pub fn system(level: AuditLevel, event_type: &str, action: &str, resource_id: &str, details: &str) -> Self {
        let status = if level >= AuditLevel::Error { AuditStatus::Failure } else { AuditStatus::Success };
        Self {
            level,
            event_type: event_type.to_owned(),
            user: "system".to_owned(),
            action: action.to_owned(),
            resource: "actor".to_owned(),
            resource_id: resource_id.to_owned(),
            ip: String::new(),
            status,
            details: details.to_owned(),
        }
    }
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntry {
    /// Counts from 1 without gaps.
    pub id: u64,
    /// When it was made, in milliseconds since 1970.
    #[serde(rename = "timestamp")]
    pub timestamp_ms: u64,
    /// How much it matters.
    pub level: AuditLevel,
    /// Which kind of event.
    pub event_type: String,
    /// Who did it.
    pub user: String,
    /// What was done.
    pub action: String,
    /// To which kind of thing.
    pub resource: String,
    /// To which one.
    pub resource_id: String,
    /// From where.
    #[serde(rename = "ipAddress")]
    pub ip: String,
    /// How it ended.
    pub status: AuditStatus,
    /// Anything else.
    pub details: String,
    /// The hash of the entry before; zero for the first.
    pub previous_hash: Hash,
    /// H("audit", everything above).
    pub hash: Hash,
}

const VERSION: u8 = 1;

/// Cuts a text at a character's border and says so.
fn cut(text: String, max: usize) -> String {
    if text.len() <= max {
        return text;
    }
    let mark = "…";
    let end = (0..=max - mark.len()).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{mark}", &text[..end])
}

impl AuditEntry {
    /// The entry that follows another one. Texts beyond their bounds are cut.
    #[must_use]
    pub fn new(id: u64, timestamp_ms: u64, previous_hash: Hash, record: AuditRecord) -> Self {
        let mut entry = Self {
            id,
            timestamp_ms,
            level: record.level,
            event_type: cut(record.event_type, bounds::FIELD),
            user: cut(record.user, bounds::FIELD),
            action: cut(record.action, bounds::FIELD),
            resource: cut(record.resource, bounds::FIELD),
            resource_id: cut(record.resource_id, bounds::FIELD),
            ip: cut(record.ip, bounds::FIELD),
            status: record.status,
            details: cut(record.details, bounds::DETAILS),
            previous_hash,
            hash: Hash::ZERO,
        };
        entry.hash = entry.computed_hash();
        entry
    }

    fn write_content(&self, w: &mut Writer) {
        w.u8(VERSION).u64(self.id).u64(self.timestamp_ms).u8(self.level as u8).u8(self.status as u8);
        for text in self.texts() {
            w.bytes(text.as_bytes());
        }
        w.hash(&self.previous_hash);
    }

    pub(super) fn texts(&self) -> [&str; 7] {
        [&self.event_type, &self.user, &self.action, &self.resource, &self.resource_id, &self.ip, &self.details]
    }

    /// The hash that the entry must have.
    #[must_use]
    pub fn computed_hash(&self) -> Hash {
        let mut w = Writer::new();
        self.write_content(&mut w);
        h("audit", w.as_slice())
    }

    /// The stored form: content and hash.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::new();
        self.write_content(&mut w);
        w.hash(&self.hash);
        w.into_bytes()
    }

    /// Reads the stored form. Whether the hash is right is [`AuditEntry::is_whole`]'s question.
    ///
    /// # Errors
    /// [`CodecError`] saying where and why.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let invalid = |what, value: u8| CodecError::Invalid { what, value: u64::from(value) };
        let mut r = Reader::new(bytes);
        match r.u8()? {
            VERSION => {}
            other => return Err(invalid("audit entry version", other)),
        }
        let (id, timestamp_ms, level, status) = (r.u64()?, r.u64()?, r.u8()?, r.u8()?);
        let level = *AuditLevel::ALL.get(usize::from(level)).ok_or_else(|| invalid("audit level", level))?;
        let status = *AuditStatus::ALL.get(usize::from(status)).ok_or_else(|| invalid("audit status", status))?;
        let mut text = || -> Result<String, CodecError> {
            Ok(String::from_utf8_lossy(r.bytes("audit text", bounds::DETAILS)?).into_owned())
        };
        let (event_type, user, action, resource, resource_id, ip, details) =
            (text()?, text()?, text()?, text()?, text()?, text()?, text()?);
        let previous_hash = r.hash()?;
        let hash = Hash(r.array::<DIGEST_LEN>()?);
        r.finish()?;
        Ok(Self {
            id,
            timestamp_ms,
            level,
            event_type,
            user,
            action,
            resource,
            resource_id,
            ip,
            status,
            details,
            previous_hash,
            hash,
        })
    }

    /// True if the hash is that of the content.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.hash == self.computed_hash()
    }

    /// True if this entry follows the other one.
    #[must_use]
    pub fn follows(&self, earlier: &Self) -> bool {
        self.id == earlier.id + 1 && self.previous_hash == earlier.hash
    }
}
