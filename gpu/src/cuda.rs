//! CUDA devices, through cudarc, which loads the driver and NVRTC at run time: this crate builds and a node starts where
//! neither exists.
//!
//! A context belongs to the thread that opened it; one thread owns a device (the worker's rule). Signatures go over
//! several streams, each with page-locked memory of its own (`stream`); everything else goes over the first in order.
#![allow(unsafe_code)]

mod kernels;
mod source;
mod stream;

use std::sync::Arc;
use std::time::Duration;

use aurigraph_ledger::Hash;
use cudarc::driver::sys::CUmemPool_attribute;
use cudarc::driver::{CudaContext, DriverError, result};

use crate::device::{Device, DeviceInfo, NoDevice};
use crate::kernels::{Batches, DeviceError, KeyUse};
use crate::mldsa::KeyCacheCounts;
use crate::verify::VerifyItem;
use stream::Stream;

/// Streams of a device: while one slice of signatures is copied there, another is checked and a third is put together by
/// the processor. Page-locked memory: 17 MB each.
const STREAMS: usize = 3;
/// Bytes of expanded keys that stay on a device, 66 KB a key: some 16,000; a quarter of its memory where that is less.
const TABLE: u64 = 1 << 30;
/// Memory, the table included, that the driver keeps for the next batch instead of giving it back whenever it is waited for.
const KEPT: u64 = TABLE + (512 << 20);

/// How many devices can be used. Opens none of them.
///
/// # Errors
/// Why there is none.
pub(crate) fn count() -> Result<usize, NoDevice> {
    // SAFETY: loading the driver's library runs its initialisers, which is what it is for; the call does nothing else.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(NoDevice::NoDriver);
    }
    let driver = |error: DriverError| NoDevice::Driver(error.to_string());
    result::init().map_err(driver)?;
    let count = CudaContext::device_count().map_err(driver)?;
    if count == 0 {
        return Err(NoDevice::None);
    }
    Ok(usize::try_from(count).unwrap_or(0))
}

/// What those devices are.
///
/// # Errors
/// Why there is none.
pub(crate) fn detect() -> Result<Vec<DeviceInfo>, NoDevice> {
    let driver = |error: DriverError| NoDevice::Driver(error.to_string());
    let mut devices = Vec::new();
    for index in 0..count()? {
        let context = CudaContext::new(index).map_err(driver)?;
        devices.push(info(index, &context).map_err(driver)?);
    }
    Ok(devices)
}

fn info(index: usize, context: &CudaContext) -> Result<DeviceInfo, DriverError> {
    Ok(DeviceInfo {
        index,
        name: context.name()?,
        architecture: context.compute_capability()?,
        memory: context.total_mem()? as u64,
    })
}

/// One CUDA device with the kernels loaded.
pub struct Cuda {
    batches: Batches<Stream>,
    info: DeviceInfo,
}

fn driver(what: &'static str) -> impl Fn(DriverError) -> DeviceError {
    move |error| DeviceError::Driver { what, error: error.to_string() }
}

impl Cuda {
    /// Opens a device that was found and compiles the kernels for it, which takes seconds. For the thread that will use it.
    ///
    /// # Errors
    /// [`DeviceError`] if the driver or the compiler refuses.
    pub fn open(index: usize) -> Result<Self, DeviceError> {
        let context = CudaContext::new(index).map_err(driver("opening the device"))?;
        // SAFETY: a buffer is used on the stream that made it alone, but for the table of expanded keys: streams that read
        // it follow the one that writes it, and nothing reads it while it is written or given back (`Batches`).
        unsafe { context.disable_event_tracking() };
        let info = info(index, &context).map_err(driver("asking the device"))?;
        if let Err(error) = keep_memory(index) {
            // Older devices have no pools; their memory is taken and given back each time.
            tracing::debug!(%error, "memory is not kept between batches");
        }
        let functions = kernels::load(&context, &info)?;
        let streams =
            (0..STREAMS).map(|_| Stream::new(&context, Arc::clone(&functions))).collect::<Result<Vec<_>, _>>()?;
        let table = usize::try_from(TABLE.min(info.memory / 4)).unwrap_or(0);
        Ok(Self { batches: Batches::new(streams, table), info })
    }
}

/// Memory that a batch gives back stays with the process, up to [`KEPT`].
fn keep_memory(index: usize) -> Result<(), DriverError> {
    let device = result::device::get(i32::try_from(index).unwrap_or(i32::MAX))?;
    // SAFETY: the device is one that the driver has just named.
    let pool = unsafe { result::device::get_default_mem_pool(device) }?;
    let mut kept = KEPT;
    let threshold = CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
    // SAFETY: this attribute is 64 bits, which are read during the call.
    unsafe { result::mem_pool::set_attribute(pool, threshold, (&raw mut kept).cast()) }
}

impl Device for Cuda {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn verify(&mut self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<bool>, DeviceError> {
        self.batches.verify(items, keys)
    }

    fn hash_level(
        &mut self,
        prefix: &[u8],
        messages: &[u8],
        message_len: usize,
        out: &mut [Hash],
    ) -> Result<(), DeviceError> {
        self.batches.hash_level(prefix, messages, message_len, out)
    }

    fn key_pairs(&mut self, seeds: &[([u8; 32], [u8; 32])]) -> Result<crate::kernels::KeyPairs, DeviceError> {
        self.batches.key_pairs(seeds)
    }

    fn encapsulate(
        &mut self,
        keys: &[[u8; crate::ENCAPSULATION_KEY_LEN]],
        randomness: &[[u8; 32]],
    ) -> Result<Vec<Option<crate::Encapsulated>>, DeviceError> {
        self.batches.encapsulate(keys, randomness)
    }

    fn decapsulate(
        &mut self,
        keys: &[[u8; crate::DECAPSULATION_KEY_LEN]],
        ciphertexts: &[[u8; crate::CIPHERTEXT_LEN]],
    ) -> Result<Vec<Option<crate::SharedSecret>>, DeviceError> {
        self.batches.decapsulate(keys, ciphertexts)
    }

    fn tally(&mut self, votes: &[crate::kernels::Vote], stakes: &[u64], choices: u32) -> Result<Vec<u64>, DeviceError> {
        self.batches.tally(votes, stakes, choices)
    }

    fn transferred(&self) -> u64 {
        self.batches.moved()
    }

    fn table_counts(&self) -> KeyCacheCounts {
        self.batches.table_counts()
    }

    fn time_kernels(&mut self, on: bool) {
        self.batches.time_kernels(on);
    }

    fn kernel_time(&mut self) -> Result<Option<Duration>, DeviceError> {
        self.batches.kernel_time()
    }
}
