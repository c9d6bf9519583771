//! Configs of the repository, refusals by line and field, and the defaults.

use std::path::{Path, PathBuf};

use super::*;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../cluster-configs").join(name)
}

fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

/// The refusal of a text, without the folder it was written to.
fn refusal(text: &str) -> String {
    let (folder, path) = written(text);
    let error = ClusterConfig::load(&path).unwrap_err().to_string();
    error.replace(&format!("{}/", folder.path().display()), "")
}

const NODE: &str = "[[node]]\nname = \"v1\"\nrest = \"127.0.0.1:9003\"\nlisten = \"127.0.0.1:9004\"\n";
const GENESIS: &str = "[genesis]\nmode = \"development\"\nseed = \"s\"\naccounts = 3\nsigners = 2\n";

#[test]
fn the_shipped_development_configs_load_and_give_every_node_its_settings() {
    for (name, validators) in [("single-validator.toml", 1), ("four-validators.toml", 4), ("seven-validators.toml", 7)]
    {
        let config = ClusterConfig::load(&shipped(name)).unwrap();
        assert_eq!(config.genesis.validators.len(), validators, "{name}");
        for node in &config.nodes {
            let settings = config.node_settings(&node.name, Path::new("base"), true).unwrap();
            assert_eq!(settings.peers.len(), validators - 1);
            assert_eq!(settings.data_dir, Path::new("base").join(&node.name));
            let index = usize::from(settings.validator.unwrap());
            let key = public_key_of_seed(&settings.seeds.consensus.unwrap());
            assert_eq!(config.genesis.validators[index].consensus_key.as_bytes(), key);
        }
    }
}

#[test]
fn four_validators_answer_on_the_documented_ports() {
    let config = ClusterConfig::load(&shipped("four-validators.toml")).unwrap();
    let ports: Vec<_> = config.nodes.iter().map(|node| node.rest.port()).collect();
    assert_eq!(ports, [9003, 9013, 9023, 9033]);
    assert!(config.genesis.accounts.len() >= 100_000);
}

#[test]
fn the_example_for_several_hosts_fails_only_for_its_missing_genesis_file() {
    let error = ClusterConfig::load(&shipped("four-hosts.example.toml")).unwrap_err();
    assert!(matches!(&error, ConfigError::Missing(path) if path.ends_with("genesis.toml")), "{error}");
}

#[test]
fn every_field_of_the_shipped_configs_is_explained_where_it_first_stands() {
    for entry in std::fs::read_dir(shipped("")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let (mut explained, mut before) = (std::collections::HashSet::new(), "");
        for line in text.lines() {
            if let Some((key, _)) = line.split_once('=').filter(|_| !line.starts_with('#'))
                && explained.insert(key.trim().to_owned())
            {
                assert!(before.starts_with('#'), "{}: {key} has no comment above it", path.display());
            }
            before = line;
        }
    }
}

#[test]
fn keys_follow_from_the_seed_and_the_name_alone() {
    let load = |seed: &str| {
        let (_folder, path) = written(&format!("{}{NODE}", GENESIS.replace("\"s\"", &format!("{seed:?}"))));
        ClusterConfig::load(&path).unwrap().genesis.chain_id()
    };
    assert_eq!(load("a"), load("a"));
    assert_ne!(load("a"), load("b"));
}

#[test]
fn development_accounts_have_keys_up_to_the_number_of_signers() {
    let (_folder, path) = written(&format!("{GENESIS}{NODE}"));
    let config = ClusterConfig::load(&path).unwrap();
    let with_key: Vec<_> = config.genesis.accounts.iter().map(|account| account.public_key.is_some()).collect();
    assert_eq!(with_key, [true, true, false]);
}

