//! `aurigraph doctor` on directories that are in order, and on ones that are not.
#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use aurigraph_actors::Fatal;
use aurigraph_actors::config::ClusterConfig;
use aurigraph_actors::storage::{Journal, JournalIdentity, JournalOptions, Store, StoreOptions};
use aurigraph_schema_upgrades::replace;
use serde_json::Value;

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../cluster-configs/four-validators.toml")
}

/// A folder of v1 as a node leaves it that was started and stopped at once.
fn stopped_node(base: &Path) -> PathBuf {
    let dir = base.join("v1");
    drop(open(&dir));
    drop(Store::open(&dir, "v1", StoreOptions::default()).unwrap());
    dir
}

fn open(dir: &Path) -> Journal {
    let config = ClusterConfig::load(&config()).unwrap();
    let key = config.genesis.validators[0].consensus_key.as_bytes();
    let identity = JournalIdentity::new(config.genesis.chain_id(), "v1", Some(key));
    let options = JournalOptions { initialise: true, ..JournalOptions::default() };
    Journal::open(dir, &identity, options, Fatal::default()).unwrap()
}

/// Exit code, and what was found, by check: the worst of each.
fn doctor(dir: &Path) -> (i32, impl Fn(&str) -> (String, String) + use<>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_aurigraph"));
    let output =
        command.args(["doctor", "--json", "--config"]).arg(config()).arg("--data-dir").arg(dir).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    let code = output.status.code().unwrap();
    assert_eq!(report["healthy"].as_bool().unwrap(), code == 0, "{text}");
    (code, move |check: &str| {
        let findings = report["findings"].as_array().unwrap();
        let found = findings.iter().rfind(|finding| finding["check"] == check);
        let found = found.unwrap_or_else(|| panic!("nothing is said of {check}: {report}"));
        if found["state"] == "wrong" && check != "store" {
            assert!(found["mend"].is_string(), "{found}");
        }
        (found["state"].as_str().unwrap().to_owned(), found["found"].as_str().unwrap().to_owned())
    })
}

#[test]
fn a_directory_in_order_has_nothing_wrong_and_is_left_as_it_is() {
    let base = tempfile::tempdir().unwrap();
    let dir = stopped_node(base.path());
    let journal = |dir: &Path| std::fs::read(dir.join("journal/000001.seg")).unwrap();
    let before = journal(&dir);
    let (code, found) = doctor(&dir);
    assert_eq!(code, 0);
    for check in ["config", "directory", "owner", "journal", "tail", "log", "schema"] {
        assert_eq!(found(check).0, "good", "{check}: {}", found(check).1);
    }
    assert_eq!(found("state").0, "remark", "a new node has stored no state");
    assert_eq!(journal(&dir), before);
}

#[test]
fn what_a_rewriting_of_the_store_left_is_named_and_a_store_not_in_its_place_is_found() {
    let base = tempfile::tempdir().unwrap();
    let dir = stopped_node(base.path());
    let (place, copy) = (dir.join("store"), dir.join("store.rewrite-1795478400007"));
    std::fs::create_dir(&copy).unwrap();
    let (code, found) = doctor(&dir);
    let (state, text) = found("marks");
    assert_eq!((code, state.as_str()), (0, "remark"));
    assert!(text.contains("store.rewrite-1795478400007"), "{text}");
    std::fs::remove_dir(&copy).unwrap();

    // Replaced, and the old one removed: only the note says where the store is.
    replace::adopt(&place, &copy).unwrap();
    std::fs::rename(&place, &copy).unwrap();
    let (code, found) = doctor(&dir);
    assert_eq!((code, found("marks").0.as_str(), found("schema").0.as_str()), (0, "remark", "good"));
    assert!(!place.exists() && copy.is_dir(), "it is looked at where it is");
}

#[test]
fn each_fault_is_named_with_what_mends_it() {
    let base = tempfile::tempdir().unwrap();
    let dir = stopped_node(base.path());

    let held = open(&dir);
    let (code, found) = doctor(&dir);
    let (state, text) = found("journal");
    assert_eq!((code, state.as_str(), found("store").0.as_str()), (5, "wrong", "skipped"));
    assert!(text.contains(&format!("is used by process {}", std::process::id())), "{text}");
    drop(held);

    let other = base.path().join("v2");
    std::fs::rename(&dir, &other).unwrap();
    let (code, found) = doctor(&other);
    assert_eq!((code, found("owner").0.as_str()), (5, "wrong"));
    std::fs::rename(&other, &dir).unwrap();

    std::fs::write(dir.join("store.suspect"), "sled panicked on the store").unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let (code, found) = doctor(&dir);
    assert_eq!((code, found("marks").0.as_str(), found("directory").0.as_str()), (0, "remark", "remark"));

    std::fs::rename(dir.join("store"), base.path().join("gone")).unwrap();
    let (code, found) = doctor(&dir);
    assert_eq!((code, found("store").0.as_str()), (0, "remark"));
    assert!(!dir.join("store").exists(), "none is made");

    let segment = dir.join("journal/000001.seg");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes[60] ^= 1;
    bytes[4_000] = 1;
    std::fs::write(&segment, &bytes).unwrap();
    let (code, found) = doctor(&dir);
    assert_eq!((code, found("journal").0.as_str()), (5, "wrong"), "{}", found("journal").1);
    assert_eq!(std::fs::read(&segment).unwrap(), bytes, "nothing is mended behind the operator's back");

    let (code, found) = doctor(&base.path().join("v3"));
    assert_eq!((code, found("directory").0.as_str()), (5, "wrong"));
}
