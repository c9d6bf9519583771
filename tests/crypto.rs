//! `aurigraph crypto`: keys, signatures and key encapsulation over files, and the exit codes.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// Runs a command among these files.
    fn run(&self, command: &str) -> Output {
        run_in(self.0.path(), command)
    }

    #[track_caller]
    fn expect(&self, command: &str, code: i32) -> String {
        let output = self.run(command);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{command}: {said}");
        said
    }
}

fn run_in(folder: &Path, command: &str) -> Output {
    let arguments = command.split_whitespace();
    Command::new(env!("CARGO_BIN_EXE_aurigraph")).current_dir(folder).arg("crypto").args(arguments).output().unwrap()
}

const VERIFY: &str = "verify --public-key a.pub --message m --signature m.sig";

fn signed() -> Folder {
    let folder = Folder::new();
    folder.write("m", b"a message\n");
    folder.expect("keygen --public a.pub --secret a.sec", 0);
    folder.expect("sign --secret a.sec --message m --out m.sig", 0);
    folder
}

#[test]
fn a_signature_is_valid_for_its_message_alone() {
    let folder = signed();
    assert_eq!(
        (folder.read("a.pub").len(), folder.read("a.sec").len(), folder.read("m.sig").len()),
        (2_592, 32, 4_627)
    );
    for back_end in ["fastest", "all", "fips204", "aws-lc", "native-portable"] {
        assert_eq!(folder.expect(&format!("{VERIFY} --back-end {back_end}"), 0), "valid\n");
        let other = VERIFY.replace("--message m ", "--message hex:00 ");
        assert_eq!(folder.expect(&format!("{other} --back-end {back_end}"), 1), "invalid\n");
    }
    let output = folder.run(&format!("{VERIFY} --back-end all --json"));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["valid"], true);
    assert!(json["backEnds"].as_array().unwrap().len() >= 3, "{json}");
}

#[test]
fn a_context_binds_the_signature() {
    let folder = signed();
    folder.write("c", b"context");
    folder.expect(&format!("{VERIFY} --context c"), 1);
    folder.expect("sign --secret a.sec --message m --context c --out m.sig", 0);
    folder.expect(&format!("{VERIFY} --context c --back-end all"), 0);
    folder.expect(VERIFY, 1);
    folder.write("long", &[0; 256]);
    folder.expect(&format!("{VERIFY} --context long"), 1);
    assert!(folder.expect("sign --secret a.sec --message m --context long", 1).contains("255"));
}

#[test]
fn what_cannot_be_used_ends_with_2_and_what_is_refused_with_1() {
    let folder = signed();
    folder.expect("verify --public-key a.pub --message m", 2);
    folder.expect(&VERIFY.replace("a.pub", "nowhere"), 2);
    folder.expect(&VERIFY.replace("--message m", "--message hex:0"), 2);
    assert!(folder.expect(&format!("{VERIFY} --back-end abacus"), 2).contains("aws-lc"));
    folder.expect("sign --secret m --message m", 2);
    folder.expect("keygen --public a.pub --secret a.sec", 2);
    folder.expect("keygen --seed hex:00 --public b.pub --secret b.sec", 2);
    folder.expect("fly", 2);
    // A key or a signature of another length is a signature that is not valid, as with every other caller.
    folder.write("short", &folder.read("m.sig")[1..]);
    folder.expect(&VERIFY.replace("m.sig", "short"), 1);
    folder.expect(&VERIFY.replace("a.pub", "m"), 1);
}

#[test]
fn a_seed_gives_the_same_keys_again_and_secrets_are_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = signed();
    folder.expect("keygen --seed a.sec --public b.pub --secret b.sec", 0);
    assert_eq!(folder.read("a.pub"), folder.read("b.pub"));
    for secret in ["a.sec", "b.sec"] {
        let mode = std::fs::metadata(folder.path(secret)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{secret}");
    }
}

#[test]
fn an_encapsulated_secret_comes_out_again_and_a_wrong_ciphertext_gives_another() {
    let folder = Folder::new();
    folder.expect("keygen ml-kem-1024 --public k.pub --secret k.sec", 0);
    folder.expect("encaps --public-key k.pub --ciphertext c --secret s", 0);
    folder.expect("decaps --secret-key k.sec --ciphertext c --out t", 0);
    assert_eq!((folder.read("s").len(), folder.read("s")), (32, folder.read("t")));
    let mut wrong = folder.read("c");
    wrong[100] ^= 1;
    folder.write("w", &wrong);
    folder.expect("decaps --secret-key k.sec --ciphertext w --out u", 0);
    assert_ne!(folder.read("s"), folder.read("u"), "implicit rejection");
    folder.write("w", &wrong[1..]);
    assert!(folder.expect("decaps --secret-key k.sec --ciphertext w --out v", 1).contains("1567 bytes"));
    folder.write("bad.pub", &[0xff; 1_568]);
    folder.expect("encaps --public-key bad.pub --ciphertext x --secret y", 1);
    assert!(!folder.path("y").exists() && !folder.path("v").exists());
    folder.expect("encaps --public-key k.pub --ciphertext c --secret s", 2);
    folder.expect("decaps --secret-key nowhere --ciphertext c --out t2", 2);
}

#[test]
fn the_bench_reports_every_back_end() {
    let folder = Folder::new();
    let output = folder.run("bench --round-ms 1 --json");
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    let rates = json["rates"].as_array().unwrap();
    for back_end in ["fips204", "aws-lc", "native-portable", "fips203"] {
        let rate = rates.iter().find(|rate| rate["backEnd"] == back_end).unwrap();
        assert!(rate["perCore"].as_u64() > Some(0) && rate["allCores"].as_u64() > Some(0), "{rate}");
    }
    assert!(folder.expect("bench --round-ms 0", 2).contains("--round-ms"));
}

#[test]
fn every_command_explains_itself_and_its_exit_codes() {
    let folder = Folder::new();
    for command in ["keygen", "sign", "verify", "encaps", "decaps"] {
        assert!(folder.expect(&format!("{command} --help"), 0).contains("Exit codes:"), "{command}");
    }
    assert!(folder.expect("--help", 0).contains("bench"));
}
