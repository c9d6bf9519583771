//! The machine that runs the kernels of `kernels/` as a C++ compiler made them for the host.
//!
//! For tests alone (feature `host-kernels`); slow, and not constant-time for secrets once a C++ compiler made it.
#![allow(unsafe_code)]

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::machine::{Argument, DeviceError, Kernel, Machine};
use super::staging::{Arena, Stage, stage};

/// How a kernel is launched; the same struct stands in `host.cpp`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Launch {
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
/// Buffers that were to hold secrets.
pub(super) static GUARDED: AtomicUsize = AtomicUsize::new(0);

/// Memory, aligned as the kernels' widest numbers are.
#[derive(Debug)]
struct Memory {
    words: RefCell<Vec<u64>>,
    len: usize,
}

impl Memory {
    fn new(len: usize) -> Rc<Self> {
        assert!(len > 0, "kernels get no pointers to nothing");
        // What nobody wrote is not zero.
        let words = RefCell::new(vec![0xdead_beef_dead_beef; len.div_ceil(8)]);
        Rc::new(Self { words, len })
    }

    fn pointer(&self) -> *mut u8 {
        self.words.borrow_mut().as_mut_ptr().cast()
    }

    fn fill(&self, with: u8) {
        self.words.borrow_mut().fill(u64::from_ne_bytes([with; 8]));
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        // SAFETY: it has as many bytes, and nothing else holds a reference to them.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.pointer().add(at), bytes.len()) };
    }

    fn read(&self, to: &mut [u8]) {
        assert!(to.len() <= self.len);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(self.pointer(), to.as_mut_ptr(), to.len()) };
    }
}

/// A buffer of a stream. Given back, it is spoiled once the stream comes to it.
#[derive(Debug)]
pub(super) struct Buffer {
    memory: Rc<Memory>,
    work: Rc<Work>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.work.push(Task::Free(Rc::clone(&self.memory)));
    }
}

#[derive(Debug)]
enum Parameter {
    Memory(Rc<Memory>),
    U32(u32),
    U64(u64),
}

#[derive(Debug)]
enum Task {
    Fill(Rc<Memory>, u8),
    /// From the stretch through which bytes come, to memory from a byte on.
    Copy(Range<usize>, Rc<Memory>, usize),
    Launch(Kernel, Launch, Vec<Parameter>),
    Send(Rc<Memory>, Rc<RefCell<Vec<u8>>>),
    /// Until the other stream has done so many tasks.
    Follow(Rc<Work>, usize),
    Free(Rc<Memory>),
}

/// What a stream has to do. It is done as late as can be: not before somebody waits for it, so that whoever reads too
/// early, or forgets to let one stream wait for another, gets nonsense.
#[derive(Debug)]
struct Work {
    tasks: RefCell<VecDeque<Task>>,
    given: Cell<usize>,
    done: Cell<usize>,
    stretch: RefCell<Vec<u8>>,
}

impl Work {
    fn push(&self, task: Task) {
        self.tasks.borrow_mut().push_back(task);
        self.given.set(self.given.get() + 1);
    }

    fn until(&self, count: usize) {
        while self.done.get() < count {
            let Some(task) = self.tasks.borrow_mut().pop_front() else { return };
            match task {
                Task::Fill(memory, with) => memory.fill(with),
                Task::Copy(range, memory, to) => memory.write(to, &self.stretch.borrow()[range]),
                Task::Launch(kernel, with, parameters) => run(kernel, with, &parameters),
                Task::Send(memory, to) => memory.read(&mut to.borrow_mut()),
                Task::Follow(other, count) => other.until(count),
                Task::Free(memory) => memory.fill(0x5f),
            }
            self.done.set(self.done.get() + 1);
        }
    }
}

/// A stream of the host.
#[derive(Debug)]
pub(super) struct Stream {
    shape: Host,
    work: Rc<Work>,
    arena: Arena,
    moved: Cell<u64>,
}

impl Stream {
    fn moves(&self, bytes: usize) {
        self.moved.set(self.moved.get() + bytes as u64);
    }
}

/// Bytes through which uploads go: little, so that most of them need several copies.
const STRETCH: usize = 40_000;

impl Host {
    /// So many streams.
    pub(super) fn streams(self, count: usize) -> Vec<Stream> {
        (0..count).map(|_| self.stream()).collect()
    }

    fn stream(self) -> Stream {
        let (tasks, given, done) = (RefCell::default(), Cell::new(0), Cell::new(0));
        let work = Work { tasks, given, done, stretch: RefCell::new(vec![0; STRETCH]) };
        Stream { shape: self, work: Rc::new(work), arena: Arena::new(STRETCH), moved: Cell::new(0) }
    }
}

/// An upload through a stream's stretch.
struct Upload<'a> {
    stream: &'a Stream,
    to: &'a Rc<Memory>,
}

