//! `aurigraph schema`: what every subcommand prints, against golden files, and which exit codes it has.
//!
//! `UPDATE_GOLDEN=1 cargo test -p aurigraph --test schema` writes `tests/golden/schema/*.txt` anew.
#![allow(clippy::unwrap_used)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aurigraph_schema_upgrades::node::plan;
use aurigraph_schema_upgrades::node::v001_first_layout::{AUDIT, BLOCK_TRANSACTIONS, BLOCKS, FirstLayout};
use aurigraph_schema_upgrades::node::v002_audit_times::AuditTimes;
use aurigraph_schema_upgrades::node::v003_key_table::KeyTable;
use aurigraph_schema_upgrades::node::v004_address_index::AddressIndex;
use aurigraph_schema_upgrades::node::v005_block_measures::BlockMeasures;
use aurigraph_schema_upgrades::{Advance, Plan, Step, StepError};
use aurigraph_schema_upgrades::{Change, Database, Medium};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");

/// A node's folder with a store of the first released layout, and three audit entries in it.
fn first_released() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::open_at(&folder.path().join("store")).unwrap();
    plan().upgrade(&database, Some(1)).unwrap();
    let entry = |n: u64| [&[1], n.to_le_bytes().as_slice(), &(1_000 * n).to_le_bytes()].concat();
    let rows: Vec<Change> = (1..=3_u64).map(|n| Change::put(&n.to_be_bytes(), &entry(n))).collect();
    database.apply(AUDIT, &rows).unwrap();
    // Two blocks without transactions: hash, commit index, count, no batches, a header.
    let block = |height: u64| [&[7; 32][..], &height.to_le_bytes(), &[0; 4], &[0, 5], b"block"].concat();
    let rows: Vec<Change> = (1..=2_u64).map(|height| Change::put(&height.to_be_bytes(), &block(height))).collect();
    database.apply(BLOCKS, &rows).unwrap();
    database.sync().unwrap();
    folder
}

fn change(folder: &Path, tree: &str, change: Change) {
    let database = Database::open_at(&folder.join("store")).unwrap();
    database.apply(tree, &[change]).unwrap();
    database.sync().unwrap();
}

fn forget(folder: &Path, version: u32) {
    change(folder, "schema/history", Change::remove(&version.to_be_bytes()));
}

/// What differs from run to run, by the name of its field.
const VARIES: [&str; 10] =
    ["process", "program", "sinceMs", "doneMs", "madeMs", "took", "digest", "bytes", "fileBytes", "largestPiece"];

fn mask_json(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if VARIES.contains(&name.as_str()) {
                    *value = Value::from("…");
                }
                mask_json(value);
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask_json),
        Value::String(text) => *text = mask_word(text),
        _ => {}
    }
}

/// Times and digests; milliseconds in names of files.
fn mask_word(word: &str) -> String {
    let bare = word.trim_matches(',');
    if bare.len() == 20 && bare.ends_with('Z') && bare.as_bytes()[10] == b'T' {
        return "TIME".to_owned();
    }
    if bare.len() == 64 && bare.bytes().all(|byte| byte.is_ascii_hexdigit()) && word == bare {
        return "DIGEST".to_owned();
    }
    match word.find("-1").filter(|at| word[at + 1..].chars().take_while(char::is_ascii_digit).count() == 13) {
        Some(at) => format!("{}-MS{}", &word[..at], &word[at + 14..]),
        None => word.to_owned(),
    }
}

fn mask_line(line: &str) -> String {
    let mut words: Vec<String> = line.split(' ').map(mask_word).collect();
    for at in 0..words.len() {
        let next = words.get(at + 1).map_or("", String::as_str);
        let varies = (next == "s" && words[at].contains('.')) || next == "bytes,";
        if varies || (at > 0 && words[at - 1] == "process") {
            words[at] = "N".to_owned();
        }
    }
    words.join(" ")
}

/// Runs a command as text and as JSON in the same state of things and writes down what is to be seen.
struct Transcript<'a> {
    folder: &'a Path,
    text: String,
}

impl<'a> Transcript<'a> {
    fn new(folder: &'a Path) -> Self {
        Self { folder, text: String::new() }
    }

