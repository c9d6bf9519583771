//! A model of a disk behind a cache: what a folder's files hold for good, and what was changed since and may be lost.
//!
//! Stricter than any file system that we know of: a sync covers its own file or folder and nothing else, a new file's
//! name lasts only once its folder is synced, and unsynced changes of different files reach the disk in any order. Only
//! the names of one folder change in order.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::tape::{Change, Entry};
use crate::simulator::rng::Rng;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
const BLOCK: usize = 4_096;

type Id = usize;
type Names = BTreeMap<OsString, Id>;

/// A change of a file's content.
#[derive(Debug, Clone)]
enum Content {
    Write(u64, Vec<u8>),
    Length(u64),
    Grow(u64),
}

/// A change of a folder's names.
#[derive(Debug, Clone)]
enum Name {
    Set(OsString, Id),
    Gone(OsString),
    Moved(OsString, OsString, Id),
}

#[derive(Debug)]
enum Node {
    File { safe: Vec<u8>, open: Vec<(u64, Content)> },
    Folder { safe: Names, now: Names, open: Vec<(u64, Name)> },
}

/// How a cut treats what was not synced.
#[derive(Debug, Clone, Copy)]
enum Mood {
    /// All of it is lost.
    Nothing,
    /// The cache was written back in order up to some place, and torn there.
    UpTo(u64),
    /// Each change is kept in so many of a thousand cases.
    Changes(u64),
    /// Each sector is kept in so many of a thousand cases.
    Sectors(u64),
}

/// A folder and everything below it, as a cut of power may leave it.
#[derive(Debug)]
pub struct Disk {
    nodes: Vec<Node>,
    syncs: HashMap<u64, u64>,
    clock: u64,
}

fn place(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let at = usize::try_from(at).unwrap();
    if bytes.len() < at + data.len() {
        bytes.resize(at + data.len(), 0);
    }
    bytes[at..at + data.len()].copy_from_slice(data);
}

fn apply(bytes: &mut Vec<u8>, content: &Content) {
    match content {
        Content::Write(at, data) => place(bytes, *at, data),
        Content::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        Content::Grow(length) => {
            let length = usize::try_from(*length).unwrap();
            if bytes.len() < length {
                bytes.resize(length, 0);
            }
        }
    }
}

fn rename(names: &mut Names, change: &Name) {
    match change {
        Name::Set(name, id) => {
            names.insert(name.clone(), *id);
        }
        Name::Gone(name) => {
            names.remove(name);
        }
        Name::Moved(from, to, id) => {
            names.remove(from);
            names.insert(to.clone(), *id);
        }
    }
}

impl Disk {
    /// A folder as it is, all of it safe.
    #[must_use]
    pub fn load(root: &Path) -> Self {
        let mut disk = Self { nodes: Vec::new(), syncs: HashMap::new(), clock: 0 };
        disk.take(root);
        disk
    }