impl Stage<DeviceError> for Upload<'_> {
    fn arena(&self) -> &Arena {
        &self.stream.arena
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        self.stream.work.stretch.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn copy(&self, range: Range<usize>, to: usize) -> Result<(), DeviceError> {
        self.stream.work.push(Task::Copy(range, Rc::clone(self.to), to));
        Ok(())
    }

    fn settle(&self) -> Result<(), DeviceError> {
        self.stream.settle()
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
        pub(super) fn host_mldsa87_expand(with: Launch, keys: *const u8, slots: *const u32, table: *mut u32);
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
    arguments: &'a [Parameter],
    next: Cell<usize>,
}

impl Parameters<'_> {
    fn take(&self) -> &Parameter {
        let at = self.next.replace(self.next.get() + 1);
        &self.arguments[at]
    }

    fn buffer<T>(&self) -> *mut T {
        match self.take() {
            Parameter::Memory(memory) => memory.pointer().cast(),
            _ => panic!("a kernel wants a buffer here"),
        }
    }

    fn u32(&self) -> u32 {
        match self.take() {
            Parameter::U32(number) => *number,
            _ => panic!("a kernel wants 32 bits here"),
        }
    }

    fn u64(&self) -> u64 {
        match self.take() {
            Parameter::U64(number) => *number,
            _ => panic!("a kernel wants 64 bits here"),
        }
    }
}

/// Runs a kernel.
fn run(kernel: Kernel, with: Launch, parameters: &[Parameter]) {
    let p = Parameters { arguments: parameters, next: Cell::new(0) };
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
            Kernel::Expand => c::host_mldsa87_expand(with, p.buffer(), p.buffer(), p.buffer()),
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
    assert_eq!(p.next.get(), parameters.len(), "{kernel:?} has fewer parameters");
}

impl Machine for Stream {
    type Buffer = Buffer;
    type Arrival = Rc<RefCell<Vec<u8>>>;
    type Mark = Instant;

    fn upload(&self, parts: &[&[u8]]) -> Result<Buffer, DeviceError> {
        let memory = Memory::new(parts.iter().map(|part| part.len()).sum());
        self.moves(memory.len);
        stage(&Upload { stream: self, to: &memory }, parts)?;
        Ok(Buffer { memory, work: Rc::clone(&self.work) })
    }

    fn filled(&self, len: usize, with: u8) -> Result<Buffer, DeviceError> {
        let memory = Memory::new(len);
        self.work.push(Task::Fill(Rc::clone(&memory), with));
        Ok(Buffer { memory, work: Rc::clone(&self.work) })
    }

    fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        lanes: u32,
        arguments: &[Argument<'_, Buffer>],
    ) -> Result<(), DeviceError> {
        let with = Launch { blocks, lanes, backwards: self.shape.backwards.into() };
        let parameter = |argument: &Argument<'_, Buffer>| match argument {
            Argument::Buffer(buffer) => Parameter::Memory(Rc::clone(&buffer.memory)),
            Argument::U32(number) => Parameter::U32(*number),
            Argument::U64(number) => Parameter::U64(*number),
        };
        LAUNCHED.with_borrow_mut(|launched| *launched.entry(kernel.name()).or_default() += blocks as usize);
        self.work.push(Task::Launch(kernel, with, arguments.iter().map(parameter).collect()));
        Ok(())
    }

    fn send(&self, from: &Buffer, len: usize) -> Result<Self::Arrival, DeviceError> {
        let to = Rc::new(RefCell::new(vec![0; len]));
        self.moves(len);
        self.work.push(Task::Send(Rc::clone(&from.memory), Rc::clone(&to)));
        Ok(to)
    }

    fn arrive(&self, arrival: Self::Arrival, to: &mut [u8]) -> Result<(), DeviceError> {
        self.settle()?;
        to.copy_from_slice(&arrival.borrow());
        Ok(())
    }

    fn download(&self, from: &Buffer, to: &mut [u8]) -> Result<(), DeviceError> {
        let arrival = self.send(from, to.len())?;
        self.arrive(arrival, to)
    }

    fn settle(&self) -> Result<(), DeviceError> {
        self.work.until(self.work.given.get());
        let used = self.arena.reset();
        // Nobody may still need what came through.
        self.work.stretch.borrow_mut()[used].fill(0xee);
        Ok(())
    }

    fn follow(&self, other: &Self) -> Result<(), DeviceError> {
        self.work.push(Task::Follow(Rc::clone(&other.work), other.work.given.get()));
        Ok(())
    }

    fn mark(&self) -> Result<Instant, DeviceError> {
        // The host launches when it waits: there is no time of kernels that would mean something.
        Ok(Instant::now())
    }

    fn between(&self, start: &Instant, end: &Instant) -> Result<Duration, DeviceError> {
        Ok(end.duration_since(*start))
    }

    fn moved(&self) -> u64 {
        self.moved.get()
    }

    fn guard(&self) {
        GUARDED.fetch_add(1, Ordering::Relaxed);
    }

    fn wipe(&self, buffer: &mut Buffer) {
        self.work.push(Task::Fill(Rc::clone(&buffer.memory), 0));
        WIPED.fetch_add(1, Ordering::Relaxed);
    }

    fn lanes(&self, kernel: Kernel) -> u32 {
        self.shape.lanes.unwrap_or(kernel.shape().0)
    }
}

thread_local! {
    /// Blocks that this thread launched, by kernel.
    pub(super) static LAUNCHED: RefCell<BTreeMap<&'static str, usize>> = const { RefCell::new(BTreeMap::new()) };
}
