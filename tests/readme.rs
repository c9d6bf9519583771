//! The README's commands, run as they are written there, in their order.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fs2::FileExt as _;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");
/// A block of commands that is run, and may be seen to work: its exit code is 0.
const MARK: &str = "<!-- run -->\n```sh\n";
/// The block that starts the cluster and does not return.
const MARK_START: &str = "<!-- start -->\n```sh\n";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

fn blocks<'a>(text: &'a str, mark: &str) -> Vec<&'a str> {
    text.split(mark).skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

/// Ends the cluster also when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-INT", &self.0.id().to_string()]).status();
        let _ = self.0.wait();
    }
}

/// A shell in which `cargo run --release --` and `aurigraph` are the binary under test.
fn shell(script: &str, folder: &Path) -> Command {
    let script = script.replace("cargo run --release --", "aurigraph");
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["-euo", "pipefail", "-c", &script]).env("PATH", path).current_dir(folder);
    command
}

#[test]
fn the_readme_works_as_written() {
    let turn = std::env::temp_dir().join("aurigraph-testkit.lock");
    let turn = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(turn).unwrap();
    turn.lock_exclusive().unwrap();
    let text = std::fs::read_to_string(root().join("README.md")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::os::unix::fs::symlink(BINARY, folder.path().join("bin/aurigraph")).unwrap();
    // The commands name the configs as from the repository's root, and write beside them.
    std::os::unix::fs::symlink(root().join("cluster-configs"), folder.path().join("cluster-configs")).unwrap();

    let start = blocks(&text, MARK_START);
    assert_eq!(start.len(), 1, "one block starts the cluster");
    let log = std::fs::File::create(folder.path().join("up.log")).unwrap();
    // `exec`, so that the signal reaches the program and not the shell around it.
    let up = shell(&format!("exec {}", start[0]), folder.path()).stdin(Stdio::null()).stdout(log).spawn().unwrap();
    let _up = Running(up);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !std::fs::read_to_string(folder.path().join("up.log")).unwrap().contains("ready;") {
        assert!(Instant::now() < deadline, "the cluster is not ready");
        std::thread::sleep(Duration::from_millis(100));
    }
    let commands = blocks(&text, MARK);
    assert!(commands.len() >= 5, "the walk-through is there");
    for script in commands {
        let output = shell(script, folder.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{script}\n{said}\n{}", String::from_utf8_lossy(&output.stderr));
        println!("{script}{said}");
    }
}
