//! A steady load in the background that remembers what was reported committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::{Client, Wallet};

/// The wait after a node refused or did not answer.
const BACK_OFF: Duration = Duration::from_millis(50);

/// Senders, each waiting for its transfer's commit before the next.
pub struct Load {
    stopped: Arc<AtomicBool>,
    committed: Arc<Mutex<Vec<String>>>,
    tasks: Vec<tokio::task::JoinHandle<Wallet>>,
}

impl Load {
    /// Starts one sender a wallet; wallets are spread over the nodes.
    #[must_use]
    pub fn start(wallets: Vec<Wallet>, clients: &[Client]) -> Self {
        let (stopped, committed) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
        let tasks = wallets.into_iter().enumerate().map(|(at, wallet)| {
            let client = clients[at % clients.len()].clone();
            tokio::spawn(send(wallet, client, Arc::clone(&stopped), Arc::clone(&committed)))
        });
        Self { tasks: tasks.collect(), stopped, committed }
    }

    /// Ids of the transactions that a node said are committed, so far.
    #[must_use]
    pub fn committed(&self) -> Vec<String> {
        self.committed.lock().unwrap().clone()
    }

    /// Ends it and gives the wallets back.
    pub async fn stop(self) -> Vec<Wallet> {
        self.stopped.store(true, Ordering::Relaxed);
        let mut wallets = Vec::new();
        for task in self.tasks {
            wallets.push(task.await.unwrap());
        }
        wallets
    }
}

async fn send(
    mut wallet: Wallet,
    client: Client,
    stopped: Arc<AtomicBool>,
    committed: Arc<Mutex<Vec<String>>>,
) -> Wallet {
    while !stopped.load(Ordering::Relaxed) {
        let transaction = wallet.transfers([(200 + wallet.index, 1)]);
        // The same transaction again until it is decided: a nonce left out would block all later ones.
        while !stopped.load(Ordering::Relaxed) {
            let answer = client.post_bytes("/blockchain/transactions", transaction.shared_bytes()).await;
            match answer.status {
                200 => {
                    committed.lock().unwrap().push(transaction.id().to_string());
                    break;
                }
                // A nonce that is used already: it was committed while nobody could say so.
                409 => break,
                _ => tokio::time::sleep(BACK_OFF).await,
            }
        }
    }
    wallet
}
