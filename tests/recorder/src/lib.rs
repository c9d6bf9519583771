//! Tests only: stands in front of the C library in a process that is started with it, and logs what the process changes
//! and syncs below one folder. What for, and the log's form: README.md.
//!
//! Everything goes to the kernel by system calls of its own: a call of `write` in here would come back here.
#![cfg(all(target_os = "linux", target_arch = "x86_64"))]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::OnceLock;

use libc::{iovec, mode_t, off_t, off64_t, size_t, ssize_t};

/// Where the log goes, and for which folder.
struct Recorder {
    log: c_int,
    root: Vec<u8>,
}

static RECORDER: OnceLock<Option<Recorder>> = OnceLock::new();

/// What an entry tells; the numbers are the log's.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Kind {
    /// Data at an offset.
    Write = 1,
    /// The file has this length now.
    Length = 2,
    /// The file has at least this length now.
    Grow = 3,
    /// A file was opened that may not have existed; the number is the flags.
    Open = 4,
    /// A sync of a file or folder begins.
    SyncBegins = 5,
    /// The sync that this thread began has succeeded.
    SyncEnds = 6,
    /// The path is called as the data says now.
    Rename = 7,
    /// The path is gone.
    Remove = 8,
    /// A folder was made.
    Folder = 9,
}

const PATH_MAX: usize = 4_096;

fn environment(name: &CStr) -> Option<&'static CStr> {
    // SAFETY: a C string; the environment is not changed by the programs that this is used with.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    // SAFETY: not null, so a C string that lives as long as the environment.
    (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) })
}

fn recorder() -> Option<&'static Recorder> {
    let begin = || {
        let (root, log) = (environment(c"AURIGRAPH_RECORD_ROOT")?, environment(c"AURIGRAPH_RECORD_LOG")?);
        let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_APPEND | libc::O_CLOEXEC;
        // SAFETY: a C string and numbers.
        let fd = unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, log.as_ptr(), flags, 0o644) };
        let log = c_int::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        Some(Recorder { log, root: root.to_bytes().to_vec() })
    };
    RECORDER.get_or_init(begin).as_ref()
}

/// A path on the stack.
struct Place {
    bytes: [u8; 2 * PATH_MAX],
    len: usize,
}

impl Place {
    const fn empty() -> Self {
        Self { bytes: [0; 2 * PATH_MAX], len: 0 }
    }

    fn push(&mut self, more: &[u8]) {
        let end = (self.len + more.len()).min(self.bytes.len());
        self.bytes[self.len..end].copy_from_slice(&more[..end - self.len]);
        self.len = end;
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// What a descriptor stands for.
    fn of(fd: c_int) -> Self {
        let (mut link, mut digits, mut rest) = (Self::empty(), [0_u8; 12], fd.max(0));
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        link.push(b"/proc/self/fd/");
        link.push(&digits[at..]);
        link.push(b"\0");
        let mut place = Self::empty();
        // SAFETY: a path that ends in zero, and a buffer of the length given.
        let read =
            unsafe { libc::syscall(libc::SYS_readlink, link.bytes.as_ptr(), place.bytes.as_mut_ptr(), PATH_MAX) };
        place.len = usize::try_from(read).unwrap_or(0);
        place
    }

    /// A path as a program gave it: absolute, or in the folder of a descriptor.
    ///
    /// # Safety
    /// A C string.
    unsafe fn given(folder: c_int, path: *const c_char) -> Self {
        // SAFETY: the caller's promise.
        let path = unsafe { CStr::from_ptr(path) }.to_bytes();
        let mut place =
            if path.starts_with(b"/") || folder == libc::AT_FDCWD { Self::empty() } else { Self::of(folder) };
        if place.len > 0 {
            place.push(b"/");
        }
        place.push(path);
        place
    }
}

impl Recorder {
    fn covers(&self, place: &Place) -> bool {
        let path = place.as_bytes();
        path.starts_with(&self.root) && (path.len() == self.root.len() || path[self.root.len()] == b'/')
    }

