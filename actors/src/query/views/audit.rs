//! Views of the audit log.

use std::collections::BTreeMap;

use aurigraph_ledger::Hash;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::audit::{AuditEntry, AuditFilter, AuditLevel, AuditPage, AuditStatus, AuditSummary};
use crate::query::values::{HexHash, Timestamp};

/// Which entries to find. Every bound is inclusive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuditFilters {
    /// Earliest time.
    pub date_from: Option<Timestamp>,
    /// Latest time.
    pub date_to: Option<Timestamp>,
    /// Exactly this level.
    pub level: Option<AuditLevel>,
    /// Exactly this kind of event.
    pub event_type: Option<String>,
    /// Exactly this user.
    pub user: Option<String>,
    /// Exactly this kind of thing.
    pub resource: Option<String>,
    /// Ended exactly so.
    pub status: Option<AuditStatus>,
    /// A text in any field, in any case.
    pub search_query: Option<String>,
}

impl From<AuditFilters> for AuditFilter {
    fn from(filters: AuditFilters) -> Self {
        Self {
            date_from: filters.date_from.map(|Timestamp(at)| at),
            date_to: filters.date_to.map(|Timestamp(at)| at),
            level: filters.level,
            event_type: filters.event_type,
            user: filters.user,
            resource: filters.resource,
            status: filters.status,
            search_query: filters.search_query,
        }
    }
}

/// The body of a search in the audit log.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuditSearch {
    /// Which entries.
    #[serde(deserialize_with = "object")]
    pub filters: AuditFilters,
    /// Which page, from 1.
    #[schemars(range(min = 1))]
    pub page: Option<u64>,
    /// How many a page holds, 1 to 200.
    #[schemars(range(min = 1, max = 200))]
    pub page_size: Option<u64>,
}

/// Reads an object; serde alone would take an array too, field by field.
fn object<'de, D: Deserializer<'de>>(deserializer: D) -> Result<AuditFilters, D::Error> {
    let fields = serde_json::Map::deserialize(deserializer)?;
    serde_json::from_value(fields.into()).map_err(serde::de::Error::custom)
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditEntryView {
    /// Counts from 1 without gaps.
    pub id: u64,
    /// When it was made.
    pub timestamp: Timestamp,
    /// How much it matters.
    pub level: AuditLevel,
    /// Which kind of event.
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
    pub ip_address: String,
    /// How it ended.
    pub status: AuditStatus,
    /// Anything else.
    pub details: String,
    /// The hash of the entry before; zero for the first.
    #[schemars(with = "HexHash")]
    pub previous_hash: Hash,
    /// Its own hash.
    #[schemars(with = "HexHash")]
    pub hash: Hash,
}

impl From<AuditEntry> for AuditEntryView {
    fn from(entry: AuditEntry) -> Self {
        Self {
            id: entry.id,
            timestamp: Timestamp(entry.timestamp_ms),
            level: entry.level,
            event_type: entry.event_type,
            user: entry.user,
            action: entry.action,
            resource: entry.resource,
            resource_id: entry.resource_id,
            ip_address: entry.ip,
            status: entry.status,
            details: entry.details,
            previous_hash: entry.previous_hash,
            hash: entry.hash,
        }
    }
}

/// Found entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditLogPage {
    /// Newest first.
    pub logs: Vec<AuditEntryView>,
    /// How many match.
    pub total: u64,
    /// Which page this is, from 1.
    pub page: u64,
    /// How many a page holds.
    pub page_size: u64,
    /// True if the search read as many entries as one search may: then older matches are not counted.
    pub truncated: bool,
}

impl AuditLogPage {
    /// The view of a search's outcome.
    #[must_use]
    pub fn new(found: AuditPage, page: super::Page) -> Self {
        Self {
            logs: found.logs.into_iter().map(Into::into).collect(),
            total: found.total as u64,
            page: page.number,
            page_size: page.size,
            truncated: !found.complete,
        }
    }
}

/// How often a user occurs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditUserView {
    /// The user.
    pub user: String,
    /// Entries of this user.
    pub count: u64,
}

/// The audit log in figures, over its newest entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuditSummaryView {
    /// Entries in the log.
    pub total_logs: u64,
    /// Entries by kind of event.
    pub by_type: BTreeMap<String, u64>,
    /// Entries by level.
    pub by_level: BTreeMap<String, u64>,
    /// Actions that failed or were refused.
    pub failed_attempts: u64,
    /// Critical entries and refused actions.
    pub suspicious_activity: u64,
    /// The users with most entries.
    pub top_users: Vec<AuditUserView>,
    /// The newest entry's hash; zero for an empty log.
    #[schemars(with = "HexHash")]
    pub chain_head: Hash,
    /// Whether every entry follows the one before.
    pub chain_verified: bool,
}

impl From<AuditSummary> for AuditSummaryView {
    fn from(summary: AuditSummary) -> Self {
        let user = |(user, count)| AuditUserView { user, count };
        Self {
            total_logs: summary.total_logs,
            by_type: summary.by_type,
            by_level: summary.by_level,
            failed_attempts: summary.failed_attempts,
            suspicious_activity: summary.suspicious_activity,
            top_users: summary.top_users.into_iter().map(user).collect(),
            chain_head: summary.chain_head,
            chain_verified: summary.chain_verified,
        }
    }
}
