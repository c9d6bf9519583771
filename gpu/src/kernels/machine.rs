//! What the kernels need of whatever runs them: memory, launches, and nothing more. A device is one, and so is the host
//! in tests; everything above is the same for both.

use std::time::Duration;

/// What outputs hold before a launch: no kernel may rely on zeros or leave an output as it was.
pub(crate) const POISON: u8 = 0xa5;

/// The kernels, by what they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kernel {
    Prepare,
    PrepareCached,
    Rows,
    RowsCached,
    Expand,
    Verdicts,
    KeyPair,
    Encapsulate,
    Decapsulate,
    HashLevel,
    Tally,
}

impl Kernel {
    pub(crate) const ALL: [Self; 11] = [
        Self::Prepare,
        Self::PrepareCached,
        Self::Rows,
        Self::RowsCached,
        Self::Expand,
        Self::Verdicts,
        Self::KeyPair,
        Self::Encapsulate,
        Self::Decapsulate,
        Self::HashLevel,
        Self::Tally,
    ];

    /// Its name in the sources.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Prepare => "mldsa87_prepare",
            Self::PrepareCached => "mldsa87_prepare_cached",
            Self::Rows => "mldsa87_rows",
            Self::RowsCached => "mldsa87_rows_cached",
            Self::Expand => "mldsa87_expand",
            Self::Verdicts => "mldsa87_verdicts",
            Self::KeyPair => "mlkem1024_keygen",
            Self::Encapsulate => "mlkem1024_encaps",
            Self::Decapsulate => "mlkem1024_decaps",
            Self::HashLevel => "sha3_256_level",
            Self::Tally => "tally",
        }
    }

    /// Lanes of the blocks that it is meant for, and whether a lane (not a block) does an item.
    pub(crate) const fn shape(self) -> (u32, bool) {
        match self {
            Self::Prepare | Self::PrepareCached | Self::Verdicts | Self::HashLevel | Self::Tally => (128, true),
            Self::Rows | Self::RowsCached | Self::Expand => (64, false),
            Self::KeyPair | Self::Encapsulate | Self::Decapsulate => (32, false),
        }
    }
}

/// A parameter of a kernel.
pub(crate) enum Argument<'a, B> {
    Buffer(&'a B),
    U32(u32),
    U64(u64),
}

/// Why a device did not do its work. Whatever it is, the batch is somebody else's now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// The driver refused or failed.
    #[error("{what}: {error}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        error: String,
    },
    /// The kernels do not compile there.
    #[error("the kernels do not compile: {0}")]
    Compile(String),
    /// A kernel left outputs as they were.
    #[error("{0} wrote no answer")]
    NoAnswer(&'static str),
    /// More than fits into one number of the kernels.
    #[error("a batch of {0} items is too large")]
    TooLarge(usize),
    /// It answered wrongly in its self-test.
    #[error("the self-test failed: {0}")]
    SelfTest(String),
}

/// Memory and launches of one stream, in order: a launch sees what was uploaded before it, and what is sent back is what
/// was launched before. Streams know nothing of each other but by [`Machine::follow`].
pub(crate) trait Machine {
    /// Memory of the machine. It may be given back while its stream still has to do with it, and no other.
    type Buffer;
    /// Bytes on their way back.
    type Arrival;
    /// A moment in the stream.
    type Mark;

    /// Memory that holds these bytes, one part after the other. Never of length zero. The parts may go at once.
    fn upload(&self, parts: &[&[u8]]) -> Result<Self::Buffer, DeviceError>;
    /// Memory filled with one byte. Never of length zero.
    fn filled(&self, len: usize, with: u8) -> Result<Self::Buffer, DeviceError>;
    /// Starts a kernel.
    fn launch(
        &self,
        kernel: Kernel,
        blocks: u32,
        lanes: u32,
        arguments: &[Argument<'_, Self::Buffer>],
    ) -> Result<(), DeviceError>;
    /// Starts copying the first bytes of a buffer back: few of them, flags or verdicts.
    fn send(&self, from: &Self::Buffer, len: usize) -> Result<Self::Arrival, DeviceError>;
    /// Waits for what was sent, and for everything before it.
    fn arrive(&self, arrival: Self::Arrival, to: &mut [u8]) -> Result<(), DeviceError>;
    /// Waits and reads, however much.
    fn download(&self, from: &Self::Buffer, to: &mut [u8]) -> Result<(), DeviceError>;
    /// Waits for everything.
    fn settle(&self) -> Result<(), DeviceError>;
    /// What is launched here from now on sees what was launched on the other stream so far.
    fn follow(&self, other: &Self) -> Result<(), DeviceError>;
    /// Now, as far as the stream is.
    fn mark(&self) -> Result<Self::Mark, DeviceError>;
    /// The time between two of this stream's marks. Waits for both.
    fn between(&self, start: &Self::Mark, end: &Self::Mark) -> Result<Duration, DeviceError>;
    /// Bytes that it copied to and fro so far.
    fn moved(&self) -> u64;
    /// Secrets pass through until [`Machine::wipe`] was called as often: nothing of them stays on the way.
    fn guard(&self);
    /// Overwrites memory that held secrets, before it is given back.
    fn wipe(&self, buffer: &mut Self::Buffer);
    /// Blocks of this many lanes for this many items, where not those that the kernel is meant for.
    fn lanes(&self, kernel: Kernel) -> u32 {
        kernel.shape().0
    }
}

/// Memory that is wiped when it is given back, on every way out.
pub(crate) struct Secret<'m, M: Machine> {
    machine: &'m M,
    buffer: M::Buffer,
}

impl<'m, M: Machine> Secret<'m, M> {
    pub(crate) fn upload(machine: &'m M, bytes: &[u8]) -> Result<Self, DeviceError> {
        Self::guarded(machine, || machine.upload(&[bytes]))
    }

    pub(crate) fn room(machine: &'m M, len: usize) -> Result<Self, DeviceError> {
        Self::guarded(machine, || machine.filled(len, POISON))
    }

    fn guarded(machine: &'m M, make: impl FnOnce() -> Result<M::Buffer, DeviceError>) -> Result<Self, DeviceError> {
        machine.guard();
        // Where there is no memory the guard stays: more is wiped on the way than must be.
        Ok(Self { machine, buffer: make()? })
    }

    pub(crate) const fn argument(&self) -> Argument<'_, M::Buffer> {
        Argument::Buffer(&self.buffer)
    }

    pub(crate) fn download(&self, to: &mut [u8]) -> Result<(), DeviceError> {
        self.machine.download(&self.buffer, to)
    }
}

impl<M: Machine> Drop for Secret<'_, M> {
    fn drop(&mut self) {
        self.machine.wipe(&mut self.buffer);
    }
}
