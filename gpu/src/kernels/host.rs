//! The machine that runs the kernels of `kernels/` as a C++ compiler made them for the host.
//!
//! For tests alone (feature `host-kernels`); slow, and not constant-time for secrets once a C++ compiler made it.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::sync::atomic::{AtomicUsize, Ordering};

use super::machine::{Argument, DeviceError, Kernel, Machine};

/// How a kernel is launched; the same struct stands in `host.cpp`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Launch {
    blocks: u32,
    lanes: u32,
    backwards: u32,
}

/// How many lanes take turns in a block, and in which order.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Host {
    /// Lanes of a block; where none, as many as the kernel is meant for.
    pub(super) lanes: Option<u32>,
    /// Whether the last lane goes first.
    pub(super) backwards: bool,
}

/// Buffers that held secrets and were wiped, in all tests of the process.
pub(super) static WIPED: AtomicUsize = AtomicUsize::new(0);

/// Memory, aligned as the kernels' widest numbers are.
#[derive(Debug)]
pub(super) struct Buffer {
    words: RefCell<Vec<u64>>,
    len: usize,
}

impl Buffer {
    fn new(len: usize, with: u8) -> Self {
        assert!(len > 0, "kernels get no pointers to nothing");
        Self { words: RefCell::new(vec![u64::from_ne_bytes([with; 8]); len.div_ceil(8)]), len }
    }

    fn pointer(&self) -> *mut u8 {
        self.words.borrow_mut().as_mut_ptr().cast()
    }
}

mod c {
    use super::Launch;

    unsafe extern "C" {
        pub(super) fn host_mldsa87_prepare(
            with: Launch,
            keys: *const u8,
            signatures: *const u8,
            messages: *const u8,
            offsets: *const u64,
            mu: *mut u8,
            challenges: *mut i8,
            count: u64,
        );
        pub(super) fn host_mldsa87_prepare_cached(
            with: Launch,
            table: *const u32,
            key_of: *const u32,
            entries: u32,
            signatures: *const u8,
            messages: *const u8,
            offsets: *const u64,
            mu: *mut u8,
            challenges: *mut i8,
            count: u64,
        );
        pub(super) fn host_mldsa87_rows(
            with: Launch,
            keys: *const u8,
            signatures: *const u8,
            challenges: *const i8,
            w1: *mut u8,
            well_formed: *mut u8,
        );
        pub(super) fn host_mldsa87_rows_cached(
            with: Launch,
            table: *const u32,
            key_of: *const u32,
            entries: u32,
            signatures: *const u8,
            challenges: *const i8,
            w1: *mut u8,
            well_formed: *mut u8,
        );
        pub(super) fn host_mldsa87_expand(with: Launch, keys: *const u8, table: *mut u32);
        pub(super) fn host_mldsa87_verdicts(
            with: Launch,
            signatures: *const u8,
            mu: *const u8,
            w1: *const u8,
            well_formed: *const u8,
            verdicts: *mut u8,
            count: u64,
        );
        pub(super) fn host_mlkem1024_keygen(with: Launch, d: *const u8, z: *const u8, ek: *mut u8, dk: *mut u8);
        pub(super) fn host_mlkem1024_encaps(
            with: Launch,
            ek: *const u8,
            m: *const u8,
            ciphertexts: *mut u8,
            secrets: *mut u8,
            good: *mut u8,
        );
        pub(super) fn host_mlkem1024_decaps(
            with: Launch,
            dk: *const u8,
            ciphertexts: *const u8,
            secrets: *mut u8,
            good: *mut u8,
        );
        pub(super) fn host_sha3_256_level(
            with: Launch,
            prefix: *const u8,
            prefix_len: u32,
            messages: *const u8,
            message_len: u64,
            out: *mut u8,
            count: u64,
        );
        pub(super) fn host_tally(
            with: Launch,
            voters: *const u32,
            choices: *const u32,
            verdicts: *const u8,
            stakes: *const u64,
            voter_count: u32,
            choice_count: u32,
            seen: *mut u32,
            totals: *mut u64,
            count: u64,
        );
    }
}

/// The parameters of a launch, taken in order.
struct Parameters<'a> {
    arguments: &'a [Argument<'a, Buffer>],
    next: Cell<usize>,
}

