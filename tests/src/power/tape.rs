//! The log of what a process changed and synced: its form is that of tests/recorder/README.md.

use std::fs::File;
use std::io::{BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const HEAD: usize = 32;
/// The harness' own entries among the recorder's.
const MARK: u32 = 100;

/// Where recorded processes log to. Clones mark the same log.
#[derive(Clone)]
pub struct Recorder {
    root: PathBuf,
    log: PathBuf,
    marks: Arc<Mutex<File>>,
}

/// The shared object that Cargo built for this package, beside the running test or example.
fn shared_object() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let folders = program.ancestors().skip(1).take(2);
    let places =
        folders.flat_map(|folder| ["", "deps"].map(|below| folder.join(below).join("libaurigraph_recorder.so")));
    places.into_iter().find(|place| place.exists()).expect("cargo built the recorder with the testkit")
}

impl Recorder {
    /// Logs what happens below `root`, which exists, to a new file.
    #[must_use]
    pub fn new(root: &Path, log: &Path) -> Self {
        let marks = File::options().create_new(true).append(true).open(log).unwrap();
        let (root, log) = (root.canonicalize().unwrap(), log.canonicalize().unwrap());
        Self { root, log, marks: Arc::new(Mutex::new(marks)) }
    }

    /// The command by way of which a process is recorded.
    #[must_use]
    pub fn wrapper(&self) -> Vec<String> {
        let variable = |name: &str, value: &Path| format!("{name}={}", value.display());
        vec![
            "env".to_owned(),
            variable("AURIGRAPH_RECORD_ROOT", &self.root),
            variable("AURIGRAPH_RECORD_LOG", &self.log),
            variable("LD_PRELOAD", &shared_object()),
        ]
    }

    /// Notes something between the changes: everything logged before was made before.
    pub fn mark(&self, text: &str) {
        let mut entry = vec![0; HEAD];
        entry[..4].copy_from_slice(&MARK.to_le_bytes());
        entry[8..12].copy_from_slice(&u32::try_from(text.len()).unwrap().to_le_bytes());
        entry.extend_from_slice(text.as_bytes());
        self.marks.lock().unwrap().write_all(&entry).unwrap();
    }

    /// Reads the log.
    #[must_use]
    pub fn tape(&self) -> Tape {
        Tape { input: BufReader::with_capacity(1 << 20, File::open(&self.log).unwrap()), root: self.root.clone() }
    }
}

/// What an entry of the log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Data at an offset.
    Write(u64, Vec<u8>),
    /// The file has this length now.
    Length(u64),
    /// The file has at least this length now.
    Grow(u64),
    /// The file was opened, made if it did not exist, and emptied if so said.
    Open(bool),
    /// A sync of the file or folder begins.
    SyncBegins,
    /// The sync that the thread began has succeeded.
    SyncEnds,
    /// The file or folder has this path now.
    Rename(PathBuf),
    /// The file or folder is gone.
    Remove,
    /// A folder was made.
    Folder,
    /// The harness noted something.
    Mark(String),
}

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The thread that made the change.
    pub thread: u64,
    /// What was changed, relative to the recorded folder.
    pub path: PathBuf,
    /// How.
    pub change: Change,
}

/// Reads a log entry by entry.
pub struct Tape {
    input: BufReader<File>,
    root: PathBuf,
}

impl Iterator for Tape {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        let mut head = [0; HEAD];
        self.input.read_exact(&mut head).ok()?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let long = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().unwrap());
        let mut text = |length: u32| {
            let mut bytes = vec![0; length as usize];
            self.input.read_exact(&mut bytes).expect("a whole entry");
            bytes
        };
        let (path, data) = (text(word(4)), text(word(8)));
        let relative = |path: Vec<u8>| {
            let path = PathBuf::from(String::from_utf8(path).unwrap());
            path.strip_prefix(&self.root).map_or_else(|_| path.clone(), Path::to_owned)
        };
        let number = long(24);
        // O_TRUNC of Linux on x86-64.
        let truncates = |flags: u64| flags & 0o1000 != 0;
        let change = match word(0) {
            1 => Change::Write(number, data),
            2 => Change::Length(number),
            3 => Change::Grow(number),
            4 => Change::Open(truncates(number)),
            5 => Change::SyncBegins,
            6 => Change::SyncEnds,
            7 => Change::Rename(relative(data)),
            8 => Change::Remove,
            9 => Change::Folder,
            MARK => Change::Mark(String::from_utf8(data).unwrap()),
            other => panic!("an entry of kind {other}"),
        };
        Some(Entry { thread: long(16), path: relative(path), change })
    }
}
