//! The command line: help, refusals with their exit codes, and the way from new keys to a running chain.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use aurigraph_testkit::{Client, Cluster, Options, eventually, ports};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_aurigraph");

fn run(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs a command that must succeed and gives its JSON.
fn json(arguments: &[&str]) -> Value {
    let output = run(&[&["--json"], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", text(&output));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{arguments:?}: {error}: {}", text(&output)))
}

fn refused(arguments: &[&str], code: i32, words: &str) {
    let output = run(arguments);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(words), "{arguments:?} should say {words:?}, says {said}");
}

#[test]
fn every_command_explains_itself() {
    let commands: [&[&str]; 63] = [
        &[],
        &["up"],
        &["node"],
        &["genesis"],
        &["genesis", "create"],
        &["keys"],
        &["keys", "new"],
        &["keys", "show"],
        &["keys", "address"],
        &["keys", "encrypt"],
        &["keys", "decrypt"],
        &["keys", "encryption"],
        &["seal"],
        &["open"],
        &["gpu"],
        &["gpu", "list"],
        &["gpu", "selftest"],
        &["gpu", "bench"],
        &["crypto"],
        &["crypto", "bench"],
        &["tx"],
        &["tx", "transfer"],
        &["tx", "bundle"],
        &["tx", "encryption-key"],
        &["tx", "anchor"],
        &["tx", "status"],
        &["stake"],
        &["stake", "bond"],
        &["stake", "delegate"],
        &["stake", "undelegate"],
        &["stake", "unbond"],
        &["stake", "withdraw"],
        &["stake", "join"],
        &["stake", "leave"],
        &["stake", "commission"],
        &["stake", "rotate"],
        &["stake", "unjail"],
        &["stake", "maintenance"],
        &["stake", "show"],
        &["status"],
        &["proof"],
        &["proof", "tx"],
        &["proof", "account"],
        &["proof", "verify"],
        &["chain", "verify"],
        &["bench"],
        &["doctor"],
        &["schema"],
        &["schema", "status"],
        &["schema", "validate"],
        &["schema", "dry-run"],
        &["schema", "upgrade"],
        &["schema", "downgrade"],
        &["schema", "repair"],
        &["schema", "baseline"],
        &["schema", "backup"],
        &["schema", "restore"],
        &["schema", "finalise"],
        &["snapshot"],
        &["snapshot", "list"],
        &["snapshot", "create"],
        &["snapshot", "verify"],
        &["snapshot", "restore"],
    ];
    for command in commands {
        let output = run(&[command, &["--help"]].concat());
        assert!(output.status.success(), "{command:?}");
        assert!(text(&output).contains("Usage: aurigraph"), "{command:?}");
    }
    assert!(text(&run(&["--help"])).contains("Exit codes:"));
    for command in ["up", "node", "status", "bench"] {
        assert!(text(&run(&[command, "--help"])).contains("Examples:"), "{command}");
    }
}

#[test]
fn wrong_command_lines_files_and_nodes_have_exit_codes_and_words() {
    refused(&["fly"], 2, "fly");
    refused(&["tx", "transfer"], 2, "--key");
    refused(&["up", "nowhere.toml"], 3, "nowhere.toml: there is no such file");
    refused(&["status", "--url", "http://127.0.0.1:1"], 6, "127.0.0.1:1");
    refused(&["tx", "status", "0x12", "--url", "http://127.0.0.1:1"], 1, "64 hex digits");

    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("bad.toml");
    std::fs::write(&config, "[genesis]\nmode = \"development\"\n[[node]]\nname = \"v1\"\nrest = 5\n").unwrap();
    refused(&["up", config.to_str().unwrap()], 3, "bad.toml:5: node[1].rest");
    let output = run(&["--json", "up", config.to_str().unwrap()]);
    let line: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(line["exit"], 3);
}

#[test]
fn keys_are_private_files_that_are_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("alice.json");
    let path = file.to_str().unwrap();
    let made = json(&["keys", "new", "--out", path]);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(json(&["keys", "address", path])["address"], made["address"]);
    let shown = json(&["keys", "show", path]);
    assert_eq!(shown["publicKey"].as_str().unwrap().len(), 2 + 2 * 2_592);
    assert!(!shown.to_string().contains("seed"));
    refused(&["keys", "new", "--out", path], 3, "exists already");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    refused(&["keys", "address", path], 3, "chmod 600");
}