#[test]
fn a_refusal_names_file_line_and_field() {
    let table = [
        (format!("{GENESIS}{NODE}stakes = 2\n"), "cluster.toml:10: node[1].stakes: unknown field"),
        (format!("{GENESIS}{NODE}stake = \"two\"\n"), "cluster.toml:10: node[1].stake: invalid type"),
        (format!("{GENESIS}{NODE}stake = 0\n"), "cluster.toml: stake is 0"),
        (
            format!("{GENESIS}[[node]]\nname = \"v1\"\nrest = \"127.0.0.1:1\"\n"),
            "cluster.toml:6: node[1].listen: missing field",
        ),
        (format!("{GENESIS}{NODE}{NODE}"), "cluster.toml:11: node[2].name: \"v1\" is the name of an earlier node"),
        (
            format!("{GENESIS}{NODE}{}", NODE.replace("v1", "v2")),
            "cluster.toml:12: node[2].rest: 127.0.0.1:9003 is already used by node \"v1\"",
        ),
        (
            format!("{GENESIS}{}", NODE.replace("127.0.0.1:9004", "10.0.0.1:9004")),
            "cluster.toml:9: node[1].listen: 10.0.0.1:9004 is not a loopback address",
        ),
        (format!("{GENESIS}{}", NODE.replace("9003", "nine")), "cluster.toml:8: node[1].rest: invalid socket address"),
        (GENESIS.to_owned(), "cluster.toml:1: genesis: the config has no [[node]]"),
        (NODE.to_owned(), "cluster.toml:1: genesis: missing field"),
        (format!("[genesis]\n{NODE}"), "cluster.toml:1: genesis: needs mode"),
        (format!("[genesis]\nmode = \"test\"\n{NODE}"), "cluster.toml:2: genesis.mode: \"test\" is no genesis mode"),
        (
            format!("{}{NODE}", GENESIS.replace("signers = 2", "signers = 4")),
            "cluster.toml:5: genesis.signers: is 4, allowed is 1 to 3",
        ),
        (
            format!("{GENESIS}{NODE}[pacing]\nbatch_delay_ms = 0\n"),
            "cluster.toml:11: pacing.batch_delay_ms: is 0, allowed is 1 to 10000",
        ),
        (
            format!("{GENESIS}{NODE}[crypto]\nback_end = \"rsa\"\n"),
            "cluster.toml:11: crypto.back_end: \"rsa\" is no back-end; there are fastest, fips204,",
        ),
        (format!("{GENESIS}{NODE}[chaos]\nenabled = 1\n"), "cluster.toml:11: chaos.enabled: invalid type"),
        (format!("{GENESIS}{NODE}name = \n"), "cluster.toml:10: node[1].name:"),
        (format!("[genesis]\nfile = \"gone.toml\"\n{NODE}"), "gone.toml: there is no such file"),
    ];
    for (text, expected) in table {
        let refusal = refusal(&text);
        assert!(refusal.starts_with(expected), "{text}\n  says {refusal}\n  not  {expected}");
    }
}

#[test]
fn the_back_end_is_the_fastest_unless_the_config_names_another() {
    let (_folder, path) = written(&format!("{GENESIS}{NODE}"));
    assert_eq!(ClusterConfig::load(&path).unwrap().crypto.back_end, aurigraph_gpu::BackEnd::Fastest);
    let (_folder, path) = written(&format!("{GENESIS}{NODE}[crypto]\nback_end = \"native-avx2\"\n"));
    assert_eq!(ClusterConfig::load(&path).unwrap().crypto.back_end, aurigraph_gpu::BackEnd::NativeAvx2);
}

#[test]
fn a_missing_config_and_an_unknown_node_are_named() {
    let error = ClusterConfig::load(Path::new("nowhere/x.toml")).unwrap_err().to_string();
    assert_eq!(error, "nowhere/x.toml: there is no such file");
    let (_folder, path) = written(&format!("{GENESIS}{NODE}"));
    let error = ClusterConfig::load(&path).unwrap().node_settings("v9", Path::new("."), true).unwrap_err().to_string();
    assert!(error.ends_with("there is no node \"v9\"; the config has v1"), "{error}");
}

