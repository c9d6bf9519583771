//! Damages files of a stopped node at random, those that the node says it can do without, and starts it: what was
//! acknowledged must still be there, and nobody had to help.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::hunt::{Acknowledged, Load, next_nonce};
use super::{Change, Disk, Hunt, Plan, Recorder};
use crate::simulator::rng::Rng;
use crate::{Cluster, Options};

/// The longest piece of a file that one damage takes.
const LONGEST: u64 = 64 << 10;
/// An order to stop is kept within this time, a last checkpoint included.
const SETTLES: Duration = Duration::from_secs(2);

/// All files below a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

/// What a node can do without: the store, its snapshots, the indices of sealed segments.
fn dispensable(node: &Path) -> Vec<PathBuf> {
    let mut found = files(&node.join("store"));
    found.extend(files(&node.join("snapshots")));
    found
        .extend(files(&node.join("journal")).into_iter().filter(|path| path.extension().is_some_and(|it| it == "idx")));
    found
}

/// Damages a file; says how.
fn damage(path: &Path, dice: &mut Rng) -> String {
    let mut bytes = std::fs::read(path).unwrap();
    let length = bytes.len() as u64;
    // Most of sled's file may be room that nothing stands in.
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let place = |dice: &mut Rng| usize::try_from(dice.below(used)).unwrap();
    let said = match dice.below(10) {
        0..=3 if used > 0 => {
            let bits = dice.between(1, 8);
            for _ in 0..bits {
                let at = place(dice);
                bytes[at] ^= 1 << dice.below(8);
            }
            format!("{bits} bits of {name} flipped")
        }
        4..=6 => {
            bytes.truncate(usize::try_from(dice.below(used + 1)).unwrap());
            format!("{name} cut from {length} to {} bytes", bytes.len())
        }
        7 | 8 if used > 0 => {
            let at = place(dice);
            let end = bytes.len().min(at + usize::try_from(dice.between(1, LONGEST)).unwrap());
            let noise = dice.chance(500);
            bytes[at..end].iter_mut().for_each(|byte| *byte = if noise { dice.next().to_le_bytes()[0] } else { 0 });
            format!("{} bytes of {name} overwritten at {at} with {}", end - at, if noise { "noise" } else { "zeros" })
        }
        _ => {
            std::fs::remove_file(path).unwrap();
            return format!("{name} removed");
        }
    };
    std::fs::write(path, bytes).unwrap();
    said
}

impl Plan {
    /// Puts one node under load, stops it, and starts it so many times, each time with another damage to its files.
    /// Panics if anything that was acknowledged is not there, or the node does not start by itself.
    pub async fn damages(&self, binary: &str) -> Hunt {
        let mut dice = Rng::new(self.seed);
        let mut hunt = Hunt::default();
        let options = Options { replace: self.replace.clone(), ..Options::default() };
        let mut cluster = Cluster::prepare(binary, self.config, options).await;
        assert_eq!(cluster.len(), 1, "peers would heal what one node cannot");
        let data = cluster.data_dir();
        cluster.launch(0, true);
        cluster.wait_ready([0]).await;
        let recorder = Recorder::new(&data, &data.with_file_name("marks"));
        let mut wallets = cluster.wallets(self.senders);
        for wallet in &mut wallets {
            wallet.nonce = next_nonce(&cluster.client(0), wallet).await;
        }
        let load = Load::start(wallets, &cluster.clients(), self.operations, &recorder);
        tokio::time::sleep(self.load).await;
        load.stop().await;
        // A checkpoint of what came last.
        tokio::time::sleep(SETTLES).await;
        assert_eq!(cluster.stop(0), Some(0), "{}", cluster.last_line(0));
        let mut acknowledged = Acknowledged::default();
        for entry in recorder.tape() {
            if let Change::Mark(text) = entry.change {
                acknowledged.take(&text);
            }
        }
        assert!(!acknowledged.ids.is_empty());
        let whole = Disk::load(&data);
        for round in 0..self.cuts {
            std::fs::remove_dir_all(&data).unwrap();
            whole.restore(&data);
            let places = dispensable(&cluster.node_dir(0));
            // The database is one file of many, and the one that counts.
            let database = cluster.node_dir(0).join("store/db");
            let path = if dice.chance(600) { &database } else { dice.pick(&places).expect("a store") };
            let what = format!("seed {}, damage {round}: {}", self.seed, damage(path, &mut dice));
            println!("{what}");
            self.start_and_look(&mut cluster, &acknowledged, false, &what, &mut hunt).await;
            hunt.cuts += 1;
        }
        hunt.starts.sort_unstable();
        hunt
    }
}