    fn take(&mut self, path: &Path) -> Id {
        let id = self.nodes.len();
        if path.is_dir() {
            self.nodes.push(Node::Folder { safe: Names::new(), now: Names::new(), open: Vec::new() });
            let mut names = Names::new();
            for entry in std::fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                names.insert(entry.file_name(), self.take(&entry.path()));
            }
            self.nodes[id] = Node::Folder { safe: names.clone(), now: names, open: Vec::new() };
        } else {
            self.nodes.push(Node::File { safe: std::fs::read(path).unwrap(), open: Vec::new() });
        }
        id
    }

    /// What a path stands for now.
    fn find(&self, path: &Path) -> Option<Id> {
        path.iter().try_fold(0, |id, name| match &self.nodes[id] {
            Node::Folder { now, .. } => now.get(name).copied(),
            Node::File { .. } => None,
        })
    }

    fn name(&mut self, folder: &Path, change: Name) {
        let Some(id) = self.find(folder) else { return };
        if let Node::Folder { now, open, .. } = &mut self.nodes[id] {
            rename(now, &change);
            open.push((self.clock, change));
        }
    }

    fn add(&mut self, path: &Path, node: Node) {
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return };
        self.nodes.push(node);
        self.name(folder, Name::Set(name.to_owned(), self.nodes.len() - 1));
    }

    fn content(&mut self, path: &Path, change: Content) {
        // A file that is open and has no name any more is nobody's after a cut.
        let Some(id) = self.find(path) else { return };
        if let Node::File { open, .. } = &mut self.nodes[id] {
            open.push((self.clock, change));
        }
    }

    /// Plays one entry of a recording.
    pub fn play(&mut self, entry: Entry) {
        self.clock += 1;
        let Entry { thread, path, change } = entry;
        match change {
            Change::Write(at, data) => self.content(&path, Content::Write(at, data)),
            Change::Length(length) => self.content(&path, Content::Length(length)),
            Change::Grow(length) => self.content(&path, Content::Grow(length)),
            Change::Open(truncates) => {
                if self.find(&path).is_none() {
                    self.add(&path, Node::File { safe: Vec::new(), open: Vec::new() });
                } else if truncates {
                    self.content(&path, Content::Length(0));
                }
            }
            Change::Folder => {
                self.add(&path, Node::Folder { safe: Names::new(), now: Names::new(), open: Vec::new() });
            }
            Change::Remove => {
                if let (Some(folder), Some(name)) = (path.parent(), path.file_name()) {
                    self.name(folder, Name::Gone(name.to_owned()));
                }
            }
            Change::Rename(to) => self.moved(&path, &to),
            Change::SyncBegins => {
                self.syncs.insert(thread, self.clock);
            }
            Change::SyncEnds => {
                if let (Some(began), Some(id)) = (self.syncs.remove(&thread), self.find(&path)) {
                    self.sync(id, began);
                }
            }
            Change::Mark(_) => {}
        }
    }

    fn moved(&mut self, from: &Path, to: &Path) {
        let Some(id) = self.find(from) else { return };
        let (Some(folder), Some(name)) = (from.parent(), from.file_name()) else { return };
        let (Some(into), Some(as_name)) = (to.parent(), to.file_name()) else { return };
        if folder == into {
            self.name(folder, Name::Moved(name.to_owned(), as_name.to_owned(), id));
        } else {
            self.name(into, Name::Set(as_name.to_owned(), id));
            self.name(folder, Name::Gone(name.to_owned()));
        }
    }

    /// Everything that changed before a moment is safe.
    fn sync(&mut self, id: Id, began: u64) {
        match &mut self.nodes[id] {
            Node::File { safe, open } => {
                let still = open.iter().position(|(at, _)| *at > began).unwrap_or(open.len());
                open.drain(..still).for_each(|(_, change)| apply(safe, &change));
            }
            Node::Folder { safe, open, .. } => {
                let still = open.iter().position(|(at, _)| *at > began).unwrap_or(open.len());
                open.drain(..still).for_each(|(_, change)| rename(safe, &change));
            }
        }
    }

    /// Bytes that were written and not synced.
    #[must_use]
    pub fn unsafe_bytes(&self) -> usize {
        let of = |node: &Node| match node {
            Node::File { open, .. } => open
                .iter()
                .map(|(_, change)| match change {
                    Content::Write(_, data) => data.len(),
                    _ => 0,
                })
                .sum(),
            Node::Folder { .. } => 0,
        };
        self.nodes.iter().map(of).sum()
    }

    /// Cuts the power now: writes the folder as it may stand then to a new place.
    pub(crate) fn cut(&self, dice: &mut Rng, to: &Path) {
        let share = [100, 500, 900];
        let mood = match dice.below(4) {
            0 => Mood::Nothing,
            1 => Mood::UpTo(dice.between(self.clock.saturating_sub(200), self.clock)),
            2 => Mood::Changes(share[dice.index(3)]),
            _ => Mood::Sectors(share[dice.index(3)]),
        };
        self.leave(0, mood, dice, to);
    }

    /// Writes the folder with what is safe, as after a long rest, to a new place.
    pub(crate) fn restore(&self, to: &Path) {
        self.leave(0, Mood::Nothing, &mut Rng::new(0), to);
    }

    fn leave(&self, id: Id, mood: Mood, dice: &mut Rng, to: &Path) {
        match &self.nodes[id] {
            Node::File { safe, open } => save(&survivors(safe, open, mood, dice), to),
            Node::Folder { safe, open, .. } => {
                let kept = match mood {
                    Mood::Nothing => 0,
                    Mood::UpTo(last) => open.iter().take_while(|(at, _)| *at < last).count(),
                    Mood::Changes(_) | Mood::Sectors(_) => dice.index(open.len() + 1),
                };
                let mut names = safe.clone();
                open[..kept].iter().for_each(|(_, change)| rename(&mut names, change));
                std::fs::create_dir(to).unwrap();
                for (name, id) in names {
                    self.leave(id, mood, dice, &to.join(name));
                }
            }
        }
    }
}

