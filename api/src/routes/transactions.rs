//! Submitting transactions, and asking what became of them.

use std::time::Duration;

use aurigraph_actors::events::TransactionEnd;
use aurigraph_actors::mempool::{Refusal, Source};
use aurigraph_actors::query::views::{TransactionStatus, TransactionView};
use aurigraph_actors::query::{Action, Order, Submitted, codes};
use aurigraph_ledger::staking::StakingOperation;
use aurigraph_ledger::types::MAX_MEMO;
use aurigraph_ledger::{Amount, ExclusionReason, Hash};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use tokio::time::Instant;
use warp::http::StatusCode;

use super::forms::{
    SubmitBody, SubmitManyBody, SubmittedItem, SubmittedMany, SubmittedView, TransferBody, UnjailBody, Wait as WaitForm,
};
use crate::auth::credentials_wanted;
use crate::call::{Call, Media, json, ok, parse_json};
use crate::edge::Edge;
use crate::params::{hash, number};
use crate::problem::{Problem, refusal_status};
use crate::route::{Access, Handler, Route};

const TAG: &str = "transactions";
/// How long a client waits for a commit before it gets 202.
const COMMIT_WITHIN: Duration = Duration::from_secs(5);
/// Transactions in one request.
const MAX_TRANSACTIONS: usize = 4_096;
/// What a write may be refused for.
const WRITE_PROBLEMS: [u16; 4] = [401, 403, 409, 422];

/// The routes of this area.
#[must_use]
pub fn table() -> Vec<Route> {
    let look_up: Handler = |call| {
        Box::pin(async move {
            let hash = call.hash_param(0, "hash")?;
            let view = call.edge.port.transaction(hash).await?;
            ok(&view.ok_or_else(|| Problem::unknown("transaction", hash))?)
        })
    };
    let summary = "A transaction: where it stands, what it does, and the proof that its block includes it.";
    let mut routes = vec![
        Route::get::<TransactionView>("/blockchain/transactions/{hash}", "getTransaction", TAG, summary, look_up)
            .problems(&[404]),
        Route::get::<TransactionView>(
            "/gateway/transactions/{txHash}",
            "getGatewayTransaction",
            "gateway",
            summary,
            look_up,
        )
        .problems(&[404]),
    ];
    routes.extend(writes());
    routes
}

fn writes() -> Vec<Route> {
    let submit_one = Route::post::<SubmitBody, SubmittedView>(
        "/blockchain/transactions",
        "submitTransaction",
        TAG,
        "Submits a signed transaction.",
        |call| Box::pin(submit(call)),
    )
    .or_binary("A signed transaction's canonical bytes.");
    let submit_many = Route::post::<SubmitManyBody, SubmittedMany>(
        "/blockchain/transactions/batch",
        "submitTransactions",
        TAG,
        "Submits many signed transactions; each is accepted or refused by itself.",
        |call| Box::pin(submit_batch(call)),
    )
    .or_binary("Signed transactions' canonical bytes, each behind its length in four bytes, little-endian.");
    let transfer = Route::post::<TransferBody, SubmittedView>(
        "/gateway/transfer",
        "transfer",
        "gateway",
        "Transfers: a signed transaction, or plain fields with a bearer token bound to an account of this node.",
        |call| Box::pin(transfer(call)),
    )
    .access(Access::Account);
    let unjail = Route::post::<UnjailBody, SubmittedView>(
        "/validators/{id}/unjail",
        "unjailValidator",
        "validators",
        "Asks a jailed validator back in, with a bearer token bound to its operator's account at this node.",
        |call| Box::pin(unjail(call)),
    )
    .access(Access::Account)
    .problems(&[404]);
    let write = |route: Route| {
        route
            .also(202, "Accepted and not committed yet.")
            .query::<WaitForm>(
                "wait",
                "`committed`: answer after the commit, or with 202 after 5 s; `accepted`: at once.",
            )
            .problems(&WRITE_PROBLEMS)
    };
    [submit_one, submit_many, transfer, unjail].map(write).into()
}

/// `?wait=`: true for `committed`, the default.
fn waits(call: &Call) -> Result<bool, Problem> {
    match call.query.get("wait") {
        None | Some("committed") => Ok(true),
        Some("accepted") => Ok(false),
        Some(other) => {
            Err(Problem::bad("malformed_parameter", format!("wait is {other:?}, allowed is committed or accepted")))
        }
    }
}

/// Bytes in a JSON text: `0x` and hex digits, or base64.
fn encoded_bytes(field: &str, text: &str) -> Result<Bytes, Problem> {
    let bytes = match text.strip_prefix("0x") {
        Some(digits) => hex::decode(digits).ok(),
        None => STANDARD.decode(text).ok(),
    };
    let refuse = || Problem::bad("malformed_transaction", format!("{field} is neither 0x with hex digits nor base64"));
    bytes.filter(|bytes| !bytes.is_empty()).map(Bytes::from).ok_or_else(refuse)
}