    /// Appends an entry, in one system call and so at once. A log that cannot be written ends the process: a recording
    /// with a hole would accuse the innocent.
    fn log(&self, kind: Kind, place: &Place, number: u64, data: &[&[u8]]) {
        let path = place.as_bytes();
        let length: usize = data.iter().map(|part| part.len()).sum();
        let mut head = [0; 32];
        // SAFETY: no arguments.
        let thread = unsafe { libc::syscall(libc::SYS_gettid) };
        head[..4].copy_from_slice(&(kind as u32).to_le_bytes());
        head[4..8].copy_from_slice(&u32::try_from(path.len()).unwrap_or(u32::MAX).to_le_bytes());
        head[8..12].copy_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        head[16..24].copy_from_slice(&thread.to_le_bytes());
        head[24..].copy_from_slice(&number.to_le_bytes());
        let mut parts = Vec::with_capacity(2 + data.len());
        for part in [&head[..], path].iter().chain(data) {
            parts.push(iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
        }
        // SAFETY: buffers that outlive the call.
        let written = unsafe { libc::syscall(libc::SYS_writev, self.log, parts.as_ptr(), parts.len()) };
        if usize::try_from(written).ok() != Some(head.len() + path.len() + length) {
            // SAFETY: no arguments.
            unsafe { libc::abort() }
        }
    }
}

/// The recorder and the place, if a descriptor is one of the folder's.
fn covered(fd: c_int) -> Option<(&'static Recorder, Place)> {
    let recorder = recorder()?;
    let place = Place::of(fd);
    recorder.covers(&place).then_some((recorder, place))
}

fn position(fd: c_int) -> u64 {
    // SAFETY: numbers.
    u64::try_from(unsafe { libc::syscall(libc::SYS_lseek, fd, 0, libc::SEEK_CUR) }).unwrap_or(0)
}

/// Runs something without its trace in `errno`.
fn quietly(run: impl FnOnce()) {
    // SAFETY: the thread's own place.
    let errno = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    let before = unsafe { *errno };
    run();
    // SAFETY: as above.
    unsafe { *errno = before };
}

fn as_int(result: i64) -> c_int {
    c_int::try_from(result).unwrap_or(-1)
}

unsafe fn open_and_log(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    let fd = as_int(unsafe { libc::syscall(libc::SYS_openat, folder, path, flags, mode) });
    if fd >= 0 && flags & (libc::O_CREAT | libc::O_TRUNC) != 0 {
        quietly(|| {
            if let Some((recorder, place)) = covered(fd) {
                recorder.log(Kind::Open, &place, u64::from(flags.unsigned_abs()), &[]);
            }
        });
    }
    fd
}

/// As `open` of the C library, for a mode that is always given.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    unsafe { open_and_log(libc::AT_FDCWD, path, flags, mode) }
}

/// As `open64` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    unsafe { open_and_log(libc::AT_FDCWD, path, flags | libc::O_LARGEFILE, mode) }
}

/// As `openat64` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn openat64(folder: c_int, path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    unsafe { open_and_log(folder, path, flags | libc::O_LARGEFILE, mode) }
}

/// As `write` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn write(fd: c_int, data: *const c_void, count: size_t) -> ssize_t {
    // SAFETY: the caller's arguments, handed on.
    let written = unsafe { libc::syscall(libc::SYS_write, fd, data, count) };
    if let Ok(written @ 1..) = usize::try_from(written) {
        quietly(|| {
            if let Some((recorder, place)) = covered(fd) {
                // SAFETY: so many bytes of the buffer were just read by the kernel.
                let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), written) };
                recorder.log(Kind::Write, &place, position(fd).saturating_sub(written as u64), &[data]);
            }
        });
    }
    written as ssize_t
}

/// As `writev` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn writev(fd: c_int, parts: *const iovec, count: c_int) -> ssize_t {
    // SAFETY: the caller's arguments, handed on.
    let written = unsafe { libc::syscall(libc::SYS_writev, fd, parts, count) };
    if let Ok(total @ 1..) = usize::try_from(written) {
        quietly(|| {
            if let Some((recorder, place)) = covered(fd) {
                let mut left = total;
                // SAFETY: the kernel has just read these.
                let parts = unsafe { std::slice::from_raw_parts(parts, usize::try_from(count).unwrap_or(0)) };
                let data: Vec<&[u8]> = parts
                    .iter()
                    .map(|part| {
                        let taken = part.iov_len.min(left);
                        left -= taken;
                        // SAFETY: as above.
                        unsafe { std::slice::from_raw_parts(part.iov_base.cast::<u8>(), taken) }
                    })
                    .filter(|part| !part.is_empty())
                    .collect();
                recorder.log(Kind::Write, &place, position(fd).saturating_sub(total as u64), &data);
            }
        });
    }
    written as ssize_t
}

/// As `pwrite64` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn pwrite64(fd: c_int, data: *const c_void, count: size_t, offset: off64_t) -> ssize_t {
    // SAFETY: the caller's arguments, handed on.
    let written = unsafe { libc::syscall(libc::SYS_pwrite64, fd, data, count, offset) };
    if let Ok(written @ 1..) = usize::try_from(written) {
        quietly(|| {
            if let Some((recorder, place)) = covered(fd) {
                // SAFETY: so many bytes of the buffer were just read by the kernel.
                let data = unsafe { std::slice::from_raw_parts(data.cast::<u8>(), written) };
                recorder.log(Kind::Write, &place, offset.unsigned_abs(), &[data]);
            }
        });
    }
    written as ssize_t
}

