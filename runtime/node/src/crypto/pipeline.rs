//! `aurigraph crypto bench --pipeline`: how much of the raw rate is left from the batch store's request to its verdicts.
//!
//! The same transactions, each under a key that is known and a signature that is not, are checked by bare threads and by a
//! node's own dispatcher and verifiers as the batch store asks them, in turn, in one process and one run.

use std::sync::Arc;
use std::time::Instant;

use aurigraph_actors::bounds::crypto as bounds;
use aurigraph_actors::crypto::{
    DispatchMsg, KnownKey, Priority, TransactionCheck, Verifier, VerifyDispatcher, Worker, cpu_back_end,
};
use aurigraph_gpu::{BatchVerifier, Seed, Signer, VerifyItem};
use aurigraph_ledger::transaction::{SenderKey, Target, TransactionBuilder};
use aurigraph_ledger::{AccountIndex, FeeSchedule, Hash};
use aurigraph_runtime::{Budget, ChildSpec, Registry, Strategy, SupervisorSpec, Tree};
use bytes::Bytes;
use serde_json::json;

use super::refused;
use crate::error::{CliError, CliResult};
use crate::output::{Output, fields};

const ROUNDS: usize = 7;
/// Senders, whose keys all stay in the cache.
const SENDERS: u32 = 64;
/// Transactions in one request, as in a batch of small ones.
const BATCH: usize = 128;
/// Requests under way at once: the batch store asks for several batches.
const AHEAD: usize = 16;

/// Runs it with this many transactions.
///
/// # Errors
/// If the actors do not start, or a good signature is refused.
pub fn run(transactions: usize, output: Output) -> CliResult {
    let checks = checks(transactions)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(refused)?;
    let (mut raw, mut pipeline, mut percents) = (0_f64, 0_f64, Vec::new());
    for round in 0..ROUNDS {
        // Each round's two halves meet much the same of what else the machine does.
        let (bare, whole) = (raw_rate(&checks)?, runtime.block_on(pipeline_rate(round, &checks))?);
        (raw, pipeline) = (raw.max(bare), pipeline.max(whole));
        percents.push((100.0 * whole / bare).round());
    }
    percents.sort_by(f64::total_cmp);
    let cores = cores();
    output.print(
        &json!({
            "backEnd": cpu_back_end().name(), "cores": cores, "transactions": checks.len(), "rounds": ROUNDS,
            "rawPerSecond": raw as u64, "pipelinePerSecond": pipeline as u64, "percent": (100.0 * pipeline / raw).round(),
            "percentOfRounds": percents,
        }),
        fields,
    );
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn checks(count: usize) -> CliResult<Vec<TransactionCheck>> {
    let fees = FeeSchedule::default();
    let signers: Vec<(Signer, KnownKey)> = (0..SENDERS)
        .map(|number| {
            let mut seed = [0x70; 32];
            seed[..4].copy_from_slice(&number.to_le_bytes());
            let signer = Signer::from_seed(&Seed::new(seed)).map_err(refused)?;
            let key = KnownKey::of(Bytes::copy_from_slice(signer.public_key()));
            Ok((signer, key))
        })
        .collect::<CliResult<_>>()?;
    (0..count)
        .map(|at| {
            let number = at as u32 % SENDERS;
            let (signer, key) = &signers[number as usize];
            let sender = SenderKey::Index(AccountIndex(number));
            let unsigned = TransactionBuilder::new(Hash([1; 32]), sender, at as u64, 1_000)
                .fees(&fees)
                .transfer(Target::Index(AccountIndex(1)), 1)
                .build()
                .map_err(refused)?;
            let signature = signer.sign(&unsigned.signing_message()).map_err(refused)?;
            let transaction = Arc::new(unsigned.with_signature(&signature).map_err(refused)?);
            Ok(TransactionCheck { transaction, key: Some(key.clone()) })
        })
        .collect()
}

/// Whether eight, or fewer, are all good: in the form in which the back-end is fastest.
fn good(back_end: &dyn BatchVerifier, checks: &[TransactionCheck]) -> bool {
    let messages: Vec<_> = checks.iter().map(|check| check.transaction.signing_message()).collect();
    let items: Vec<VerifyItem<'_>> = checks
        .iter()
        .zip(&messages)
        .filter_map(|(check, message)| {
            Some(VerifyItem::new(&check.key.as_ref()?.bytes, message, check.transaction.signature()))
        })
        .collect();
    let mut verdicts = vec![false; checks.len()];
    back_end.verify_batch(&items, &mut verdicts);
    verdicts.into_iter().all(|valid| valid)
}

/// Bare threads, one a core.
fn raw_rate(checks: &[TransactionCheck]) -> CliResult<f64> {
    let start = Instant::now();
    let all_good = std::thread::scope(|scope| {
        let threads: Vec<_> = checks
            .chunks(checks.len().div_ceil(cores()))
            .map(|mine| {
                let back_end = cpu_back_end();
                scope.spawn(move || mine.chunks(8).all(|eight| good(&*back_end, eight)))
            })
            .collect();
        threads.into_iter().all(|thread| thread.join().unwrap_or(false))
    });
    if all_good { Ok(checks.len() as f64 / start.elapsed().as_secs_f64()) } else { Err(wrong()) }
}

fn wrong() -> CliError {
    CliError::failed("a good signature was refused")
}

/// A node's dispatcher and verifiers, new ones each time: theirs is a cache of verdicts.
async fn pipeline_rate(round: usize, checks: &[TransactionCheck]) -> CliResult<f64> {
    let registry = Registry::new(&format!("bench{round}"));
    let workers: Vec<Worker> =
        (0..cores()).map(|at| Worker { role: format!("cpu-verifier/{at}"), device: None }).collect();
    let verifiers = workers.iter().map(|worker| {
        ChildSpec::behaviour(worker.role.clone(), bounds::VERIFIER_MAILBOX, || Verifier::cpu(cpu_back_end()))
    });
    let mut children: Vec<ChildSpec> = verifiers.collect();
    children.push(ChildSpec::behaviour("verify-dispatcher", bounds::DISPATCHER_MAILBOX, move || {
        VerifyDispatcher::new(workers.clone())
    }));
    let budget = Budget { restarts: 0, window: std::time::Duration::from_secs(1) };
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).budget(budget).children(children);
    let tree = Tree::start(registry.clone(), spec).await.map_err(refused)?;
    let dispatcher = registry.role::<DispatchMsg>("verify-dispatcher");
    let start = Instant::now();
    let mut under_way = std::collections::VecDeque::new();
    for batch in checks.chunks(BATCH) {
        let checks = batch.to_vec();
        let ask = |reply| DispatchMsg::VerifyTransactions { checks, priority: Priority::Ahead, reply: Some(reply) };
        under_way.push_back(dispatcher.ask(ask).map_err(refused)?);
        if under_way.len() >= AHEAD
            && let Some(oldest) = under_way.pop_front()
        {
            settled(oldest.await)?;
        }
    }
    for answer in under_way {
        settled(answer.await)?;
    }
    let rate = checks.len() as f64 / start.elapsed().as_secs_f64();
    drop(tree);
    Ok(rate)
}

type Verdicts = Result<Vec<Option<aurigraph_actors::crypto::Verdict>>, aurigraph_actors::crypto::DispatchError>;

fn settled<E: std::fmt::Display>(answer: Result<Verdicts, E>) -> CliResult {
    let verdicts = answer.map_err(refused)?.map_err(refused)?;
    let all = verdicts.iter().all(|verdict| verdict.is_some_and(|verdict| verdict.valid));
    if all { Ok(()) } else { Err(wrong()) }
}