/// A sequence of byte strings, each behind its length in four bytes, little-endian. The slices share the body's buffer.
fn framed(mut body: Bytes) -> Result<Vec<Bytes>, Problem> {
    let mut transactions = Vec::new();
    while !body.is_empty() {
        let at = transactions.len();
        let refuse = |why: String| Problem::bad("malformed_batch", format!("transaction {at}: {why}"));
        if body.len() < 4 {
            return Err(refuse(format!("{} bytes are left, a length has 4", body.len())));
        }
        let prefix = body.split_to(4);
        let len = u32::from_le_bytes([prefix[0], prefix[1], prefix[2], prefix[3]]) as usize;
        if len == 0 || len > body.len() {
            return Err(refuse(format!("its length is {len}, {} bytes are left", body.len())));
        }
        transactions.push(body.split_to(len));
    }
    Ok(transactions)
}

fn check_count(count: usize) -> Result<(), Problem> {
    match count {
        0 => Err(Problem::bad("malformed_batch", "there is no transaction in it")),
        1..=MAX_TRANSACTIONS => Ok(()),
        _ => {
            let detail = format!("{count} transactions in one request, at most {MAX_TRANSACTIONS} are allowed");
            Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_many_transactions", detail))
        }
    }
}

async fn submit(mut call: Call) -> Result<warp::reply::Response, Problem> {
    let (wait, media) = (waits(&call)?, call.media(true)?);
    let body = call.bytes().await?;
    let transaction = match media {
        Media::Binary => body,
        Media::Json => encoded_bytes("transaction", &parse_json::<SubmitBody>(&body)?.transaction)?,
    };
    submit_one(call, transaction, wait).await
}

async fn submit_one(call: Call, transaction: Bytes, wait: bool) -> Result<warp::reply::Response, Problem> {
    let submitted = call.edge.port.submit(transaction, Source::Client(call.client), wait).await??;
    let (hash, end) = ended(&call.edge, submitted, Instant::now() + COMMIT_WITHIN).await;
    answer_of(hash, end)
}

/// Waits for a transaction's end, as far as it is to be waited for. None if it is not known by the deadline, or when the
/// server stops: what is known then is told at once, so that a client does not hold up the stop, nor lose its answer.
async fn ended(edge: &Edge, submitted: Submitted, deadline: Instant) -> (Hash, Option<TransactionEnd>) {
    let mut stopping = edge.stopping.subscribe();
    let end = match submitted.fate {
        Some(fate) => tokio::select! {
            biased;
            end = fate => end.ok(),
            () = tokio::time::sleep_until(deadline) => None,
            _ = stopping.wait_for(|stopping| *stopping) => None,
        },
        None => None,
    };
    (submitted.id, end)
}

fn answer_of(hash: Hash, end: Option<TransactionEnd>) -> Result<warp::reply::Response, Problem> {
    match end {
        None => json(StatusCode::ACCEPTED, &pending(hash)),
        Some(TransactionEnd::Committed { height, outcome }) if outcome.took_effect() => ok(&SubmittedView {
            hash,
            status: TransactionStatus::Committed,
            block_height: Some(height),
            index: Some(outcome.index),
            operation_count: Some(outcome.operations),
            failed_operations: Some(outcome.failed_operations),
        }),
        Some(TransactionEnd::Committed { height, outcome }) => {
            let code = outcome.first_failure.map_or("failed", codes::failure);
            let detail =
                format!("the transaction is in block {height}, and none of its operations took effect: {code}");
            Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
                .with("hash", hash.to_string())
                .with("transactionStatus", "failed")
                .with("blockHeight", height)
                .with("index", outcome.index))
        }
        Some(TransactionEnd::Dropped { reason }) => {
            Err(dropped(reason).with("hash", hash.to_string()).with("transactionStatus", "failed"))
        }
    }
}

fn dropped(reason: ExclusionReason) -> Problem {
    let (status, code) = match reason {
        ExclusionReason::NonceUsed | ExclusionReason::NonceOutOfWindow => {
            (StatusCode::CONFLICT, codes::exclusion(reason))
        }
        _ => (StatusCode::UNPROCESSABLE_ENTITY, codes::exclusion(reason)),
    };
    Problem::new(status, code, format!("the transaction was ordered and refused when it was executed: {code}"))
}

const fn pending(hash: Hash) -> SubmittedView {
    SubmittedView {
        hash,
        status: TransactionStatus::Pending,
        block_height: None,
        index: None,
        operation_count: None,
        failed_operations: None,
    }
}

