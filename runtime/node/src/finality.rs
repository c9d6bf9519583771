//! What makes a proof file stand alone: headers, checkpoints and a certificate, fetched from a node and checked against a
//! genesis with nothing else.

use std::path::Path;
use std::time::{Duration, Instant};

use aurigraph_actors::config::{ClusterConfig, load_genesis};
use aurigraph_consensus::{EpochHop, Finality, FinalityProof, LightError, TrustedSet};
use aurigraph_gpu::{BatchVerifier, VerifyItem};
use aurigraph_ledger::{AccountProof, Address, Foundation, SignatureVerifier, TransactionProof};
use hyper::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{CliError, CliResult, Exit};
use crate::http::{NodeClient, exit_of};

/// How long the covering checkpoint may take: an idle chain makes one with its next heartbeat.
const CERTIFIED_WITHIN: Duration = Duration::from_secs(40);
/// How often the node is asked for it.
const POLL: Duration = Duration::from_millis(250);

/// From a block to the signatures of a quorum: canonical bytes as `0x` and hex digits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FinalityFile {
    /// Ledger headers from the proved block to the checkpoint's.
    headers: Vec<String>,
    /// The covering checkpoint and those up to the newest attested.
    checkpoints: Vec<String>,
    /// The certificate: signed cores.
    certificate: Vec<String>,
    /// From the genesis' validators to those that signed, one step an epoch.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    epochs: Vec<HopFile>,
}

/// From an epoch's validators to the next one's: canonical bytes as `0x` and hex digits.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HopFile {
    /// The epoch's certificate.
    certificate: String,
    /// Its final checkpoint.
    checkpoint: String,
    /// The next validator set.
    validators: String,
}

/// The trusted validators, and what checks their signatures.
pub struct Trust {
    set: TrustedSet,
    verifier: Verifier,
}

struct Verifier(std::sync::Arc<dyn BatchVerifier>);

impl SignatureVerifier for Verifier {
    fn verify(&self, public_key: &[u8], message: &[u8], signature: &[u8]) -> bool {
        self.0.verify(&VerifyItem::new(public_key, message, signature))
    }
}

impl Trust {
    /// The validators of a genesis file, or of the genesis that a cluster config names.
    ///
    /// # Errors
    /// If the file is neither, or no quorum can be made of the validators.
    pub fn load(path: &Path) -> CliResult<Self> {
        let genesis = match load_genesis(path) {
            Ok(genesis) => Foundation::new(genesis).map_err(|error| CliError::file(path, error))?,
            Err(error) => ClusterConfig::load(path).map_err(|_| error)?.genesis,
        };
        let set = TrustedSet::of_genesis(&genesis).map_err(|error| CliError::file(path, error))?;
        Ok(Self { set, verifier: Verifier(std::sync::Arc::new(aurigraph_gpu::AwsLc)) })
    }

    fn shown(&self, finality: &Finality) -> Value {
        json!({
            "chainId": self.set.chain_id(),
            "epoch": finality.checkpoint.epoch,
            "checkpointSequence": finality.checkpoint.seq,
            "checkpointHeight": finality.checkpoint.ledger_height,
            "attestedStake": finality.stake.to_string(),
            "totalStake": finality.total.to_string(),
        })
    }
}

fn bytes_of(what: &str, texts: &[String]) -> Result<Vec<Vec<u8>>, String> {
    let one = |(at, text): (usize, &String)| {
        let bytes = text.strip_prefix("0x").and_then(|digits| hex::decode(digits).ok());
        bytes.ok_or_else(|| format!("{what} {at} is no hex"))
    };
    texts.iter().enumerate().map(one).collect()
}

fn text(error: LightError) -> String {
    error.to_string()
}

/// The steps from the genesis' validators to those of an epoch, a bounded number at a time.
async fn hops(client: &NodeClient, seq: u64, epoch: u64) -> CliResult<Vec<HopFile>> {
    let mut all: Vec<HopFile> = Vec::new();
    while (all.len() as u64) < epoch {
        let path = format!("/consensus/checkpoints/{seq}?epochsFrom={}", all.len());
        let answer = client.get(&path).await?;
        let some: Vec<HopFile> = serde_json::from_value(answer["epochHops"].clone())
            .map_err(|error| CliError::failed(format!("the node's answer is no step over an epoch: {error}")))?;
        if some.is_empty() {
            return Err(CliError::failed(format!("the node has not got the end of epoch {}", all.len())));
        }
        all.extend(some);
    }
    Ok(all)
}

