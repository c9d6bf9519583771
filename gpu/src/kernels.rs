//! The device kernels of `kernels/`: what puts them together, and the machines that run them.
//!
//! Everything but the machine is the same on a device and, in tests, on the host (feature `host-kernels`). Knows batches
//! of bytes; knows no actors.

mod batch;
#[cfg(feature = "host-kernels")]
mod host;
#[cfg(all(test, feature = "host-kernels"))]
mod host_tests;
mod judge;
mod machine;
#[cfg(feature = "host-kernels")]
mod on_host;
mod staging;
mod table;

pub(crate) use batch::Batches;
pub use batch::{KeyPairs, KeyUse, Vote};
pub use machine::DeviceError;
pub(crate) use machine::{Argument, Kernel, Machine};
#[cfg(feature = "host-kernels")]
pub use on_host::HostKernels;
pub(crate) use staging::{Arena, Stage, stage};