async fn submit_batch(mut call: Call) -> Result<warp::reply::Response, Problem> {
    let (wait, media) = (waits(&call)?, call.media(true)?);
    let body = call.bytes().await?;
    let transactions = match media {
        Media::Binary => framed(body)?,
        Media::Json => {
            let texts = parse_json::<SubmitManyBody>(&body)?.transactions;
            check_count(texts.len())?;
            let decode = |(at, text): (usize, &String)| encoded_bytes(&format!("transactions[{at}]"), text);
            texts.iter().enumerate().map(decode).collect::<Result<_, _>>()?
        }
    };
    check_count(transactions.len())?;
    let answers = call.edge.port.submit_many(transactions, Source::Client(call.client), wait).await?;
    if let Some(problem) = nothing_taken(&answers) {
        return Err(problem);
    }
    let (mut results, mut pending) = (Vec::with_capacity(answers.len()), false);
    let (accepted, deadline) = (answers.iter().filter(|answer| answer.is_ok()).count(), Instant::now() + COMMIT_WITHIN);
    for answer in answers {
        let item = match answer {
            Ok(submitted) => item_of(&call.edge, submitted, deadline).await,
            Err(refusal) => refused_item(&refusal),
        };
        pending |= item.status == TransactionStatus::Pending;
        results.push(item);
    }
    let refused = (results.len() - accepted) as u64;
    let view = SubmittedMany { accepted: accepted as u64, refused, results };
    json(if pending { StatusCode::ACCEPTED } else { StatusCode::OK }, &view)
}

/// The problem to answer with if all were refused because the node cannot take more now.
fn nothing_taken(answers: &[Result<Submitted, Refusal>]) -> Option<Problem> {
    let busy = |answer: &Result<Submitted, Refusal>| match answer {
        Ok(_) => false,
        Err(refusal) => {
            let (status, _) = refusal_status(refusal);
            status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS
        }
    };
    match answers.first() {
        Some(Err(refusal)) if answers.iter().all(busy) => Some(refusal.clone().into()),
        _ => None,
    }
}

const EMPTY_ITEM: SubmittedItem = SubmittedItem {
    hash: None,
    status: TransactionStatus::Failed,
    block_height: None,
    index: None,
    code: None,
    detail: None,
};

fn refused_item(refusal: &Refusal) -> SubmittedItem {
    let (_, code) = refusal_status(refusal);
    SubmittedItem { code: Some(code.to_owned()), detail: Some(refusal.to_string()), ..EMPTY_ITEM }
}

async fn item_of(edge: &Edge, submitted: Submitted, deadline: Instant) -> SubmittedItem {
    let (hash, end) = ended(edge, submitted, deadline).await;
    let hash = Some(hash);
    match end {
        None => SubmittedItem { hash, status: TransactionStatus::Pending, ..EMPTY_ITEM },
        Some(TransactionEnd::Committed { height, outcome }) => {
            let effect = outcome.took_effect();
            SubmittedItem {
                hash,
                status: if effect { TransactionStatus::Committed } else { TransactionStatus::Failed },
                block_height: Some(height),
                index: Some(outcome.index),
                code: outcome.first_failure.map(|code| codes::failure(code).to_owned()),
                detail: None,
            }
        }
        Some(TransactionEnd::Dropped { reason }) => {
            SubmittedItem { hash, code: Some(codes::exclusion(reason).to_owned()), ..EMPTY_ITEM }
        }
    }
}

async fn transfer(mut call: Call) -> Result<warp::reply::Response, Problem> {
    let wait = waits(&call)?;
    let body: TransferBody = call.json().await?;
    if let Some(transaction) = &body.transaction {
        if body.recipient.is_some() || body.amount.is_some() || body.memo.is_some() {
            let detail = "a signed transaction stands alone: give it, or recipient and amount";
            return Err(Problem::bad("malformed_transfer", detail));
        }
        let transaction = encoded_bytes("transaction", transaction)?;
        return submit_one(call, transaction, wait).await;
    }
    let from = paying_account(&call)?;
    let order = plain_transfer(from, &body)?;
    sign(call, order, wait).await
}

/// Takes a validator out of jail, for its operator.
async fn unjail(mut call: Call) -> Result<warp::reply::Response, Problem> {
    let wait = waits(&call)?;
    let (id, body): (String, UnjailBody) = (call.param(0, "id")?, call.json().await?);
    let from = paying_account(&call)?;
    let detail = call.edge.port.validator(id.clone()).await?.ok_or_else(|| Problem::unknown("validator", id))?;
    let action = Action::Staking(StakingOperation::Unjail { validator: detail.validator.row });
    sign(call, Order { from, action, memo: memo_of(body.memo)? }, wait).await
}

