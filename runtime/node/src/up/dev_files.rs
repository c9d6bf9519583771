//! What development mode hands to people: account keys and bearer tokens as files, and a command that works.

use std::path::Path;

use aurigraph_actors::config::ClusterConfig;
use serde_json::json;

use crate::error::{CliError, CliResult};
use crate::keyfile::{AccountKey, write_private};

/// Writes `dev/accounts.json`, `dev/tokens.json`, a key file for each account that has a key and one for each node that may
/// become a validator (`stake join --node-keys`). Returns a `curl` line that makes a transfer. Does nothing outside development mode.
///
/// # Errors
/// Files that cannot be written.
pub fn write(config: &ClusterConfig, base: &Path) -> CliResult<Option<String>> {
    let Some(development) = &config.development else {
        std::fs::create_dir_all(base).map_err(|error| CliError::file(base, error))?;
        return Ok(None);
    };
    let dev = base.join("dev");
    let mut accounts = Vec::new();
    for (index, account) in config.genesis.accounts.iter().take(development.signers).enumerate() {
        let file = dev.join("keys").join(format!("account-{index}.json"));
        write_private(&file, &pretty(&AccountKey::of_seed(development.account_seed(index))?)?, true)?;
        accounts.push(json!({
            "index": index,
            "address": account.address,
            "keyFile": file,
            "balance": account.balance.to_string(),
        }));
    }
    for node in config.nodes.iter().filter(|node| node.candidate) {
        let file = dev.join("keys").join(format!("{}.node.json", node.name));
        write_private(&file, &pretty(&development.node_secrets(&node.name))?, true)?;
    }
    write_private(&dev.join("accounts.json"), &pretty(&accounts)?, true)?;
    let first = config.genesis.accounts.first().map(|account| account.address);
    let tokens = json!({
        "account": { "token": development.account_token(), "address": first },
        "admin": { "token": development.admin_token() },
    });
    write_private(&dev.join("tokens.json"), &pretty(&tokens)?, true)?;
    Ok(config.genesis.accounts.get(1).zip(config.nodes.first()).map(|(recipient, node)| {
        format!(
            "curl -s -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
             -d '{{\"recipient\":\"{}\",\"amount\":\"1500000000000000000\",\"memo\":\"hello\"}}' \
             http://{}/api/v11/gateway/transfer",
            development.account_token(),
            recipient.address,
            node.rest
        )
    }))
}

fn pretty<T: serde::Serialize>(value: &T) -> CliResult<String> {
    serde_json::to_string_pretty(value).map_err(|error| CliError::failed(error.to_string()))
}