fn write_config(folder: &Path, data: &str, rest: &str, listen: &str) -> String {
    let config = folder.join(format!("{data}.toml"));
    let text = format!(
        "[genesis]\nfile = \"genesis.toml\"\n[[node]]\nname = \"v1\"\nrest = \"{rest}\"\nlisten = \"{listen}\"\n\
         secrets = \"v1.key.json\"\n"
    );
    std::fs::write(&config, text).unwrap();
    config.to_str().unwrap().to_owned()
}

/// Alice operates v1 and bonds to it, Bob delegates and takes it back, a second validator registers.
fn stake(folder: &tempfile::TempDir, url: &str, bob: &str) {
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let with = |command: &str, who: &str, more: &[&str]| -> Vec<String> {
        let start = ["stake", command, "--key", &at(who), "--wait", "--url", url];
        start.iter().chain(more).map(|argument| (*argument).to_owned()).collect()
    };
    let done = |arguments: Vec<String>| {
        let sent = json(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(sent["status"], "committed", "{arguments:?}: {sent}");
        sent
    };
    let v1 = ["--validator", "v1"];
    let sent = done(with("bond", "alice.json", &["--validator", "v1", "--amount", "5"]));
    let operation = &sent["operations"][0];
    assert_eq!((&operation["type"], &operation["validator"]), (&Value::from("bond"), &Value::from(0)));
    done(with("delegate", "bob.json", &["--validator", "v1", "--amount", "1.5"]));
    let shown = json(&["stake", "show", "--validator", "v1", "--url", url]);
    let figures = ["selfStake", "delegatedStake", "stake"].map(|name| shown[name].as_str().unwrap().to_owned());
    assert_eq!(figures, ["6000000000000000000", "1500000000000000000", "7500000000000000000"]);
    assert_eq!((&shown["delegators"], &shown["votes"]), (&Value::from(1), &Value::from(1)));

    done(with("undelegate", "bob.json", &["--validator", "v1", "--amount", "all"]));
    let account = json(&["stake", "show", "--account", bob, "--url", url]);
    assert_eq!(account["unbonding"][0]["amount"], "1500000000000000000");
    assert_eq!((&account["stake"], &account["unbonding"][0]["released"]), (&Value::from("0"), &Value::from(false)));
    let too_early = with("withdraw", "bob.json", &v1);
    refused(&too_early.iter().map(String::as_str).collect::<Vec<_>>(), 7, "nothing_to_withdraw");
    let not_hers = with("commission", "bob.json", &["--validator", "v1", "--percent", "1"]);
    refused(&not_hers.iter().map(String::as_str).collect::<Vec<_>>(), 7, "not_operator");

    json(&["keys", "new", "node", "--name", "v2", "--out", &at("v2.key.json")]);
    let join = ["--node-keys", &at("v2.key.json"), "--name", "v2", "--amount", "10", "--commission", "2.5"];
    done(with("join", "alice.json", &join));
    let shown = json(&["stake", "show", "--validator", "v2", "--url", url]);
    assert_eq!((&shown["row"], &shown["commission"]), (&Value::from(1), &Value::from(0.025)));
    assert_eq!(shown["index"], Value::Null, "not of this epoch's set");
}

/// Bob registers an encryption key and rotates it, Alice seals to both and anchors what she sealed.
fn envelopes(folder: &tempfile::TempDir, url: &str, alice: &str, bob: &str) {
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, bobs, plain) = (at("alice.json"), at("bob.json"), at("deed"));
    std::fs::write(&plain, b"the deed").unwrap();
    let seal = |to: &str, out: &str| {
        ["seal", "--to", to, "--from", alice, "--file", &plain, "--out", &at(out), "--node", url].map(str::to_owned)
    };
    let none = seal(bob, "none");
    refused(&none.each_ref().map(String::as_str), 7, "no encryption key");

    for number in 0..2 {
        let sent = json(&["tx", "encryption-key", "--key", &bobs, "--wait", "--url", url]);
        let operation = &sent["operations"][0];
        assert_eq!((&operation["type"], &operation["keyNumber"]), (&"encryption_key".into(), &number.into()));
        let sealed = json(&seal(bob, &format!("deed.{number}")).each_ref().map(String::as_str));
        assert_eq!(sealed["keyNumber"], number);
    }
    let again = ["tx", "encryption-key", "--key", &bobs, "--number", "1", "--wait", "--url", url];
    refused(&again, 7, "encryption_key_number_too_low");

    let (first, opened) = (at("deed.0"), at("opened"));
    let open = ["open", "--key", &bobs, "--file", &first, "--out", &opened, "--node", url];
    refused(&open, 7, "has not anchored");
    assert!(!Path::new(&opened).exists());
    refused(&["tx", "anchor", "--key", &bobs, "--file", &first, "--url", url], 3, "sealed it");
    let anchor = ["tx", "anchor", "--key", &key, "--file", &first, "--wait", "--url", url];
    let height = json(&anchor)["blockHeight"].clone();
    refused(&anchor, 7, "envelope_already_anchored");
    let shown = json(&open);
    assert_eq!((&shown["anchoredAt"], &shown["from"]), (&height, &Value::from(alice)));
    assert_eq!(std::fs::read(&opened).unwrap(), b"the deed");
    // To the second key, and without asking anybody.
    json(&["open", "--key", &bobs, "--file", &at("deed.1"), "--out", &at("opened.1")]);
    assert_eq!(std::fs::read(at("opened.1")).unwrap(), b"the deed");
}

