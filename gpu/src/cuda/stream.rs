//! A stream of a device as a machine of the kernels, with the page-locked memory of the host through which all bytes come
//! and go.
//!
//! A copy to or from page-locked memory goes on after its call has returned. So every stretch of it is taken once and given
//! back only after the stream was waited for, and the memory itself is let go only after that ([`Drop`]). The source that
//! a caller hands over is copied at once, and may go.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::{CUdeviceptr, CUevent_flags};
use cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaSlice, CudaStream, DevicePtr as _, DevicePtrMut as _, DriverError,
    LaunchConfig, PinnedHostSlice, PushKernelArg as _, result,
};
use zeroize::Zeroize as _;

use super::driver;
use crate::kernels::{Arena, Argument, DeviceError, Kernel, Machine, Stage, stage};

/// Page-locked memory for what goes to the device: a slice of signatures with their keys and short messages. What is
/// larger goes in several copies.
const UP: usize = 16 << 20;
/// The same for what comes back: a byte a signature, and the rest in pieces.
const DOWN: usize = 1 << 20;

/// Page-locked memory.
struct Pinned {
    /// Where it begins; it belongs to `_memory` and lives as long.
    start: *mut u8,
    arena: Arena,
    len: usize,
    _memory: PinnedHostSlice<u8>,
}

impl Pinned {
    fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, DriverError> {
        // SAFETY: it is filled below before anybody reads it. Without flags: the processor reads it as well.
        let mut memory = unsafe { context.alloc_pinned_with_flags::<u8>(len, 0) }?;
        let start = memory.as_mut_ptr()?;
        // SAFETY: it has as many bytes, and nothing else knows of it yet.
        unsafe { start.write_bytes(0, len) };
        Ok(Self { start, arena: Arena::new(len), len, _memory: memory })
    }

    /// The bytes of a range.
    ///
    /// # Safety
    /// The range was taken from the arena; nothing writes to it while the reference lives.
    unsafe fn bytes(&self, range: &Range<usize>) -> &[u8] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: within the memory, which was filled; the rest is the caller's.
        unsafe { std::slice::from_raw_parts(self.start.add(range.start), range.len()) }
    }

    /// The same to write to.
    ///
    /// # Safety
    /// The range was taken from the arena; nothing else reads it or writes to it while the reference lives.
    #[allow(clippy::mut_from_ref)]
    unsafe fn bytes_mut(&self, range: &Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }

    /// Gives everything back; overwritten first if secrets may be there.
    ///
    /// # Safety
    /// No copy to or from this memory is under way.
    unsafe fn give_back(&self, secret: bool) {
        let used = self.arena.reset();
        if secret {
            // SAFETY: nothing copies, as the caller says, and nobody holds a reference beyond a call.
            unsafe { self.bytes_mut(&used) }.zeroize();
        }
    }
}

/// A stream with the kernels.
pub(super) struct Stream {
    stream: Arc<CudaStream>,
    functions: Arc<[(Kernel, CudaFunction)]>,
    up: Pinned,
    down: Pinned,
    /// Ranges of `down` that somebody still waits for.
    arriving: Cell<usize>,
    /// Secrets that pass through now.
    guards: Cell<usize>,
    /// Bytes copied so far.
    moved: Cell<u64>,
}

impl Stream {
    pub(super) fn new(
        context: &Arc<CudaContext>,
        functions: Arc<[(Kernel, CudaFunction)]>,
    ) -> Result<Self, DeviceError> {
        let pinned = |len| Pinned::new(context, len).map_err(driver("page-locked memory"));
        Ok(Self {
            stream: context.new_stream().map_err(driver("making a stream"))?,
            functions,
            up: pinned(UP)?,
            down: pinned(DOWN)?,
            arriving: Cell::new(0),
            guards: Cell::new(0),
            moved: Cell::new(0),
        })
    }

    fn moves(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }

    fn is_secret(&self) -> bool {
        self.guards.get() > 0
    }

    fn wait(&self) -> Result<(), DeviceError> {
        self.stream.synchronize().map_err(driver("waiting for the device"))
    }

    /// Waits, and gives back what went up. What comes down stays for those who wait for it.
    fn sent(&self) -> Result<(), DeviceError> {
        self.wait()?;
        // SAFETY: the stream has done everything, and no other copies from this memory.
        unsafe { self.up.give_back(self.is_secret()) };
        Ok(())
    }

    /// Starts copying from a device's memory.
    fn fetch(&self, from: CUdeviceptr, len: usize) -> Result<Range<usize>, DeviceError> {
        let range = self.down.arena.take(len);
        if range.len() < len {
            return Err(DeviceError::TooLarge(len));
        }
        // SAFETY: the range was taken just now: nobody else knows of it.
        let to = unsafe { self.down.bytes_mut(&range) };
        // SAFETY: `from` has as many bytes (the callers' slices are as long), and the range stays taken until the stream
        // was waited for.
        unsafe { result::memcpy_dtoh_async(to, from, self.stream.cu_stream()) }
            .map_err(driver("copying from the device"))?;
        self.arriving.set(self.arriving.get() + 1);
        self.moves(len);
        Ok(range)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // The driver may still copy from and to the page-locked memory, which goes after this. Where waiting fails, the
        // context is lost and copies no more.
        if let Err(error) = self.wait() {
            tracing::debug!(%error, "a stream did not end");
        }
        // SAFETY: as above.
        unsafe {
            self.up.give_back(self.is_secret());
            self.down.give_back(self.is_secret());
        }
    }
}

