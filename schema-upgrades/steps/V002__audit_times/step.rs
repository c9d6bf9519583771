//! V002: the audit log can be searched by time. See the note beside this file.

use crate::medium::{Change, Medium};
use crate::step::{Advance, Presence, Step, StepError};

/// Entry numbers of the audit log by time.
pub const AUDIT_TIMES: &str = "audit_times";

const AUDIT: &str = "audit";
const CHUNK: usize = 1_000;
const FORM: u8 = 1;

/// The step.
pub struct AuditTimes;

/// The key of an entry; none if it has another form.
fn key(number: &[u8], entry: &[u8]) -> Option<Vec<u8>> {
    let time = entry.get(9..17)?.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes))?;
    (entry.first() == Some(&FORM)).then(|| [&time.to_be_bytes(), number].concat())
}

impl Step for AuditTimes {
    fn version(&self) -> u32 {
        2
    }

    fn name(&self) -> &'static str {
        "audit_times"
    }

    fn content(&self) -> &[&str] {
        &[include_str!("NOTE.md"), include_str!("step.rs")]
    }

    fn advance(&self, medium: &dyn Medium, from: Option<&[u8]>) -> Result<Advance, StepError> {
        medium.ensure_tree(AUDIT_TIMES)?;
        let entries = medium.scan(AUDIT, from, CHUNK)?;
        let keys = entries.iter().filter_map(|(number, entry)| key(number, entry));
        let changes: Vec<Change> = keys.map(|key| Change::put(&key, &[])).collect();
        if !changes.is_empty() {
            medium.apply(AUDIT_TIMES, &changes)?;
        }
        Ok(match entries.last() {
            Some((number, _)) if entries.len() == CHUNK => Advance::More(number.clone()),
            _ => Advance::Done,
        })
    }

    fn presence(&self, medium: &dyn Medium) -> Result<Presence, StepError> {
        if medium.trees().iter().all(|tree| tree != AUDIT_TIMES) {
            return Ok(Presence::Absent);
        }
        let (mut from, mut missing) = (None, 0_u64);
        loop {
            let entries = medium.scan(AUDIT, from.as_deref(), CHUNK)?;
            for key in entries.iter().filter_map(|(number, entry)| key(number, entry)) {
                missing += u64::from(medium.get(AUDIT_TIMES, &key)?.is_none());
            }
            let Some((number, _)) = entries.last() else { break };
            from = Some(number.clone());
        }
        Ok(if missing == 0 { Presence::Complete } else { Presence::Partial(format!("{missing} entries are missing")) })
    }

    fn source(&self) -> Option<&str> {
        Some(AUDIT)
    }

    fn reversible(&self) -> bool {
        true
    }

    fn retreat(&self, medium: &dyn Medium, _from: Option<&[u8]>) -> Result<Advance, StepError> {
        if medium.trees().iter().all(|tree| tree != AUDIT_TIMES) {
            return Ok(Advance::Done);
        }
        let keys = medium.scan(AUDIT_TIMES, None, CHUNK)?;
        if let Some((last, _)) = keys.last() {
            let changes: Vec<Change> = keys.iter().map(|(key, _)| Change::remove(key)).collect();
            medium.apply(AUDIT_TIMES, &changes)?;
            return Ok(Advance::More(last.clone()));
        }
        medium.drop_tree(AUDIT_TIMES)?;
        Ok(Advance::Done)
    }
}
