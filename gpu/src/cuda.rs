//! CUDA devices, through cudarc, which loads the driver and NVRTC at run time: this crate builds and a node starts where
//! neither exists.
//!
//! The kernels are compiled by NVRTC for the device that is found. A context belongs to the thread that opened it; one
//! thread owns a device (the worker's rule), and everything runs on one stream in order.
#![allow(unsafe_code)]

mod source;

use std::sync::Arc;
use std::time::Instant;

use aurigraph_ledger::Hash;
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DevicePtrMut as _, DriverError, LaunchConfig, PushKernelArg as _,
    result,
};
use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};

use crate::device::{Device, DeviceInfo, NoDevice};
use crate::kernels::{Argument, Batches, DeviceError, Kernel, KeyUse, Machine};
use crate::verify::VerifyItem;

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
    // SAFETY: as above, for the compiler's library.
    if !unsafe { cudarc::nvrtc::sys::is_culib_present() } {
        return Err(NoDevice::NoCompiler);
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
    transferred: u64,
}

struct Stream {
    stream: Arc<CudaStream>,
    functions: Vec<(Kernel, CudaFunction)>,
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
        let start = Instant::now();
        let context = CudaContext::new(index).map_err(driver("opening the device"))?;
        // SAFETY: everything is on one stream, in order; no slice is used on another.
        unsafe { context.disable_event_tracking() };
        let info = info(index, &context).map_err(driver("asking the device"))?;
        let (major, minor) = info.architecture;
        let mut options: Vec<String> = source::OPTIONS.iter().map(|option| (*option).to_owned()).collect();
        options.push(format!("--gpu-architecture=compute_{major}{minor}"));
        let ptx = compile_ptx_with_opts(source::text(), CompileOptions { options, ..CompileOptions::default() })
            .map_err(|error| DeviceError::Compile(format!("{error:?}")))?;
        let module = context.load_module(ptx).map_err(driver("loading the kernels"))?;
        let functions = Kernel::ALL
            .into_iter()
            .map(|kernel| Ok((kernel, module.load_function(kernel.name()).map_err(driver("finding a kernel"))?)))
            .collect::<Result<_, DeviceError>>()?;
        let stream = context.new_stream().map_err(driver("making a stream"))?;
        tracing::info!(device = %info.name, seconds = start.elapsed().as_secs_f64(), "kernels are compiled");
        Ok(Self { batches: Batches { machine: Stream { stream, functions } }, info, transferred: 0 })
    }
}

impl Machine for Stream {
    type Buffer = CudaSlice<u8>;

    fn upload(&self, bytes: &[u8]) -> Result<CudaSlice<u8>, DeviceError> {
        self.stream.clone_htod(bytes).map_err(driver("copying to the device"))
    }

    fn filled(&self, len: usize, with: u8) -> Result<CudaSlice<u8>, DeviceError> {
        // SAFETY: it is filled below before anybody reads it.
        let mut buffer = unsafe { self.stream.alloc::<u8>(len) }.map_err(driver("device memory"))?;
        {
            let (pointer, _record) = buffer.device_ptr_mut(&self.stream);
            // SAFETY: the pointer is that of `len` bytes which nobody else uses.
            unsafe { result::memset_d8_async(pointer, with, len, self.stream.cu_stream()) }
                .map_err(driver("filling memory"))?;
        }
        Ok(buffer)
    }

    fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        lanes: u32,
        arguments: &[Argument<'_, CudaSlice<u8>>],
    ) -> Result<(), DeviceError> {
        let Some((_, function)) = self.functions.iter().find(|(of, _)| *of == kernel) else {
            return Err(DeviceError::Compile(format!("{} is not there", kernel.name())));
        };
        let mut builder = self.stream.launch_builder(function);
        for argument in arguments {
            match argument {
                Argument::Buffer(buffer) => builder.arg(*buffer),
                Argument::U32(number) => builder.arg(number),
                Argument::U64(number) => builder.arg(number),
            };
        }
        let shape = LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (lanes, 1, 1), shared_mem_bytes: 0 };
        // SAFETY: `Batches` gives each kernel the parameters of its text, with buffers made for as many items as it is
        // launched for; the same code runs the same text on the host under a sanitiser in tests.
        unsafe { builder.launch(shape) }.map_err(driver("launching a kernel"))?;
        Ok(())
    }

    fn download(&self, from: &CudaSlice<u8>, to: &mut [u8]) -> Result<(), DeviceError> {
        self.stream.memcpy_dtoh(from, to).map_err(driver("copying from the device"))?;
        self.stream.synchronize().map_err(driver("waiting for the device"))
    }

    fn wipe(&self, buffer: &mut CudaSlice<u8>) {
        // Where the driver fails here the context is lost, and its memory with it.
        if let Err(error) = self.stream.memset_zeros(buffer) {
            tracing::warn!(%error, "device memory that held secrets could not be wiped");
        }
    }
}

impl Device for Cuda {
    fn info(&self) -> DeviceInfo {
        self.info.clone()
    }

    fn verify(&mut self, items: &[VerifyItem<'_>], keys: KeyUse) -> Result<Vec<bool>, DeviceError> {
        let bytes = items.iter().map(|item| item.message.len() + item.signature.len() + item.public_key.len() + 1);
        self.transferred += bytes.sum::<usize>() as u64;
        self.batches.verify(items, keys)
    }

    fn hash_level(
        &mut self,
        prefix: &[u8],
        messages: &[u8],
        message_len: usize,
        out: &mut [Hash],
    ) -> Result<(), DeviceError> {
        self.transferred += (messages.len() + 32 * out.len()) as u64;
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
        self.transferred
    }
}