/// A file's content after a cut.
fn survivors(safe: &[u8], open: &[(u64, Content)], mood: Mood, dice: &mut Rng) -> Vec<u8> {
    let mut bytes = safe.to_vec();
    for (at, change) in open {
        let (whole, sectors) = match mood {
            Mood::Nothing => (false, 0),
            Mood::UpTo(last) => (*at < last, if *at == last { 500 } else { 0 }),
            Mood::Changes(permille) => (dice.chance(permille), 0),
            Mood::Sectors(permille) => (false, permille),
        };
        match change {
            change if whole => apply(&mut bytes, change),
            Content::Write(offset, data) if sectors > 0 => {
                let offset = usize::try_from(*offset).unwrap();
                let mut from = 0;
                while from < data.len() {
                    let to = ((offset + from) / SECTOR * SECTOR + SECTOR - offset).min(data.len());
                    if dice.chance(sectors) {
                        place(&mut bytes, (offset + from) as u64, &data[from..to]);
                    }
                    from = to;
                }
            }
            change if sectors > 0 && dice.chance(sectors) => apply(&mut bytes, change),
            // The length may be told to the disk before the data.
            Content::Write(offset, data) if !matches!(mood, Mood::Nothing) && dice.chance(200) => {
                apply(&mut bytes, &Content::Grow(offset + data.len() as u64));
            }
            _ => {}
        }
    }
    bytes
}

/// Writes a file, leaving out what is zero.
fn save(bytes: &[u8], to: &Path) {
    let file = File::create(to).unwrap();
    file.set_len(bytes.len() as u64).unwrap();
    for (number, block) in bytes.chunks(BLOCK).enumerate() {
        if block != &[0; BLOCK][..block.len()] {
            file.write_all_at(block, (number * BLOCK) as u64).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, change: Change) -> Entry {
        Entry { thread: 1, path: path.into(), change }
    }

    fn disk() -> Disk {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("old"), b"safe").unwrap();
        Disk::load(folder.path())
    }

    /// All ways in which the folder may look, as far as so many cuts show.
    fn looks(disk: &Disk, name: &str) -> std::collections::BTreeSet<Option<Vec<u8>>> {
        let mut dice = Rng::new(1);
        let look = |_| {
            let folder = tempfile::tempdir().unwrap();
            disk.cut(&mut dice, &folder.path().join("cut"));
            std::fs::read(folder.path().join("cut").join(name)).ok()
        };
        (0..100).map(look).collect()
    }

    #[test]
    fn what_was_not_synced_may_be_lost_and_what_was_is_not() {
        let mut disk = disk();
        disk.play(entry("old", Change::Write(0, b"SAFE".to_vec())));
        assert_eq!(looks(&disk, "old"), [Some(b"SAFE".to_vec()), Some(b"safe".to_vec())].into());
        disk.play(entry("old", Change::SyncBegins));
        disk.play(entry("old", Change::SyncEnds));
        assert_eq!(looks(&disk, "old"), [Some(b"SAFE".to_vec())].into());
    }

    #[test]
    fn a_sync_covers_what_was_written_before_it_began() {
        let mut disk = disk();
        disk.play(entry("old", Change::SyncBegins));
        disk.play(entry("old", Change::Write(0, b"SAFE".to_vec())));
        disk.play(entry("old", Change::SyncEnds));
        assert_eq!(looks(&disk, "old").len(), 2);
    }

    #[test]
    fn a_new_name_lasts_once_its_folder_is_synced() {
        let mut disk = disk();
        disk.play(entry("new", Change::Open(false)));
        disk.play(entry("new", Change::Write(0, b"x".to_vec())));
        disk.play(entry("new", Change::SyncBegins));
        disk.play(entry("new", Change::SyncEnds));
        assert_eq!(looks(&disk, "new"), [None, Some(b"x".to_vec())].into());
        disk.play(entry("", Change::SyncBegins));
        disk.play(entry("", Change::SyncEnds));
        assert_eq!(looks(&disk, "new"), [Some(b"x".to_vec())].into());
    }

    #[test]
    fn a_renamed_file_is_at_the_old_or_the_new_place_and_nowhere_else() {
        let mut disk = disk();
        disk.play(entry("old", Change::Rename("new".into())));
        assert_eq!(looks(&disk, "old"), [None, Some(b"safe".to_vec())].into());
        let mut dice = Rng::new(1);
        for _ in 0..50 {
            let folder = tempfile::tempdir().unwrap();
            disk.cut(&mut dice, &folder.path().join("cut"));
            assert_eq!(std::fs::read_dir(folder.path().join("cut")).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_long_write_is_torn_at_sectors() {
        let mut disk = disk();
        disk.play(entry("old", Change::Write(500, vec![7; 1_024])));
        let torn = looks(&disk, "old").into_iter().flatten().filter(|bytes| bytes.len() == 1_524);
        let torn: Vec<_> = torn.filter(|bytes| bytes[600] != bytes[1_200]).collect();
        assert!(!torn.is_empty());
        for bytes in torn {
            assert!(bytes[512..1_024].iter().all(|byte| *byte == bytes[512]));
        }
    }
}