#[tokio::test(flavor = "multi_thread")]
async fn from_new_keys_to_a_chain_that_commits() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    json(&["keys", "new", "node", "--name", "v1", "--out", &at("v1.key.json")]);
    let alice = json(&["keys", "new", "--out", &at("alice.json")])["address"].as_str().unwrap().to_owned();
    let bob = json(&["keys", "new", "--out", &at("bob.json")])["address"].as_str().unwrap().to_owned();
    let created = json(&[
        "genesis",
        "create",
        "--network",
        "test",
        "--validator",
        &at("v1.pub.json"),
        "--account",
        &format!("{alice}=1000"),
        "--operator",
        &format!("v1={alice}"),
        "--out",
        &at("genesis.toml"),
    ]);
    assert!(created["chainId"].as_str().unwrap().starts_with("0x"));

    let (rest, listen) = (ports::free().to_string(), ports::free().to_string());
    let (config, data) = (write_config(folder.path(), "net", &rest, &listen), at("data"));
    let node = ["node", "--config", &config, "--name", "v1", "--data-dir", &data];
    refused(&node, 5, "never initialised");
    let mut child = Command::new(BINARY)
        .args(node)
        .args(["--init", "--stop-with-stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let url = format!("http://{rest}");
    let client = Client::new(&url);
    eventually("the node is ready", Duration::from_secs(60), || async {
        (client.get("/ready").await.status == 200).then_some(())
    })
    .await;
    refused(&node, 4, "is in use");

    // The first transaction carries the key, the second names the account by its index.
    for amount in ["1.5", "2.25"] {
        let sent = json(&[
            "tx",
            "transfer",
            "--key",
            &at("alice.json"),
            "--to",
            &bob,
            "--amount",
            amount,
            "--memo",
            "hi",
            "--wait",
            "--url",
            &url,
        ]);
        assert_eq!(sent["status"], "committed");
    }
    std::fs::write(at("transfers.csv"), format!("# to, amount\n{bob},1\n0,0.25\n")).unwrap();
    let bundle = ["tx", "bundle", "--key", &at("bob.json"), "--file", &at("transfers.csv"), "--wait", "--url", &url];
    let sent = json(&bundle);
    // Bob's transfer to himself fails, the other one does not.
    assert_eq!((sent["status"].as_str(), sent["operationCount"].as_u64()), (Some("committed"), Some(2)));
    let hash = sent["hash"].as_str().unwrap();
    assert_eq!(json(&["tx", "status", hash, "--url", &url])["status"], "committed");
    let balance = client.read(&format!("/gateway/balance/{bob}")).await;
    let left: u128 = balance["balance"].as_str().unwrap().parse().unwrap();
    assert!(left < 3_500_000_000_000_000_000 && left > 3_490_000_000_000_000_000, "{left}");
    refused(
        &["tx", "transfer", "--key", &at("bob.json"), "--to", &alice, "--amount", "1000000", "--wait", "--url", &url],
        7,
        "",
    );
    stake(&folder, &url, &bob);
    envelopes(&folder, &url, &alice, &bob);
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let verified = json(&["chain", "verify", "--config", &config, "--data-dir", &format!("{data}/v1")]);
    assert_eq!(verified["valid"], true);
    assert!(verified["transactions"].as_u64().unwrap() >= 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_another_chain_or_node_is_refused() {
    let mut cluster = Cluster::start(BINARY, "single-validator.toml", Options::default()).await;
    cluster.stop(0);
    let data = cluster.data_dir();
    let config = cluster.config_file(0).to_owned();
    let text = std::fs::read_to_string(&config).unwrap();
    let start = |config: &Path, name: &str| {
        refused(
            &["node", "--config", config.to_str().unwrap(), "--name", name, "--data-dir", data.to_str().unwrap()],
            5,
            "belongs to",
        );
    };
    let other_chain = data.join("other-chain.toml");
    std::fs::write(&other_chain, text.replace("seed = \"", "seed = \"other ")).unwrap();
    start(&other_chain, "v1");

    std::fs::rename(data.join("v1"), data.join("v2")).unwrap();
    let other_node = data.join("other-node.toml");
    std::fs::write(&other_node, text.replace("name = \"v1\"", "name = \"v2\"")).unwrap();
    start(&other_node, "v2");
}

#[tokio::test(flavor = "multi_thread")]
async fn up_runs_reports_and_stops_a_cluster_in_order() {
    let cluster = Cluster::prepare(BINARY, "four-validators.toml", Options::default()).await;
    let data = cluster.data_dir();
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["--json", "up"]).arg(cluster.config_file(0)).arg("--data-dir").arg(&data);
    let mut up = command.stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true).spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(up.stdout.take().unwrap()));
    let mut pids = Vec::new();
    for node in 0..4 {
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap().unwrap();
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["node"], cluster.name(node));
        assert!(line["height"].is_u64() && line["url"].is_string());
        pids.push(line["pid"].as_u64().unwrap());
    }
    let tokens: Value = serde_json::from_slice(&std::fs::read(data.join("dev/tokens.json")).unwrap()).unwrap();
    assert_eq!(tokens["admin"]["token"], cluster.admin_token());

    // A node that dies is reported, with the command that brings it back.
    assert!(Command::new("kill").args(["-9", &pids[2].to_string()]).status().unwrap().success());
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap().unwrap();
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((line["event"].as_str(), line["node"].as_str()), (Some("died"), Some("v3")));
    assert!(line["restart"].as_str().unwrap().contains("--name v3"));

    let began = std::time::Instant::now();
    assert!(Command::new("kill").args(["-INT", &up.id().unwrap().to_string()]).status().unwrap().success());
    assert!(up.wait().await.unwrap().success());
    // Within five seconds on a quiet machine; a node that does not stop in order is killed by its deadline, which says so.
    println!("stopping took {:?}", began.elapsed());
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "node process {pid} is still there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_node_outlives_an_up_that_was_killed() {
    let cluster = Cluster::prepare(BINARY, "single-validator.toml", Options::default()).await;
    let mut command = tokio::process::Command::new(BINARY);
    command.args(["--json", "up"]).arg(cluster.config_file(0)).arg("--data-dir").arg(cluster.data_dir());
    let mut up = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(up.stdout.take().unwrap()));
    let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await.unwrap().unwrap().unwrap();
    let pid = serde_json::from_str::<Value>(&line).unwrap()["pid"].as_u64().unwrap();
    up.kill().await.unwrap();
    eventually("the node has ended", Duration::from_secs(60), || async {
        (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bench_sends_from_accounts_of_its_own_that_it_funds_and_uses_again() {
    let cluster = Cluster::start(BINARY, "single-validator.toml", Options::default()).await;
    let bench = |more: &[&str]| {
        let config = cluster.config_file(0).to_str().unwrap();
        let load = ["bench", "--config", config, "--operations-per-signature", "20", "--rate", "30"];
        let report = json(&[&load[..], &["--duration", "2s", "--warm-up", "1s"], more].concat());
        assert!(report["committedOperations"].as_u64().unwrap() > 0, "{report}");
        assert_eq!(report["failedOperations"], 0, "{report}");
        assert_eq!(report["generator"]["requests"]["refusedTransactions"], 0, "{report}");
        report
    };
    let first = bench(&[]);
    assert_eq!((first["accounts"].as_u64(), first["senders"].as_u64()), (Some(100_000), Some(100_000)));
    assert!((80..=90).contains(&first["sendersDrawn"].as_u64().unwrap()), "{first}");
    // Registered by now, and with other nonces.
    bench(&[]);
    // Few enough for the genesis' own signers.
    let few = bench(&["--senders", "8", "--accounts", "50"]);
    assert_eq!((few["accounts"].as_u64(), few["senders"].as_u64()), (Some(50), Some(8)));
}

#[test]
fn an_encrypted_key_file_opens_with_its_passphrase_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, passphrase, wrong) = (path("alice.key.json"), path("passphrase"), path("wrong"));
    private(&passphrase, "correct horse\n");
    private(&wrong, "incorrect horse\n");
    let made = json(&["keys", "new", "--out", &key, "--encrypt", "--passphrase-file", &passphrase]);
    let text = std::fs::read_to_string(&key).unwrap();
    assert!(text.contains("argon2id") && !text.contains("seed"), "{text}");
    let address = json(&["keys", "address", &key, "--passphrase-file", &passphrase])["address"].clone();
    assert_eq!(address, made["address"]);
    refused(&["keys", "address", &key, "--passphrase-file", &wrong], 3, "the passphrase is wrong");
    refused(&["keys", "address", &key, "--passphrase-env", "NOT_SET_HERE"], 3, "holds no passphrase");
    refused(&["keys", "encrypt", &key, "--passphrase-file", &passphrase], 3, "is encrypted already");
    json(&["keys", "decrypt", &key, "--passphrase-file", &passphrase]);
    assert!(std::fs::read_to_string(&key).unwrap().contains("seed"));
    refused(&["keys", "decrypt", &key, "--passphrase-file", &passphrase], 3, "is not encrypted");
    let mut encrypt = Command::new(BINARY);
    encrypt.args(["keys", "encrypt", &key, "--passphrase-env", "ALICES"]).env("ALICES", "battery staple");
    assert!(encrypt.output().unwrap().status.success());
    private(&passphrase, "battery staple");
    assert_eq!(json(&["keys", "address", &key, "--passphrase-file", &passphrase])["address"], address);
    assert!(!Path::new(&path("alice.key.json.new")).exists());
}

#[test]
fn a_sealed_file_opens_with_the_recipients_key_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (alice, bob) = (path("alice.key.json"), path("bob.key.json"));
    let from = json(&["keys", "new", "--out", &alice])["address"].as_str().unwrap().to_owned();
    json(&["keys", "new", "--out", &bob]);
    let (key, plain, sealed) = (path("bob.enc.json"), path("deed"), path("deed.sealed"));
    json(&["keys", "encryption", &bob, "--out", &key]);
    std::fs::write(&plain, b"the deed\0 of a house").unwrap();
    let chain = format!("0x{}", "12".repeat(32));
    let seal = ["seal", "--from", &from, "--chain", &chain, "--file", &plain, "--out", &sealed, "--to"];
    let made = json(&[&seal[..], &[&key]].concat());
    let out = path("opened");
    let opened = json(&["open", "--key", &bob, "--file", &sealed, "--out", &out, "--chain", &chain]);
    assert_eq!(std::fs::read(&out).unwrap(), b"the deed\0 of a house");
    assert_eq!((&opened["digest"], &opened["from"]), (&made["digest"], &Value::from(from.as_str())));
    let again = path("again");
    refused(&["open", "--key", &alice, "--file", &sealed, "--out", &again], 1, "sealed to another key");
    let other = format!("0x{}", "13".repeat(32));
    let elsewhere = ["open", "--key", &bob, "--file", &sealed, "--out", &again, "--chain", &other];
    refused(&elsewhere, 1, "belongs to the chain");
    assert!(!Path::new(&again).exists());
    // An encryption key that its account did not sign is not sealed to.
    let text = std::fs::read_to_string(&key).unwrap();
    let mut forged: Value = serde_json::from_str(&text).unwrap();
    let digits = forged["encryptionKey"].as_str().unwrap();
    // Whatever the key ends in, the forged one ends otherwise.
    let (rest, last) = digits.split_at(digits.len() - 2);
    forged["encryptionKey"] = format!("{rest}{}", if last == "00" { "01" } else { "00" }).into();
    let forged_file = path("forged.enc.json");
    std::fs::write(&forged_file, forged.to_string()).unwrap();
    refused(&[&seal[..], &[&forged_file]].concat(), 3, "did not sign this encryption key");
}

#[test]
fn gpus_are_listed_or_their_absence_is_explained() {
    let list = json(&["gpu", "list"]);
    if list["devices"].as_array().unwrap().is_empty() {
        assert!(list["why"].as_str().unwrap().contains("CUDA device"), "{list}");
        refused(&["gpu", "selftest"], 8, "CUDA device");
        refused(&["gpu", "bench"], 8, "CUDA device");
    }
}

fn private(path: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}
