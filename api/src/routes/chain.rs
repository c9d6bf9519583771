//! Blocks, the chain in figures, accounts.

use aurigraph_actors::query::views::{
    AccountProofView, AccountTransactionPage, BalanceView, BlockList, BlockPage, BlockSearch, BlockView, ChainStats,
    EncryptionKeyView, EnvelopeView, TransactionPage,
};

use super::forms::Limit;
use crate::call::ok;
use crate::params::page_of;
use crate::problem::Problem;
use crate::route::Route;

const TAG: &str = "blockchain";

/// The routes of this area.
#[must_use]
pub fn table() -> Vec<Route> {
    vec![
        Route::get::<BalanceView>(
            "/gateway/balance/{address}",
            "getBalance",
            "gateway",
            "An account's balance, nonces and key.",
            |call| {
                Box::pin(async move {
                    let address = call.hash_param(0, "address")?;
                    let view = call.edge.port.balance(address).await?;
                    ok(&view.ok_or_else(|| Problem::unknown("account", address))?)
                })
            },
        )
        .problems(&[404]),
        Route::get::<AccountProofView>(
            "/gateway/balance/{address}/proof",
            "getAccountProof",
            "gateway",
            "Proves an account under the state root of the newest checkpoint.",
            |call| {
                Box::pin(async move {
                    let address = call.hash_param(0, "address")?;
                    let view = call.edge.port.account_proof(address).await?;
                    ok(&view.ok_or_else(|| Problem::unknown("account", address))?)
                })
            },
        )
        .problems(&[404]),
        Route::get::<EncryptionKeyView>(
            "/gateway/encryption-keys/{address}",
            "getEncryptionKey",
            "gateway",
            "The key to which others seal for an account, signed by the account.",
            |call| {
                Box::pin(async move {
                    let address = call.hash_param(0, "address")?;
                    let view = call.edge.port.encryption_key(address).await?;
                    ok(&view.ok_or_else(|| Problem::unknown("encryption_key", address))?)
                })
            },
        )
        .problems(&[404]),
        Route::get::<EnvelopeView>(
            "/gateway/envelopes/{sender}/{digest}",
            "getEnvelope",
            "gateway",
            "When an account said that it sealed an envelope.",
            |call| {
                Box::pin(async move {
                    let (sender, digest) = (call.hash_param(0, "sender")?, call.hash_param(1, "digest")?);
                    let view = call.edge.port.envelope(sender, digest).await?;
                    ok(&view.ok_or_else(|| Problem::unknown("envelope", digest))?)
                })
            },
        )
        .problems(&[404]),
        Route::get::<AccountTransactionPage>(
            "/gateway/accounts/{address}/transactions",
            "getAccountTransactions",
            "gateway",
            "Transactions that an account has signed or receives by, newest first.",
            |call| {
                Box::pin(async move {
                    let (address, page) = (call.hash_param(0, "address")?, call.query.page()?);
                    let view = call.edge.port.account_transactions(address, page).await?;
                    ok(&view.ok_or_else(|| Problem::unknown("account", address))?)
                })
            },
        )
        .paged()
        .problems(&[404]),
        Route::get::<BlockList>("/blockchain/blocks/latest", "getLatestBlocks", TAG, "The newest blocks.", |call| {
            Box::pin(async move {
                let limit = call.query.number("limit", 1, 200)?.unwrap_or(20);
                ok(&call.edge.port.latest_blocks(limit).await?)
            })
        })
        .query::<Limit>("limit", "How many."),
        Route::post::<BlockSearch, BlockPage>(
            "/blockchain/blocks/search",
            "searchBlocks",
            TAG,
            "Blocks by height, time, leader and number of transactions, newest first.",
            |mut call| {
                Box::pin(async move {
                    let search: BlockSearch = call.json().await?;
                    let page = page_of(search.page, search.page_size)?;
                    ok(&call.edge.port.search_blocks(search.filters, page).await?)
                })
            },
        ),
        Route::get::<BlockView>(
            "/blockchain/blocks/hash/{hash}",
            "getBlockByHash",
            TAG,
            "A block by its hash.",
            |call| {
                Box::pin(async move {
                    let hash = call.hash_param(0, "hash")?;
                    let view = call.edge.port.block_by_hash(hash).await?;
                    ok(&view.ok_or_else(|| Problem::unknown("block", hash))?)
                })
            },
        )
        .problems(&[404]),
        Route::get::<BlockView>("/blockchain/blocks/{height}", "getBlock", TAG, "A block by its height.", |call| {
            Box::pin(async move {
                let height = call.number_param(0, "height")?;
                let view = call.edge.port.block_by_height(height).await?;
                ok(&view.ok_or_else(|| Problem::unknown("block", height))?)
            })
        })
        .problems(&[404]),
        Route::get::<TransactionPage>(
            "/blockchain/blocks/{height}/transactions",
            "getBlockTransactions",
            TAG,
            "Transactions of a block, in its order.",
            |call| {
                Box::pin(async move {
                    let (height, page) = (call.number_param(0, "height")?, call.query.page()?);
                    let view = call.edge.port.block_transactions(height, page).await?;
                    ok(&view.ok_or_else(|| Problem::unknown("block", height))?)
                })
            },
        )
        .paged()
        .problems(&[404]),
        Route::get::<ChainStats>("/blockchain/stats", "getChainStats", TAG, "The chain in figures.", |call| {
            Box::pin(async move { ok(&call.edge.port.chain_stats().await?) })
        }),
    ]
}