impl Parameters<'_> {
    fn take(&self) -> &Argument<'_, Buffer> {
        let at = self.next.replace(self.next.get() + 1);
        &self.arguments[at]
    }

    fn buffer<T>(&self) -> *mut T {
        match self.take() {
            Argument::Buffer(buffer) => buffer.pointer().cast(),
            _ => panic!("a kernel wants a buffer here"),
        }
    }

    fn u32(&self) -> u32 {
        match self.take() {
            Argument::U32(number) => *number,
            _ => panic!("a kernel wants 32 bits here"),
        }
    }

    fn u64(&self) -> u64 {
        match self.take() {
            Argument::U64(number) => *number,
            _ => panic!("a kernel wants 64 bits here"),
        }
    }
}

impl Machine for Host {
    type Buffer = Buffer;

    fn upload(&self, bytes: &[u8]) -> Result<Buffer, DeviceError> {
        let buffer = Buffer::new(bytes.len(), 0);
        // SAFETY: the buffer was made for as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), buffer.pointer(), bytes.len()) };
        Ok(buffer)
    }

    fn filled(&self, len: usize, with: u8) -> Result<Buffer, DeviceError> {
        Ok(Buffer::new(len, with))
    }

    fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        lanes: u32,
        arguments: &[Argument<'_, Buffer>],
    ) -> Result<(), DeviceError> {
        let with = Launch { blocks, lanes, backwards: self.backwards.into() };
        let p = Parameters { arguments, next: Cell::new(0) };
        // SAFETY: `Batches` makes the buffers of each kernel for as many items as it launches it for; the compiler's checks
        // of this test build end the process otherwise. Parameters are evaluated from left to right.
        unsafe {
            match kernel {
                Kernel::Prepare => c::host_mldsa87_prepare(
                    with,
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.u64(),
                ),
                Kernel::PrepareCached => c::host_mldsa87_prepare_cached(
                    with,
                    p.buffer(),
                    p.buffer(),
                    p.u32(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.u64(),
                ),
                Kernel::Rows => c::host_mldsa87_rows(with, p.buffer(), p.buffer(), p.buffer(), p.buffer(), p.buffer()),
                Kernel::RowsCached => c::host_mldsa87_rows_cached(
                    with,
                    p.buffer(),
                    p.buffer(),
                    p.u32(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                ),
                Kernel::Expand => c::host_mldsa87_expand(with, p.buffer(), p.buffer()),
                Kernel::Verdicts => {
                    c::host_mldsa87_verdicts(with, p.buffer(), p.buffer(), p.buffer(), p.buffer(), p.buffer(), p.u64())
                }
                Kernel::KeyPair => c::host_mlkem1024_keygen(with, p.buffer(), p.buffer(), p.buffer(), p.buffer()),
                Kernel::Encapsulate => {
                    c::host_mlkem1024_encaps(with, p.buffer(), p.buffer(), p.buffer(), p.buffer(), p.buffer())
                }
                Kernel::Decapsulate => c::host_mlkem1024_decaps(with, p.buffer(), p.buffer(), p.buffer(), p.buffer()),
                Kernel::HashLevel => {
                    c::host_sha3_256_level(with, p.buffer(), p.u32(), p.buffer(), p.u64(), p.buffer(), p.u64())
                }
                Kernel::Tally => c::host_tally(
                    with,
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.buffer(),
                    p.u32(),
                    p.u32(),
                    p.buffer(),
                    p.buffer(),
                    p.u64(),
                ),
            }
        }
        assert_eq!(p.next.get(), arguments.len(), "{kernel:?} has fewer parameters");
        Ok(())
    }

    fn download(&self, from: &Buffer, to: &mut [u8]) -> Result<(), DeviceError> {
        assert!(to.len() <= from.len);
        // SAFETY: the buffer has as many bytes.
        unsafe { std::ptr::copy_nonoverlapping(from.pointer(), to.as_mut_ptr(), to.len()) };
        Ok(())
    }

    fn wipe(&self, buffer: &mut Buffer) {
        buffer.words.get_mut().fill(0);
        WIPED.fetch_add(1, Ordering::Relaxed);
    }

    fn lanes(&self, kernel: Kernel) -> u32 {
        self.lanes.unwrap_or(kernel.shape().0)
    }
}
