//! Every bound of the node's actors, with its reason and what happens when it is reached.

/// Events and those who listen.
pub mod events {
    use std::time::Duration;

    /// Messages to the event hub: one per published block and a few per client that subscribes or waits. At the bound
    /// the pipeline's message is refused and its block is missing from the stream (counted by
    /// `actor_mailbox_refused_total`); clients get 503.
    pub const HUB_MAILBOX: usize = 8_192;
    /// Recent events kept for clients that resume: minutes of an idle chain, seconds of a busy one. Older ones are
    /// forgotten, and a client that asks for them is told of the gap. At most 12 MiB with full transaction events.
    pub const RING: usize = 1_024;
    /// Outcomes in one transaction event; longer blocks are told in several events.
    pub const TRANSACTIONS_PER_EVENT: usize = 256;
    /// Events that wait for one subscriber; one that reads more slowly is dropped and may resume.
    pub const SUBSCRIBER_QUEUE: usize = 512;
    /// Subscribers at once; more are refused with 503.
    pub const SUBSCRIBERS: usize = 1_024;
    /// Clients that wait for a commit at once; more get 202 at once instead of after their commit.
    pub const WAITING_CLIENTS: usize = 65_536;
    /// How often the live tree is compared with what was last told.
    pub const LOOK_EVERY: Duration = Duration::from_millis(500);
}

/// Queries.
pub mod query {
    use std::time::Duration;

    /// Requests waiting at one query actor: 500 concurrent clients spread over two actors fit several times. More are
    /// refused with 503.
    pub const MAILBOX: usize = 2_048;
    /// Store reads under way for one query actor. At the bound the actor waits, so its mailbox fills, so clients are
    /// refused.
    pub const STORE_READS: usize = 4;
    /// How long a route waits for its actor before 504.
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
    /// Longest page of a list (the contract's).
    pub const PAGE_SIZE: usize = 200;
    /// Headers that one block search reads at the most; the answer says so where the search ended early.
    pub const SEARCH_HEADERS: u64 = 100_000;
    /// Transactions that the local signer remembers as pending for one account: the nonce window. More are refused.
    pub const SIGNER_PENDING: usize = 1_024;
    /// Requests waiting at the signer: each costs a signature of about a millisecond. More are refused with 503.
    pub const SIGNER_MAILBOX: usize = 512;
}

/// Journal and store.
pub mod storage {
    use std::time::Duration;

    /// Appends waiting at the journal actor: a round's blocks and batches of a hundred validators several times. At the
    /// bound the sender is refused: consensus fails itself and is rebuilt from the journal, the mempool refuses clients.
    pub const JOURNAL_MAILBOX: usize = 4_096;
    /// Appends handed to the journal's thread and not yet written. At the bound the actor waits, so its mailbox fills.
    pub const JOURNAL_QUEUE: usize = 1_024;
    /// Kibibytes handed to the journal's thread and not yet written: a quarter second of the fastest disk seen. At the
    /// bound the actor waits.
    pub const JOURNAL_QUEUE_KIB: u32 = 64 * 1_024;
    /// Bytes written by one group: more wait for the next, so that a sync never waits for endless writing.
    pub const JOURNAL_GROUP: usize = 8 << 20;
    /// Size of a segment file: small enough to scan in a tenth of a second, large enough to be few.
    pub const JOURNAL_SEGMENT: u64 = 64 << 20;
    /// Largest body of one record: consensus snapshots and batches stay far below. Larger ones are refused.
    pub const JOURNAL_MAX_BODY: usize = 32 << 20;
    /// Segment files that one set of readers keeps open; at the bound all are closed and opened again as needed.
    pub const JOURNAL_OPEN_SEGMENTS: usize = 128;
    /// How long a new incarnation waits for the thread of the one before: longer than any sync seen.
    pub const OWNER_RELEASE: Duration = Duration::from_secs(20);
    /// Messages waiting at the store actor. At the bound the pipeline waits with them.
    pub const STORE_MAILBOX: usize = 256;
    /// Messages handed to the store's thread and not yet applied. At the bound the actor waits, so its mailbox fills.
    pub const STORE_QUEUE: usize = 64;
    /// Keys in one sled batch: with 10,000 sled holds eight times the memory (measured).
    pub const STORE_BATCH_KEYS: usize = 1_000;
    /// Bytes in one sled batch: a few hundred pages.
    pub const STORE_BATCH_BYTES: usize = 4 << 20;
    /// Largest page value: with its checksum and sled's own header it stays below 64 KiB; values of 256 KiB leak space
    /// without end (measured).
    pub const STORE_VALUE: usize = 60 << 10;
    /// sled's cache: its size barely matters (measured), its memory does.
    pub const STORE_CACHE: u64 = 64 << 20;
    /// Transactions in one block, as far as the index can count them.
    pub const STORE_BLOCK_TRANSACTIONS: usize = 1 << 24;
}