#[cfg(unix)]
#[test]
fn secrets_must_be_private_and_the_nodes_own() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, path) = written(&format!("{GENESIS}{NODE}"));
    let genesis = ClusterConfig::load(&path).unwrap().genesis;
    std::fs::write(folder.path().join("genesis.toml"), toml::to_string(genesis.genesis()).unwrap()).unwrap();
    std::fs::write(&path, format!("[genesis]\nfile = \"genesis.toml\"\n{NODE}secrets = \"v1.key.json\"\n")).unwrap();
    let config = ClusterConfig::load(&path).unwrap();
    assert_eq!(config.genesis.chain_id(), genesis.chain_id());

    let development =
        Development { seed: "s".to_owned(), accounts: 0, signers: 0, signer_balance: 0, recipient_balance: 0 };
    let key = folder.path().join("v1.key.json");
    let write = |node: &str, mode: u32| {
        std::fs::write(&key, serde_json::to_string(&development.node_secrets(node)).unwrap()).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
        config.node_settings("v1", Path::new("."), true)
    };
    assert!(write("v1", 0o600).is_ok());
    assert!(matches!(write("v1", 0o644), Err(ConfigError::OpenSecrets { mode: 0o644, .. })));
    assert!(matches!(write("v2", 0o600), Err(ConfigError::ForeignSecrets { what: "network", .. })));
}

#[cfg(unix)]
#[test]
fn an_encrypted_secrets_file_needs_its_passphrase_and_shows_nothing() {
    use std::os::unix::fs::PermissionsExt as _;
    let (folder, path) = written(&format!("{GENESIS}{NODE}"));
    let genesis = ClusterConfig::load(&path).unwrap().genesis;
    std::fs::write(folder.path().join("genesis.toml"), toml::to_string(genesis.genesis()).unwrap()).unwrap();
    let development =
        Development { seed: "s".to_owned(), accounts: 0, signers: 0, signer_balance: 0, recipient_balance: 0 };
    let secrets = development.node_secrets("v1");
    let seed = hex::encode(secrets.network_seed);
    let cost = aurigraph_gpu::PassphraseCost { memory_kib: 64, passes: 1, lanes: 1 };
    let text = serde_json::to_string(&secrets).unwrap();
    let sealed = SealedFile::seal("v1", &text, "correct horse", cost).unwrap();
    let private = |name: &str, text: &str| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    private("v1.key.json", &serde_json::to_string(&sealed).unwrap());
    let start = |more: &str| {
        let node = format!("[genesis]\nfile = \"genesis.toml\"\n{NODE}secrets = \"v1.key.json\"\n{more}");
        std::fs::write(&path, node).unwrap();
        ClusterConfig::load(&path).unwrap().node_settings("v1", Path::new("."), true)
    };
    let named = "passphrase_file = \"v1.passphrase\"\n";
    let refusal = |more: &str| start(more).unwrap_err().to_string();
    assert!(refusal("").contains("it is encrypted: name passphrase_file"));
    assert!(refusal(named).contains("there is no such file"));
    private("v1.passphrase", "wrong\n");
    assert!(refusal(named).ends_with("v1.key.json: the passphrase is wrong, or the file was changed"));
    private("v1.passphrase", "correct horse\nsecond line\n");
    let settings = start(named).unwrap();
    assert_eq!(settings.seeds.network, secrets.network_seed);
    assert!(refusal("passphrase_env = \"AURIGRAPH_NOT_SET\"\n").contains("AURIGRAPH_NOT_SET holds no passphrase"));
    for shown in [format!("{settings:?}"), format!("{secrets:?}")] {
        assert!(!shown.contains(&seed) && !shown.contains(&format!("{:?}", secrets.network_seed)));
    }
}

/// What a config that says nothing gets. A change here changes running clusters: change it on purpose.
#[test]
fn the_defaults_are_these() {
    #[derive(serde::Serialize)]
    struct Defaults {
        features: Features,
        pacing: PacingSettings,
        api: ApiLimits,
        storage: StorageSettings,
        actors: ActorCounts,
        chaos: ChaosSettings,
    }
    let defaults = Defaults {
        features: Features::default(),
        pacing: PacingSettings::default(),
        api: ApiLimits::default(),
        storage: StorageSettings::default(),
        actors: ActorCounts::default(),
        chaos: ChaosSettings::default(),
    };
    assert_eq!(toml::to_string(&defaults).unwrap(), include_str!("defaults.toml"));
}
