//! Reading the audit log: searches, the summary, and whether the chain holds.

use std::collections::BTreeMap;

use aurigraph_ledger::Hash;

use super::entry::{AuditEntry, AuditLevel, AuditStatus};
use crate::bounds::audit as bounds;
use crate::storage::{StoreError, StoreReader};

/// Which entries are wanted; an absent field asks nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuditFilter {
    /// Not before, in milliseconds since 1970.
    pub date_from: Option<u64>,
    /// Not after, in milliseconds since 1970.
    pub date_to: Option<u64>,
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

impl AuditFilter {
    fn accepts(&self, entry: &AuditEntry) -> bool {
        fn is<T: PartialEq>(wanted: Option<&T>, found: &T) -> bool {
            wanted.is_none_or(|wanted| wanted == found)
        }
        self.date_from.is_none_or(|from| entry.timestamp_ms >= from)
            && self.date_to.is_none_or(|to| entry.timestamp_ms <= to)
            && is(self.level.as_ref(), &entry.level)
            && is(self.event_type.as_ref(), &entry.event_type)
            && is(self.user.as_ref(), &entry.user)
            && is(self.resource.as_ref(), &entry.resource)
            && is(self.status.as_ref(), &entry.status)
            && self.search_query.as_ref().is_none_or(|query| {
                let query = query.to_lowercase();
                entry.texts().iter().any(|text| text.to_lowercase().contains(&query))
            })
    }
}

/// One page of a search, newest first.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditPage {
    /// The entries of the page.
    pub logs: Vec<AuditEntry>,
    /// How many entries match in what was searched.
    pub total: usize,
    /// False if older entries exist that were not searched.
    pub complete: bool,
}

/// The log in numbers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuditSummary {
    /// Entries in the log.
    pub total_logs: u64,
    /// Entries by kind of event, in what was searched.
    pub by_type: BTreeMap<String, u64>,
    /// Entries by level, in what was searched.
    pub by_level: BTreeMap<String, u64>,
    /// Actions that failed or were refused.
    pub failed_attempts: u64,
    /// Critical entries and refused actions.
    pub suspicious_activity: u64,
    /// The ten users with most entries.
    pub top_users: Vec<(String, u64)>,
    /// Hash of the newest entry; zero for an empty log.
    pub chain_head: Hash,
    /// Whether the chain holds over what was searched.
    pub chain_verified: bool,
}

/// Reads the log; cheap to clone. Blocking: belongs on a thread.
#[derive(Clone)]
pub struct AuditReader {
    store: StoreReader,
}

/// The newest entry and whether the chain behind it holds.
pub(super) struct Tail {
    pub newest: Option<AuditEntry>,
    pub verified: bool,
}

impl AuditReader {
    /// A reader over the store.
    #[must_use]
    pub const fn new(store: StoreReader) -> Self {
        Self { store }
    }

    /// Visits up to `limit` entries, newest first; false from `visit` ends it. Returns whether the chain holds over what
    /// was visited: an entry that does not decode breaks it and is left out.
    fn walk(&self, limit: usize, mut visit: impl FnMut(AuditEntry) -> bool) -> Result<bool, StoreError> {
        let (mut below, mut left, mut verified) = (None, limit, true);
        let mut later: Option<AuditEntry> = None;
        while left > 0 {
            let rows = self.store.audit_rows(below, left.min(bounds::CHUNK))?;
            let Some((oldest, _)) = rows.last() else {
                // The chain begins at 1 with no predecessor.
                verified &= later.is_none_or(|first| first.id == 1 && first.previous_hash == Hash::ZERO);
                break;
            };
            below = Some(*oldest);
            left -= rows.len();
            for (id, bytes) in rows {
                let Ok(entry) = AuditEntry::decode(&bytes) else {
                    verified = false;
                    continue;
                };
                verified &= entry.id == id && entry.is_whole();
                verified &= later.as_ref().is_none_or(|later| later.follows(&entry));
                later = Some(entry.clone());
                if !visit(entry) {
                    return Ok(verified);
                }
            }
        }
        Ok(verified)
    }

    pub(super) fn tail(&self, limit: usize) -> Result<Tail, StoreError> {
        let mut newest = None;
        let verified = self.walk(limit, |entry| {
            newest.get_or_insert(entry);
            true
        })?;
        Ok(Tail { newest, verified })
    }

    /// A page (counted from 0) of the entries that a filter accepts, newest first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn search(&self, filter: &AuditFilter, page: usize, page_size: usize) -> Result<AuditPage, StoreError> {
        let skip = page.saturating_mul(page_size);
        if filter.date_from.is_some() || filter.date_to.is_some() {
            return self.search_between(filter, skip, page_size);
        }
        let (mut logs, mut total, mut oldest) = (Vec::new(), 0, 0);
        self.walk(bounds::SEARCHED, |entry| {
            oldest = entry.id;
            if filter.accepts(&entry) {
                if total >= skip && logs.len() < page_size {
                    logs.push(entry);
                }
                total += 1;
            }
            true
        })?;
        Ok(AuditPage { logs, total, complete: oldest <= 1 })
    }

    /// A search between two times: by the index, so that the bound of what is searched counts from the later one.
    fn search_between(&self, filter: &AuditFilter, skip: usize, page_size: usize) -> Result<AuditPage, StoreError> {
        let range = (filter.date_from.unwrap_or(0), filter.date_to.unwrap_or(u64::MAX));
        let (mut logs, mut total, mut before, mut left) = (Vec::new(), 0, None, bounds::SEARCHED);
        while left > 0 {
            let limit = left.min(bounds::CHUNK);
            let rows = self.store.audit_rows_between(range, before, limit)?;
            left -= rows.len();
            before = rows.last().map(|(time, id, _)| (*time, *id));
            for entry in rows.iter().filter_map(|(_, _, bytes)| AuditEntry::decode(bytes).ok()) {
                if filter.accepts(&entry) {
                    if total >= skip && logs.len() < page_size {
                        logs.push(entry);
                    }
                    total += 1;
                }
            }
            if rows.len() < limit {
                return Ok(AuditPage { logs, total, complete: true });
            }
        }
        Ok(AuditPage { logs, total, complete: false })
    }

    /// The log in numbers, over its newest entries.
    ///
    /// # Errors
    /// If the store fails.
    pub fn summary(&self) -> Result<AuditSummary, StoreError> {
        let mut summary = AuditSummary {
            total_logs: 0,
            by_type: BTreeMap::new(),
            by_level: BTreeMap::new(),
            failed_attempts: 0,
            suspicious_activity: 0,
            top_users: Vec::new(),
            chain_head: Hash::ZERO,
            chain_verified: true,
        };
        let mut users = BTreeMap::<String, u64>::new();
        let mut first = true;
        summary.chain_verified = self.walk(bounds::SEARCHED, |entry| {
            if std::mem::take(&mut first) {
                (summary.total_logs, summary.chain_head) = (entry.id, entry.hash);
            }
            let level = format!("{:?}", entry.level).to_lowercase();
            *summary.by_level.entry(level).or_default() += 1;
            summary.failed_attempts += u64::from(entry.status != AuditStatus::Success);
            let suspicious = entry.level == AuditLevel::Critical || entry.status == AuditStatus::Denied;
            summary.suspicious_activity += u64::from(suspicious);
            *summary.by_type.entry(entry.event_type).or_default() += 1;
            *users.entry(entry.user).or_default() += 1;
            true
        })?;
        summary.top_users = users.into_iter().collect();
        summary.top_users.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        summary.top_users.truncate(10);
        Ok(summary)
    }
}