/// Bytes on their way to a device's memory.
struct Upload<'a> {
    stream: &'a Stream,
    target: CUdeviceptr,
}

impl Stage<DeviceError> for Upload<'_> {
    fn arena(&self) -> &Arena {
        &self.stream.up.arena
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        // SAFETY: `stage` writes only to what it has taken and not sent yet.
        unsafe { self.stream.up.bytes_mut(&(at..at + bytes.len())) }.copy_from_slice(bytes);
    }

    fn copy(&self, range: Range<usize>, to: usize) -> Result<(), DeviceError> {
        // SAFETY: the range was taken and written, and is written again only after the stream was waited for.
        let from = unsafe { self.stream.up.bytes(&range) };
        // SAFETY: the target was made for all bytes that `stage` counts, on this stream, and `to` is below them.
        unsafe { result::memcpy_htod_async(self.target + to as CUdeviceptr, from, self.stream.stream.cu_stream()) }
            .map_err(driver("copying to the device"))
    }

    fn settle(&self) -> Result<(), DeviceError> {
        self.stream.sent()
    }
}

impl Machine for Stream {
    type Buffer = CudaSlice<u8>;
    type Arrival = Range<usize>;
    type Mark = CudaEvent;

    fn upload(&self, parts: &[&[u8]]) -> Result<CudaSlice<u8>, DeviceError> {
        let len = parts.iter().map(|part| part.len()).sum();
        // SAFETY: it is filled below before anybody reads it.
        let mut buffer = unsafe { self.stream.alloc::<u8>(len) }.map_err(driver("device memory"))?;
        let (target, _record) = buffer.device_ptr_mut(&self.stream);
        stage(&Upload { stream: self, target }, parts)?;
        self.moves(len);
        drop(_record);
        Ok(buffer)
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
        // launched for; the same code runs the same text on the host under a sanitiser in tests. Parameters are read
        // before the call returns.
        unsafe { builder.launch(shape) }.map_err(driver("launching a kernel"))?;
        Ok(())
    }

    fn send(&self, from: &CudaSlice<u8>, len: usize) -> Result<Range<usize>, DeviceError> {
        if len > from.len() {
            return Err(DeviceError::TooLarge(len));
        }
        let (from, _record) = from.device_ptr(&self.stream);
        self.fetch(from, len)
    }

    fn arrive(&self, arrival: Range<usize>, to: &mut [u8]) -> Result<(), DeviceError> {
        self.sent()?;
        // SAFETY: the stream has done everything; nothing writes to a range that somebody waits for.
        to.copy_from_slice(unsafe { self.down.bytes(&arrival) });
        self.arriving.set(self.arriving.get().saturating_sub(1));
        if self.arriving.get() == 0 {
            // SAFETY: as above, and nobody waits for any of it.
            unsafe { self.down.give_back(self.is_secret()) };
        }
        Ok(())
    }

    fn download(&self, from: &CudaSlice<u8>, to: &mut [u8]) -> Result<(), DeviceError> {
        if to.len() > from.len() {
            return Err(DeviceError::TooLarge(to.len()));
        }
        let (from, _record) = from.device_ptr(&self.stream);
        for (piece, to) in to.chunks_mut(DOWN).enumerate() {
            let arrival = self.fetch(from + (piece * DOWN) as CUdeviceptr, to.len())?;
            self.arrive(arrival, to)?;
        }
        Ok(())
    }

    fn settle(&self) -> Result<(), DeviceError> {
        self.sent()?;
        // Whoever waited has given up.
        self.arriving.set(0);
        // SAFETY: the stream has done everything.
        unsafe { self.down.give_back(self.is_secret()) };
        Ok(())
    }

    fn follow(&self, other: &Self) -> Result<(), DeviceError> {
        self.stream.join(&other.stream).map_err(driver("joining streams"))
    }

    fn mark(&self) -> Result<CudaEvent, DeviceError> {
        self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)).map_err(driver("recording an event"))
    }

    fn between(&self, start: &CudaEvent, end: &CudaEvent) -> Result<Duration, DeviceError> {
        let milliseconds = start.elapsed_ms(end).map_err(driver("reading events"))?;
        Ok(Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3))
    }

    fn moved(&self) -> u64 {
        self.moved.get()
    }

    fn guard(&self) {
        self.guards.set(self.guards.get() + 1);
    }

    fn wipe(&self, buffer: &mut CudaSlice<u8>) {
        // Where the driver fails here the context is lost, and its memory with it.
        if let Err(error) = self.stream.memset_zeros(buffer) {
            tracing::warn!(%error, "device memory that held secrets could not be wiped");
        }
        // The last one leaves nothing on the way behind; otherwise waiting has wiped it already.
        let in_use = self.up.arena.is_used() || self.down.arena.is_used();
        if self.guards.get() == 1
            && in_use
            && let Err(error) = self.settle()
        {
            tracing::warn!(%error, "page-locked memory that held secrets is wiped when it is given back");
            return;
        }
        self.guards.set(self.guards.get().saturating_sub(1));
    }
}
