//! Where a verifier's verdicts go: straight into the dispatcher's mailbox. A task for each job, which waits for its answer
//! and passes it on, cost more wake-ups than the job's own.

use aurigraph_runtime::Mouth;

use super::dispatcher::Internal;
use super::messages::DispatchMsg;

/// The answer to one job, given once. Dropped unanswered it says that the job was not done.
pub struct JobReply {
    job: u64,
    /// Until the answer is given.
    mouth: Option<Mouth<DispatchMsg>>,
}

impl JobReply {
    pub(super) const fn new(job: u64, mouth: Mouth<DispatchMsg>) -> Self {
        Self { job, mouth: Some(mouth) }
    }

    /// One verdict per item. Nobody hears it if the dispatcher's incarnation has ended.
    pub fn send(mut self, verdicts: Vec<bool>) {
        self.give(Some(verdicts));
    }

    fn give(&mut self, verdicts: Option<Vec<bool>>) {
        if let Some(mouth) = self.mouth.take() {
            mouth.send(DispatchMsg::Internal(Internal::Done { job: self.job, verdicts }));
        }
    }
}

impl Drop for JobReply {
    fn drop(&mut self) {
        self.give(None);
    }
}

impl std::fmt::Debug for JobReply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobReply").field("job", &self.job).finish_non_exhaustive()
    }
}