/// As `ftruncate64` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ftruncate64(fd: c_int, length: off64_t) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    let result = as_int(unsafe { libc::syscall(libc::SYS_ftruncate, fd, length) });
    if result == 0 {
        quietly(|| {
            if let Some((recorder, place)) = covered(fd) {
                recorder.log(Kind::Length, &place, length.unsigned_abs(), &[]);
            }
        });
    }
    result
}

/// As `posix_fallocate` of the C library, but that a file system without it is told so.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_fallocate(fd: c_int, offset: off_t, length: off_t) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    let result = unsafe { libc::syscall(libc::SYS_fallocate, fd, 0, offset, length) };
    if result != 0 {
        // SAFETY: the thread's own place.
        return unsafe { *libc::__errno_location() };
    }
    quietly(|| {
        if let Some((recorder, place)) = covered(fd) {
            recorder.log(Kind::Grow, &place, (offset + length).unsigned_abs(), &[]);
        }
    });
    0
}

fn sync(call: i64, fd: c_int) -> c_int {
    let mut covering = None;
    quietly(|| covering = covered(fd));
    if let Some((recorder, place)) = &covering {
        quietly(|| recorder.log(Kind::SyncBegins, place, 0, &[]));
    }
    // SAFETY: numbers.
    let result = as_int(unsafe { libc::syscall(call, fd) });
    if let Some((recorder, place)) = covering.filter(|_| result == 0) {
        quietly(|| recorder.log(Kind::SyncEnds, &place, 0, &[]));
    }
    result
}

/// As `fsync` of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fsync(fd: c_int) -> c_int {
    sync(libc::SYS_fsync, fd)
}

/// As `fdatasync` of the C library.
#[unsafe(no_mangle)]
pub extern "C" fn fdatasync(fd: c_int) -> c_int {
    sync(libc::SYS_fdatasync, fd)
}

/// As `rename` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rename(from: *const c_char, to: *const c_char) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    let result = as_int(unsafe { libc::syscall(libc::SYS_rename, from, to) });
    if let (0, Some(recorder)) = (result, recorder()) {
        // SAFETY: C strings, as the kernel has seen.
        let (from, to) = unsafe { (Place::given(libc::AT_FDCWD, from), Place::given(libc::AT_FDCWD, to)) };
        if recorder.covers(&from) || recorder.covers(&to) {
            quietly(|| recorder.log(Kind::Rename, &from, 0, &[to.as_bytes()]));
        }
    }
    result
}

unsafe fn log_given(kind: Kind, folder: c_int, path: *const c_char) {
    let Some(recorder) = recorder() else { return };
    quietly(|| {
        // SAFETY: a C string, as the kernel has seen.
        let place = unsafe { Place::given(folder, path) };
        if recorder.covers(&place) {
            recorder.log(kind, &place, 0, &[]);
        }
    });
}

/// As `unlink` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlink(path: *const c_char) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    unsafe { unlinkat(libc::AT_FDCWD, path, 0) }
}

/// As `rmdir` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rmdir(path: *const c_char) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    unsafe { unlinkat(libc::AT_FDCWD, path, libc::AT_REMOVEDIR) }
}

/// As `unlinkat` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn unlinkat(folder: c_int, path: *const c_char, flags: c_int) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    let result = as_int(unsafe { libc::syscall(libc::SYS_unlinkat, folder, path, flags) });
    if result == 0 {
        // SAFETY: as above.
        unsafe { log_given(Kind::Remove, folder, path) };
    }
    result
}

/// As `mkdir` of the C library.
///
/// # Safety
/// As there.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mkdir(path: *const c_char, mode: mode_t) -> c_int {
    // SAFETY: the caller's arguments, handed on.
    let result = as_int(unsafe { libc::syscall(libc::SYS_mkdir, path, mode) });
    if result == 0 {
        // SAFETY: as above.
        unsafe { log_given(Kind::Folder, libc::AT_FDCWD, path) };
    }
    result
}

fn refused() -> ssize_t {
    // SAFETY: the thread's own place.
    unsafe { *libc::__errno_location() = libc::ENOSYS };
    -1
}

/// Refused: a copy by the kernel would not be seen. Callers then read and write.
#[unsafe(no_mangle)]
pub extern "C" fn copy_file_range(_: c_int, _: *mut off64_t, _: c_int, _: *mut off64_t, _: size_t, _: u32) -> ssize_t {
    refused()
}

/// Refused, as `copy_file_range`.
#[unsafe(no_mangle)]
pub extern "C" fn sendfile64(_: c_int, _: c_int, _: *mut off64_t, _: size_t) -> ssize_t {
    refused()
}

/// Refused, as `copy_file_range`.
#[unsafe(no_mangle)]
pub extern "C" fn sendfile(_: c_int, _: c_int, _: *mut off_t, _: size_t) -> ssize_t {
    refused()
}