impl FinalityFile {
    /// Fetches it for the block at a height, once a quorum attests the checkpoint that covers it.
    ///
    /// # Errors
    /// If the node does not answer, or the checkpoint is not certified in time.
    pub async fn fetch(client: &NodeClient, seq: u64, height: u64) -> CliResult<Self> {
        let path = format!("/consensus/checkpoints/{seq}?headersFrom={height}");
        let deadline = Instant::now() + CERTIFIED_WITHIN;
        loop {
            let answer = client.request(Method::GET, &path, "application/json", bytes::Bytes::new()).await?;
            let known = answer.status.is_success();
            if known && !answer.body["certificate"].is_null() {
                let file = Self::of_answer(&answer.body)?;
                return Ok(Self {
                    epochs: hops(client, seq, answer.body["epoch"].as_u64().unwrap_or(0)).await?,
                    ..file
                });
            }
            if !known && answer.status.as_u16() != 404 {
                return Err(CliError::new(exit_of(answer.status), format!("{path}: {}", answer.problem())));
            }
            if Instant::now() > deadline {
                let message = format!("checkpoint {seq} is not certified within {CERTIFIED_WITHIN:?}");
                return Err(CliError::new(Exit::Unreachable, message));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn of_answer(answer: &Value) -> CliResult<Self> {
        let strings = |value: &Value| -> CliResult<Vec<String>> {
            serde_json::from_value(value.clone())
                .map_err(|error| CliError::failed(format!("the node's answer is no checkpoint: {error}")))
        };
        let certificate = &answer["certificate"];
        let cores = certificate["cores"].as_array().into_iter().flatten().map(|core| core["bytes"].clone()).collect();
        let mut checkpoints = strings(&json!([answer["header"]]))?;
        checkpoints.extend(strings(&certificate["followers"])?);
        Ok(Self {
            headers: strings(&answer["ledgerHeaders"])?,
            checkpoints,
            certificate: strings(&Value::Array(cores))?,
            epochs: Vec::new(),
        })
    }

    /// The validators whose signatures count: those of the genesis after all epochs of the file.
    fn trusted(&self, trust: &Trust) -> Result<TrustedSet, String> {
        let one = |hop: &HopFile| {
            let parts = [hop.certificate.clone(), hop.checkpoint.clone(), hop.validators.clone()];
            let [certificate, checkpoint, validators] = <[Vec<u8>; 3]>::try_from(bytes_of("epoch part", &parts)?)
                .map_err(|_| "an epoch of the file has not three parts")?;
            Ok::<_, String>(EpochHop { certificate, checkpoint, validators })
        };
        let hops = self.epochs.iter().map(one).collect::<Result<Vec<_>, _>>()?;
        trust.set.hop_all(&hops, &trust.verifier).map_err(text)
    }

    fn proof(&self) -> Result<FinalityProof, String> {
        Ok(FinalityProof {
            headers: bytes_of("header", &self.headers)?,
            checkpoints: bytes_of("checkpoint", &self.checkpoints)?,
            cores: bytes_of("signed core", &self.certificate)?,
        })
    }

    /// Checks that a transaction is in a final block, and gives the block's hash and what there is to tell.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify_transaction(
        &self,
        transaction: &TransactionProof,
        trust: &Trust,
    ) -> Result<(aurigraph_ledger::Hash, Value), String> {
        let finality =
            self.proof()?.verify_transaction(transaction, &self.trusted(trust)?, &trust.verifier).map_err(text)?;
        Ok((finality.header.hash(), trust.shown(&finality)))
    }

    /// Checks an account at a final checkpoint, and gives the state root and what there is to tell.
    ///
    /// # Errors
    /// What does not hold.
    pub fn verify_account(
        &self,
        address: &Address,
        account: &AccountProof,
        trust: &Trust,
    ) -> Result<(aurigraph_ledger::Hash, Value), String> {
        let (finality, _) =
            self.proof()?.verify_account(address, account, &self.trusted(trust)?, &trust.verifier).map_err(text)?;
        Ok((finality.checkpoint.state_root, trust.shown(&finality)))
    }
}