/// Has the node sign and submit.
async fn sign(call: Call, order: Order, wait: bool) -> Result<warp::reply::Response, Problem> {
    let deadline = Instant::now() + COMMIT_WITHIN;
    loop {
        let submitted = call.edge.port.sign(order.clone(), wait).await??;
        let (hash, end) = ended(&call.edge, submitted, deadline).await;
        // Another node signed for the account at the same time and took the nonce: this one left no trace, so it is
        // signed anew. It ends, because the client's wait does.
        let nonce_taken = matches!(end, Some(TransactionEnd::Dropped { reason: ExclusionReason::NonceUsed }));
        if !nonce_taken || Instant::now() >= deadline {
            return answer_of(hash, end);
        }
    }
}

fn paying_account(call: &Call) -> Result<Hash, Problem> {
    let Some(grant) = &call.grant else {
        let detail = "give a signed transaction, or a bearer token bound to an account of this node";
        return Err(credentials_wanted(detail));
    };
    let unbound = || Problem::new(StatusCode::FORBIDDEN, "no_account", "the token is not bound to an account");
    grant.account.ok_or_else(unbound)
}

fn plain_transfer(from: Hash, body: &TransferBody) -> Result<Order, Problem> {
    let missing = |field| Problem::bad("malformed_transfer", format!("{field} is missing"));
    let recipient = hash("recipient", body.recipient.as_deref().ok_or_else(|| missing("recipient"))?)?;
    let amount: Amount = number("amount", body.amount.as_deref().ok_or_else(|| missing("amount"))?)?;
    Ok(Order { from, action: Action::Transfer { recipient, amount }, memo: memo_of(body.memo.clone())? })
}

fn memo_of(memo: Option<String>) -> Result<Vec<u8>, Problem> {
    let memo = memo.unwrap_or_default().into_bytes();
    if memo.len() > MAX_MEMO {
        let detail = format!("memo has {} bytes, at most {MAX_MEMO} are allowed", memo.len());
        return Err(Problem::bad("malformed_transfer", detail));
    }
    Ok(memo)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(parts: &[&[u8]]) -> Bytes {
        let mut bytes = Vec::new();
        for part in parts {
            bytes.extend_from_slice(&u32::try_from(part.len()).expect("short").to_le_bytes());
            bytes.extend_from_slice(part);
        }
        bytes.into()
    }

    #[test]
    fn a_framed_batch_gives_back_its_parts_and_every_cut_is_refused() {
        let body = frames(&[b"abc", b"d", b"ef"]);
        let parts = framed(body.clone()).expect("well formed");
        assert_eq!(parts, [&b"abc"[..], b"d", b"ef"]);
        for cut in 1..body.len() {
            let whole = [7, 12].contains(&cut);
            assert_eq!(framed(body.slice(..cut)).is_ok(), whole, "cut at {cut}");
        }
        assert!(framed(frames(&[b""])).is_err(), "an empty transaction");
        assert!(framed(Bytes::from_static(&[0xff; 4])).is_err(), "a length beyond the body");
    }

    #[test]
    fn texts_are_hex_or_base64_and_nothing_else() {
        assert_eq!(encoded_bytes("t", "0x0aFF").expect("hex"), [0x0a, 0xff][..]);
        assert_eq!(encoded_bytes("t", "Cv8=").expect("base64"), [0x0a, 0xff][..]);
        for text in ["", "0x", "0x0", "0xzz", "***"] {
            assert_eq!(
                encoded_bytes("t", text).map_err(|problem| problem.code),
                Err("malformed_transaction"),
                "{text}"
            );
        }
    }

    #[test]
    fn plain_fields_are_checked_one_by_one() {
        let recipient = Some(Hash::ZERO.to_string());
        let body = |amount: Option<&str>, memo: Option<String>| TransferBody {
            transaction: None,
            recipient: recipient.clone(),
            amount: amount.map(ToOwned::to_owned),
            memo,
        };
        let good = plain_transfer(Hash::ZERO, &body(Some("340282366920938463463374607431768211455"), None));
        let action = good.expect("well formed").action;
        assert!(matches!(action, Action::Transfer { amount: Amount::MAX, .. }));
        for amount in [None, Some("-1"), Some("1.5"), Some(""), Some("340282366920938463463374607431768211456")] {
            assert!(plain_transfer(Hash::ZERO, &body(amount, None)).is_err(), "{amount:?}");
        }
        assert!(plain_transfer(Hash::ZERO, &body(Some("1"), Some("m".repeat(257)))).is_err());
        assert!(plain_transfer(Hash::ZERO, &TransferBody { recipient: None, ..body(Some("1"), None) }).is_err());
    }
}