    fn run(&mut self, arguments: &[&str]) -> i32 {
        let shown = self.unplaced(&arguments.join(" "));
        let mut command = Command::new(BINARY);
        let output = command.arg("schema").args(arguments).arg("--data-dir").arg(self.folder).output().unwrap();
        let code = output.status.code().unwrap();
        let _ = writeln!(self.text, "$ aurigraph schema {} → {code}", mask_line(&shown));
        let json = arguments.contains(&"--json");
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            let line = self.unplaced(line);
            let line = match serde_json::from_str::<Value>(&line).ok().filter(|_| json) {
                Some(mut value) => {
                    mask_json(&mut value);
                    serde_json::to_string_pretty(&value).unwrap()
                }
                None => mask_line(&line),
            };
            self.text += &(line + "\n");
        }
        let errors = String::from_utf8(output.stderr).unwrap();
        for line in errors.lines().filter(|line| line.starts_with("error: ")) {
            let line = mask_line(&self.unplaced(line));
            self.text += &(line + "\n");
        }
        code
    }

    /// Without the places of this machine.
    fn unplaced(&self, text: &str) -> String {
        let test = std::env::args().next().unwrap();
        text.replace(self.folder.to_str().unwrap(), "DIR").replace(&test, "TEST").replace(BINARY, "aurigraph")
    }

    fn compare(&self, name: &str) {
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../tests/golden/schema/{name}.txt"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, &self.text).unwrap();
        }
        let golden = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(self.text, golden, "{name} differs from its golden file");
    }
}

#[test]
fn status_and_validate_before_and_after_an_upgrade() {
    let folder = first_released();
    let mut seen = Transcript::new(folder.path());
    for arguments in [["status"].as_slice(), &["status", "--json"], &["validate"], &["validate", "--json"]] {
        assert_eq!(seen.run(arguments), 0);
    }
    seen.compare("status-validate");
}

#[test]
fn dry_run_says_what_would_change_and_leaves_nothing_behind() {
    let folder = first_released();
    let mut seen = Transcript::new(folder.path());
    assert_eq!(seen.run(&["dry-run"]), 0);
    assert_eq!(seen.run(&["dry-run", "--json"]), 0);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    seen.compare("dry-run");
}

#[test]
fn upgrade_downgrade_and_finalise() {
    let folder = first_released();
    let mut seen = Transcript::new(folder.path());
    let steps = [
        (["upgrade", "--to", "1"].as_slice(), 0),
        (&["upgrade", "--to", "9"], 5),
        (&["upgrade"], 0),
        (&["upgrade", "--json"], 0),
        (&["downgrade", "--to", "1", "--json"], 0),
        (&["upgrade", "--no-backup"], 0),
        (&["downgrade", "--to", "1"], 0),
        (&["downgrade", "--to", "0"], 5),
        (&["upgrade", "--json"], 0),
        (&["finalise"], 0),
        (&["finalise", "--json"], 0),
        (&["downgrade", "--to", "1"], 5),
        (&["status"], 0),
    ];
    for (arguments, code) in steps {
        assert_eq!(seen.run(arguments), code, "{arguments:?}: {}", seen.text);
    }
    seen.compare("upgrade-downgrade-finalise");
}

/// What kept the first system from starting for days, as its operator would meet it here.
#[test]
fn an_object_that_exists_without_its_history_row_is_explained_and_repaired() {
    let folder = first_released();
    let mut seen = Transcript::new(folder.path());
    assert_eq!(seen.run(&["upgrade", "--no-backup"]), 0);
    forget(folder.path(), plan().newest());
    assert_eq!(seen.run(&["validate"]), 5);
    assert_eq!(seen.run(&["validate", "--json"]), 5);
    assert_eq!(seen.run(&["repair"]), 0);
    assert_eq!(seen.run(&["validate"]), 0);
    assert_eq!(seen.run(&["repair"]), 0);
    forget(folder.path(), 1);
    assert_eq!(seen.run(&["validate"]), 5);
    assert_eq!(seen.run(&["repair", "--json"]), 0);
    assert_eq!(seen.run(&["validate"]), 0);
    let store = Database::open_at(&folder.path().join("store")).unwrap();
    assert_eq!(store.scan(AUDIT, None, 9).unwrap().len(), 3, "nothing was wiped");
    drop(store);
    // Rows that nobody can read, of a version that nobody knows: said, and left alone.
    change(folder.path(), "schema/history", Change::put(&9_u32.to_be_bytes(), &[7; 40]));
    assert_eq!(seen.run(&["repair"]), 5);
    seen.compare("repair");
}

#[test]
fn baseline_records_a_version_on_the_operators_word() {
    let folder = first_released();
    let mut seen = Transcript::new(folder.path());
    forget(folder.path(), 1);
    assert_eq!(seen.run(&["validate"]), 5);
    assert_eq!(seen.run(&["baseline", "--to", "1"]), 0);
    assert_eq!(seen.run(&["baseline", "--to", "2", "--json"]), 0);
    assert_eq!(seen.run(&["baseline", "--to", "1"]), 5);
    seen.compare("baseline");
}

