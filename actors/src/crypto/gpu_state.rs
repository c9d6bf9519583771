//! What a device's worker, the dispatcher and `/info` know of a device: whether it is used, and if not why. Outlives the
//! worker's incarnations, so that a device that lied is not believed again.

use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

/// How often a device that failed is opened again in the life of a process.
const FAULTS: u32 = 3;

/// Where a device stands.
#[derive(Debug, Clone, PartialEq)]
pub enum GpuStatus {
    /// Nobody looks for one.
    Off(&'static str),
    /// It is being looked for, compiled for and tested.
    Starting,
    /// There is none that can be used.
    Absent(String),
    /// It checks signatures.
    Ready {
        /// What it is called.
        name: String,
        /// From how many signatures on a batch is faster there than on the processor.
        crossover: usize,
        /// Signatures a second, as measured at the start.
        rate: f64,
    },
    /// It failed, hung or lied.
    Quarantined {
        /// What it did.
        why: String,
        /// Whether it stays so until the process ends.
        for_good: bool,
    },
}

/// One device's state.
#[derive(Debug)]
pub struct GpuState {
    status: Mutex<GpuStatus>,
    faults: Mutex<u32>,
    owner: Mutex<()>,
}

impl GpuState {
    /// A device that is to be used, or not.
    #[must_use]
    pub fn new(enabled: bool) -> Self {
        let status = if enabled { GpuStatus::Starting } else { GpuStatus::Off("switched off in the config") };
        Self { status: Mutex::new(status), faults: Mutex::new(0), owner: Mutex::new(()) }
    }

    /// Where it stands.
    #[must_use]
    pub fn status(&self) -> GpuStatus {
        self.status.lock().clone()
    }

    /// Why it is not used; none if it is.
    #[must_use]
    pub fn why_not(&self) -> Option<String> {
        match self.status() {
            GpuStatus::Ready { .. } => None,
            GpuStatus::Off(why) => Some(why.to_owned()),
            GpuStatus::Starting => Some("the device is being looked for and tested".to_owned()),
            GpuStatus::Absent(why) => Some(why),
            GpuStatus::Quarantined { why, for_good } => {
                let until = if for_good { "until the process ends" } else { "until its worker is restarted" };
                Some(format!("the device is not used {until}: {why}"))
            }
        }
    }

    /// Its crossover and its rate, while it is used.
    #[must_use]
    pub fn ready(&self) -> Option<(usize, f64)> {
        match *self.status.lock() {
            GpuStatus::Ready { crossover, rate, .. } => Some((crossover, rate)),
            _ => None,
        }
    }

    pub(super) fn set(&self, status: GpuStatus) {
        *self.status.lock() = status;
    }

    /// Whether a new incarnation of the worker may open it.
    pub(super) fn may_open(&self) -> bool {
        !matches!(*self.status.lock(), GpuStatus::Off(_) | GpuStatus::Quarantined { for_good: true, .. })
    }

    /// The device did something that it must not do.
    pub(super) fn quarantine(&self, why: String, for_good: bool) {
        let mut faults = self.faults.lock();
        *faults += 1;
        let for_good = for_good || *faults >= FAULTS;
        tracing::warn!(%why, for_good, "a device is not used any more: the processor checks");
        self.set(GpuStatus::Quarantined { why, for_good });
    }

    /// One thread at a time: none if the one before does not let go.
    pub(super) fn own(&self, wait: Duration) -> Option<MutexGuard<'_, ()>> {
        self.owner.try_lock_for(wait)
    }
}
