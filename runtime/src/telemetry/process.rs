//! What the kernel and the async runtime say about this process, in Prometheus text form.
//!
//! Written by hand because these figures are read when they are asked for, and because the recorder knows no counter
//! with a fraction (CPU seconds).

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The unit of CPU times in `/proc`: `USER_HZ` is 100 on every Linux that we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// One reading.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ProcessStats {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Address space.
    pub virtual_bytes: u64,
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many there may be.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
    /// When the process started, in seconds since 1970.
    pub start_seconds: f64,
}

impl ProcessStats {
    /// Reads this process's figures; none where there is no `/proc`.
    #[must_use]
    pub fn read() -> Option<Self> {
        let stat = parse_stat(&std::fs::read_to_string("/proc/self/stat").ok()?)?;
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
        let boot = boot_seconds(&std::fs::read_to_string("/proc/stat").ok()?)?;
        // The directory handle of the count itself is one too many.
        let open_fds = (std::fs::read_dir("/proc/self/fd").ok()?.count() as u64).saturating_sub(1);
        Some(Self {
            resident_bytes: kibibytes(&status, "VmRSS:")?,
            virtual_bytes: kibibytes(&status, "VmSize:")?,
            cpu_seconds: stat.cpu_ticks / TICKS_PER_SECOND,
            open_fds,
            max_fds: max_fds(&limits)?,
            threads: stat.threads,
            start_seconds: boot + stat.start_ticks / TICKS_PER_SECOND,
        })
    }

    /// How long the process has been running.
    #[must_use]
    pub fn uptime_seconds(&self) -> f64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        (now - self.start_seconds).max(0.0)
    }

    /// Appends the figures.
    #[allow(clippy::cast_precision_loss)] // Bytes and counts far below 2^52.
    pub(crate) fn render(&self, node: &str, out: &mut String) {
        let mut write = |name, kind, help, value| metric(out, node, name, kind, help, value);
        let resident = self.resident_bytes as f64;
        write("process_resident_memory_bytes", "gauge", "Resident memory of the process", resident);
        let address_space = self.virtual_bytes as f64;
        write("process_virtual_memory_bytes", "gauge", "Address space of the process", address_space);
        write("process_cpu_seconds_total", "counter", "User and system CPU time of the process", self.cpu_seconds);
        write("process_open_fds", "gauge", "Open file descriptors", self.open_fds as f64);
        write("process_max_fds", "gauge", "Allowed file descriptors", self.max_fds as f64);
        write("process_threads", "gauge", "Threads of the process", self.threads as f64);
        write("process_start_time_seconds", "gauge", "Start of the process since 1970", self.start_seconds);
        write("process_uptime_seconds", "gauge", "Time since the start of the process", self.uptime_seconds());
    }
}

/// Appends what the async runtime says, if this thread belongs to one.
#[allow(clippy::cast_precision_loss)] // Counts far below 2^52.
pub(crate) fn render_runtime(node: &str, out: &mut String) {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let figures = runtime.metrics();
    let mut write = |name, help, value: usize| metric(out, node, name, "gauge", help, value as f64);
    write("tokio_workers", "Threads that run actors", figures.num_workers());
    write("tokio_alive_tasks", "Tasks of the async runtime", figures.num_alive_tasks());
    write("tokio_global_queue_depth", "Tasks waiting for any worker", figures.global_queue_depth());
}

fn metric(out: &mut String, node: &str, name: &str, kind: &str, help: &str, value: f64) {
    let node = node.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    // Writing to a string cannot fail.
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name}{{node=\"{node}\"}} {value}\n");
}

struct Stat {
    cpu_ticks: f64,
    threads: u64,
    start_ticks: f64,
}

/// `/proc/self/stat`: the command may hold spaces and brackets, so counting starts behind its last bracket.
fn parse_stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |field: usize| fields.get(field)?.parse::<f64>().ok();
    Some(Stat {
        cpu_ticks: number(11)? + number(12)?,
        threads: fields.get(17)?.parse().ok()?,
        start_ticks: number(19)?,
    })
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1_024)
}

fn max_fds(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_plausible_figures() {
        let stats = ProcessStats::read().unwrap();
        assert!(stats.resident_bytes > 1 << 20 && stats.resident_bytes <= stats.virtual_bytes, "{stats:?}");
        assert!(stats.open_fds >= 3 && stats.open_fds < stats.max_fds, "{stats:?}");
        assert!(stats.threads >= 1, "{stats:?}");
        assert!(stats.uptime_seconds() < 86_400.0, "{stats:?}");
    }

    #[test]
    fn cpu_time_grows_with_work() {
        let before = ProcessStats::read().unwrap().cpu_seconds;
        let mut sum = 0_u64;
        let began = std::time::Instant::now();
        while ProcessStats::read().unwrap().cpu_seconds <= before {
            assert!(began.elapsed().as_secs() < 20, "no CPU time in 20 s of work");
            sum = (0..1_000_000_u64).fold(sum, |sum, value| std::hint::black_box(sum.wrapping_add(value)));
        }
        assert_ne!(std::hint::black_box(sum), 1);
    }

    #[test]
    fn a_command_with_spaces_and_brackets_does_not_shift_the_fields() {
        let text = "42 (a ) (b) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20 0 7 0 12345 1 1";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.cpu_ticks, stat.threads, stat.start_ticks), (300.0, 7, 12_345.0));
        assert!(parse_stat("no bracket").is_none());
    }

    #[test]
    fn an_unlimited_number_of_files_is_no_error() {
        assert_eq!(
            max_fds("Max open files            unlimited            unlimited            files"),
            Some(u64::MAX)
        );
        assert_eq!(max_fds("Max open files            1024                 4096                 files"), Some(1_024));
    }
}
