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
