//! The signals that ask this process to stop.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CliError, CliResult};

/// The kernel's word for a file beyond the limit of this process: 25 on every system that this runs on.
const SIGXFSZ: i32 = 25;

/// SIGINT, SIGTERM and SIGHUP, as one.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    /// Caught and ignored: by default it kills the process in the middle of a write, and that write's error, which
    /// comes all the same, is what the journal stops the node with.
    _file_too_large: Signal,
}

impl Signals {
    /// Starts listening for them.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn new() -> CliResult<Self> {
        let listen = |kind| signal(kind).map_err(|error| CliError::failed(format!("signals: {error}")));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
            _file_too_large: listen(SignalKind::from_raw(SIGXFSZ))?,
        })
    }

    /// Waits for one of them.
    pub async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}
