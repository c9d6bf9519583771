//! Which accelerators this process can use, and why not more.

use std::path::Path;

/// An accelerator that verifies signatures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its number.
    pub index: usize,
    /// What it calls itself.
    pub name: String,
}

/// Why there is no device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoDevice {
    /// Nothing in this build could use one.
    #[error("no CUDA device: this build has no CUDA back-end ({})", if *.driver_present { "an NVIDIA driver is loaded" } else { "and no NVIDIA driver is loaded" })]
    NoBackEnd {
        /// Whether the machine has a driver that a later build could use.
        driver_present: bool,
    },
}

/// Looks for devices.
///
/// # Errors
/// [`NoDevice`] with the reason.
pub fn detect() -> Result<Vec<Device>, NoDevice> {
    let driver_present = ["/dev/nvidiactl", "/proc/driver/nvidia/version"].iter().any(|path| Path::new(path).exists());
    Err(NoDevice::NoBackEnd { driver_present })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_without_a_cuda_back_end_says_so() {
        let refusal = detect().unwrap_err();
        assert!(refusal.to_string().starts_with("no CUDA device: this build has no CUDA back-end"), "{refusal}");
    }
}
