//! What a device's worker, the dispatcher and `/info` know of each device: whether it is used, and if not why. Outlives
//! the workers' incarnations, so that a device that lied is not believed again.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use crate::bounds::crypto as bounds;

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
    index: usize,
    label: Arc<str>,
    status: Mutex<GpuStatus>,
    faults: Mutex<u32>,
    owner: Mutex<()>,
}

impl GpuState {
    /// The device of this number, which is to be used, or not.
    #[must_use]
    pub fn new(index: usize, enabled: bool) -> Self {
        let status = if enabled { GpuStatus::Starting } else { GpuStatus::Off("switched off in the config") };
        let (status, faults, owner) = (Mutex::new(status), Mutex::new(0), Mutex::new(()));
        Self { index, label: index.to_string().into(), status, faults, owner }
    }

    /// Its number, as the driver counts.
    #[must_use]
    pub const fn index(&self) -> usize {
        self.index
    }

    /// The same for metrics' label `device`.
    pub(super) fn label(&self) -> Arc<str> {
        Arc::clone(&self.label)
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
        tracing::warn!(device = self.index, %why, for_good, "a device is not used any more: others check");
        self.set(GpuStatus::Quarantined { why, for_good });
    }

    /// One thread at a time: none if the one before does not let go.
    pub(super) fn own(&self, wait: Duration) -> Option<MutexGuard<'_, ()>> {
        self.owner.try_lock_for(wait)
    }
}

/// All devices of a process. There is always one to tell why none is used.
#[derive(Debug, Clone)]
pub struct Gpus(Arc<[Arc<GpuState>]>);

impl Gpus {
    /// So many devices, one at least and [`bounds::DEVICES`] at most.
    #[must_use]
    pub fn new(count: usize, enabled: bool) -> Self {
        if count > bounds::DEVICES {
            tracing::warn!(count, used = bounds::DEVICES, "more devices than are used");
        }
        let count = count.clamp(1, bounds::DEVICES);
        Self((0..count).map(|index| Arc::new(GpuState::new(index, enabled))).collect())
    }

    /// As many as the driver finds within [`bounds::DEVICES_FOUND_WITHIN`]. A driver that does not answer counts as one
    /// device: its worker waits for it, and says so.
    pub async fn found() -> Self {
        let (tell, told) = tokio::sync::oneshot::channel();
        // A thread of its own: the runtime would wait at its end for one of its pool that hangs in the driver.
        let looking = std::thread::Builder::new().name("device-count".to_owned()).spawn(move || {
            // Nobody listens when it took too long.
            let _ = tell.send(aurigraph_gpu::count_devices());
        });
        let count = match looking {
            Ok(_) => tokio::time::timeout(bounds::DEVICES_FOUND_WITHIN, told).await,
            Err(_) => return Self::new(1, true),
        };
        // The worker looks again, and tells why there is none.
        Self::new(count.ok().and_then(Result::ok).and_then(Result::ok).unwrap_or(1), true)
    }

    /// In the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<GpuState>> {
        self.0.iter()
    }

    /// Why none of them is used now, each reason once; none if one is used.
    #[must_use]
    pub fn why_none(&self) -> Option<String> {
        let mut reasons: Vec<String> = Vec::new();
        for device in self.iter() {
            let why = device.why_not()?;
            if !reasons.contains(&why) {
                reasons.push(why);
            }
        }
        Some(reasons.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn while_one_device_is_used_nothing_is_amiss_and_a_reason_is_told_once() {
        let gpus = Gpus::new(3, true);
        let starting = "the device is being looked for and tested";
        assert_eq!(gpus.why_none().as_deref(), Some(starting));
        gpus.0[1].quarantine("it lied".to_owned(), true);
        let why = gpus.why_none().unwrap();
        assert_eq!(why, format!("{starting}; the device is not used until the process ends: it lied"));
        gpus.0[2].set(GpuStatus::Ready { name: "fake".to_owned(), crossover: 1, rate: 1.0 });
        assert_eq!(gpus.why_none(), None);
        assert_eq!(gpus.iter().map(|device| device.index()).collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn there_is_always_a_device_to_tell_and_never_more_than_the_bound() {
        assert_eq!(Gpus::new(0, false).why_none().as_deref(), Some("switched off in the config"));
        assert_eq!(Gpus::new(1_000, true).iter().len(), bounds::DEVICES);
    }
}