#[test]
fn backup_and_restore_and_a_damaged_backup() {
    let folder = first_released();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let mut seen = Transcript::new(folder.path());
    assert_eq!(seen.run(&["backup", "--out", &at("one.backup")]), 0);
    assert_eq!(seen.run(&["backup", "--out", &at("one.backup")]), 3);
    assert_eq!(seen.run(&["backup", "--json"]), 0);
    assert_eq!(seen.run(&["upgrade", "--no-backup"]), 0);
    assert_eq!(seen.run(&["restore", &at("one.backup")]), 0);
    assert_eq!(seen.run(&["status"]), 0);
    assert_eq!(seen.run(&["repair", "--from-backup", &at("one.backup")]), 0);
    assert_eq!(seen.run(&["restore", "--json", &at("one.backup")]), 0);
    let mut bytes = std::fs::read(at("one.backup")).unwrap();
    bytes.truncate(bytes.len() - 10);
    std::fs::write(at("cut.backup"), bytes).unwrap();
    assert_eq!(seen.run(&["restore", &at("cut.backup")]), 3);
    seen.compare("backup-restore");
}

/// A step of another release, or one whose text was changed after its release.
struct Other {
    version: u32,
    name: &'static str,
}

impl Step for Other {
    fn version(&self) -> u32 {
        self.version
    }
    fn name(&self) -> &str {
        self.name
    }
    fn content(&self) -> &[&str] {
        &["another text"]
    }
    fn advance(&self, _: &dyn Medium, _: Option<&[u8]>) -> Result<Advance, StepError> {
        Ok(Advance::Done)
    }
}

fn applied(folder: &Path, steps: Vec<Box<dyn Step>>) {
    let database = Database::open_at(&folder.join("store")).unwrap();
    Plan::new(steps).unwrap().upgrade_on(&database, "test".into(), None).unwrap();
    database.sync().unwrap();
}

#[test]
fn altered_and_unknown_versions_are_refused_each_with_what_mends_it() {
    let folder = first_released();
    let mut seen = Transcript::new(folder.path());
    applied(folder.path(), vec![Box::new(FirstLayout), Box::new(Other { version: 2, name: "audit_times" })]);
    assert_eq!(seen.run(&["validate"]), 5);
    assert_eq!(seen.run(&["validate", "--json"]), 5);
    assert_eq!(seen.run(&["upgrade"]), 5);

    let newer = first_released();
    let mut later = Transcript::new(newer.path());
    assert_eq!(later.run(&["upgrade", "--no-backup"]), 0);
    let steps: Vec<Box<dyn Step>> = vec![
        Box::new(FirstLayout),
        Box::new(AuditTimes),
        Box::new(KeyTable),
        Box::new(AddressIndex::new(None)),
        Box::new(BlockMeasures),
        Box::new(Other { version: plan().newest() + 1, name: "from_the_future" }),
    ];
    applied(newer.path(), steps);
    assert_eq!(later.run(&["validate"]), 5);
    assert_eq!(later.run(&["validate", "--json"]), 5);
    assert_eq!(later.run(&["upgrade"]), 5);
    assert_eq!(later.run(&["repair"]), 5);
    seen.text += &later.text;
    seen.compare("validate-refusals");
}

/// An index of transactions is made of their bodies, which are in the journal and nowhere else.
#[test]
fn an_upgrade_that_needs_the_journal_says_so_when_there_is_none() {
    let folder = first_released();
    let group = [1_u64.to_be_bytes().as_slice(), &[0; 4]].concat();
    let block = [&[7; 32][..], &[1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1], &[3; 32], &[5], b"block"].concat();
    change(folder.path(), BLOCKS, Change::put(&1_u64.to_be_bytes(), &block));
    change(folder.path(), BLOCK_TRANSACTIONS, Change::put(&group, &[0; 38]));
    let mut seen = Transcript::new(folder.path());
    assert_ne!(seen.run(&["upgrade", "--no-backup"]), 0);
    assert_eq!(seen.run(&["status"]), 0);
    seen.compare("no-journal");
}

#[test]
fn a_store_in_use_or_absent_is_refused_with_words() {
    let folder = first_released();
    let mut seen = Transcript::new(folder.path());
    let held = Database::open_at(&folder.path().join("store")).unwrap();
    assert_eq!(seen.run(&["status"]), 5);
    drop(held);
    let empty = tempfile::tempdir().unwrap();
    let mut absent = Transcript::new(empty.path());
    assert_eq!(absent.run(&["upgrade"]), 5);
    assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "no store is made");
    seen.text += &absent.text;
    seen.compare("refusals");
}
