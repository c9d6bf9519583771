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
    /// Transactions that were ordered and refused, remembered so that their senders can learn why. The oldest are
    /// forgotten.
    pub const DROPPED_TRANSACTIONS: usize = 65_536;
    /// How often the live tree and the validators are compared with what was last told.
    pub const LOOK_EVERY: Duration = Duration::from_millis(500);
}

/// Queries.
pub mod query {
    use std::time::Duration;

    /// Requests waiting at one query actor: 500 concurrent clients spread over two actors fit several times. More are
    /// refused with 503.
    pub const MAILBOX: usize = 2_048;
    /// Store reads under way for one query actor; others wait for their turn.
    pub const STORE_READS: usize = 4;
    /// Store reads under way or waiting for one query actor: 500 concurrent clients fit. More are refused with 503.
    pub const READS_WAITING: usize = 512;
    /// How long a route waits for its actor before 504.
    pub const ANSWER_WITHIN: Duration = Duration::from_secs(2);
    /// How long a route waits for the mempool, which verifies signatures, before 504.
    pub const ADMISSION_WITHIN: Duration = Duration::from_secs(10);
    /// Longest page of a list (the contract's).
    pub const PAGE_SIZE: usize = 200;
    /// Headers that one block search reads at the most; the answer says so where the search ended early.
    pub const SEARCH_HEADERS: u64 = 100_000;
    /// Rows of the index of addresses that one listing counts at the most; the answer says so where it ended early.
    pub const PARTY_ROWS: usize = 100_000;
    /// Blocks whose transaction trees are kept for proofs by one query actor; a tree is 64 bytes a transaction.
    pub const PROOF_TREES: usize = 16;
    /// Ledger headers in one answer, 230 bytes each: of an hour with a heartbeat a second. Those nearest to the checkpoint
    /// are given, and a client sees that the first is not the one it asked for.
    pub const PROOF_HEADERS: u64 = 4_096;
    /// Steps over epochs in one answer: some 25 KB each among four validators, 600 KB among a hundred. Clients ask on.
    pub const EPOCH_HOPS: usize = 8;
    /// Transactions that the local signer remembers as pending for one account: the nonce window. More are refused.
    pub const SIGNER_PENDING: usize = 1_024;
    /// Requests waiting at the signer: each costs a signature of about a millisecond. More are refused with 503.
    pub const SIGNER_MAILBOX: usize = 512;
}

/// Buffers that are used again.
pub mod buffers {
    /// Bytes of large buffers that wait to be used again: frames of three peers at full speed many times over. One that
    /// comes back at the bound is freed (`buffer_pool_idle_bytes`, `buffer_pool_hits_total`, `buffer_pool_misses_total`).
    pub const IDLE_BYTES: usize = 32 << 20;
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
    /// Changes of one tree that are made ready at once.
    pub const STORE_PIECE: usize = 256;
    /// Largest page value: with its checksum and sled's own header it stays below 64 KiB; values of 256 KiB leak space
    /// without end (measured).
    pub const STORE_VALUE: usize = 60 << 10;
    /// Bytes of a checkpoint that are encoded and written before the store's thread looks for other work: some
    /// milliseconds.
    pub const CHECKPOINT_SLICE: usize = 512 << 10;
    /// Bytes of a checkpoint after which they are synced. Nothing waits for a sync but the checkpoint; on a busy disk one takes
    /// as long for a megabyte (measured: 600 MB in syncs of 1 MiB took more than five minutes).
    pub const CHECKPOINT_FLUSH: usize = 16 << 20;
    /// By how much slices of a checkpoint become smaller at the most where they take long: each costs an answer of the journal.
    pub const CHECKPOINT_SHRINK: usize = 4;
    /// How long a slice of a checkpoint should take; those that take longer become smaller. The index of a new block, and
    /// with it the commit, waits for one slice at the most.
    pub const SLICE_WANTED: Duration = Duration::from_millis(10);
    /// Messages that the store's thread takes between two slices of a checkpoint.
    pub const MESSAGES_BETWEEN_SLICES: usize = 16;
    /// How long one piece of work (a block, a slice, a sync) may keep the store's thread before the store counts as stuck:
    /// many times the longest sync seen on a failing disk. Then its actor fails, and with it the process if the thread
    /// does not come back within [`OWNER_RELEASE`].
    pub const STORE_DEADLINE: Duration = Duration::from_secs(20);
    /// How long Persist waits for the index of one block: what may be before it, each in its time.
    pub const INDEX_DEADLINE: Duration = Duration::from_secs(40);
    /// How often the store actor looks at its thread.
    pub const STORE_LOOK: Duration = Duration::from_secs(1);
    /// How long the store's thread waits when the journal's mailbox is full, and how often: some seconds together.
    pub const JOURNAL_PAUSE: Duration = Duration::from_millis(10);
    /// See [`JOURNAL_PAUSE`]; after that the checkpoint is given up with its incarnation.
    pub const JOURNAL_PAUSES: u32 = 500;
    /// After a slice of rewriting the store, so many times what it took goes to other work at the least: a fifth of the
    /// thread's time is for it.
    pub const REWRITE_REST: u32 = 4;
    /// How long the store's thread sleeps at the most while a slice of rewriting is due soon; an index write waits as long.
    pub const REWRITE_POLL: Duration = Duration::from_millis(2);
    /// How long reads of a replaced database may go on before its removal is left to the next start.
    pub const REWRITE_READERS: Duration = Duration::from_secs(600);
    /// Pause between two pieces of a file that is removed.
    pub const REWRITE_PAUSE: Duration = Duration::from_millis(20);
    /// Free bytes that a rewriting leaves. The copy is given up when there are fewer.
    pub const REWRITE_SPARE: u64 = 512 << 20;
    /// So many times the live data must be free besides, or the factor that calls for a rewriting if it is larger: a copy took
    /// 3.4 times (measured).
    pub const REWRITE_ROOM: u64 = 4;
    /// A node that is behind waits with the rewriting until its store has so many times the size at which it would begin
    /// otherwise: enough for hours of commits.
    pub const REWRITE_BEHIND: u64 = 8;
    /// How often what may be left unsynced for the switch of a rewriting is doubled where the disk does not keep up.
    pub const REWRITE_LAST_SYNCS: u32 = 4;
    /// sled's cache: its size barely matters (measured), its memory does.
    pub const STORE_CACHE: u64 = 64 << 20;
}

/// Snapshots of the ledger's state.
pub mod snapshots {
    use std::time::Duration;

    /// Messages of the actor to itself: one look at a time, and the end of one writing.
    pub const MAILBOX: usize = 8;
    /// Bytes of one chunk: one frame of the bulk lane holds it.
    pub const CHUNK: usize = 1 << 20;
    /// Chunks of a snapshot: a terabyte.
    pub const CHUNKS: u64 = 1 << 20;
    /// Bytes of a manifest: that many chunks, and a proof. It is sent to peers in pieces of a chunk's size.
    pub const MANIFEST: u64 = 64 << 20;
    /// Checkpoints after the snapshot's that its certificate may attest: more are not looked for.
    pub const FOLLOWERS: usize = 63;
    /// Epochs from the genesis to a snapshot's.
    pub const HOPS: u64 = 65_536;
    /// Bytes of an epoch's certificate, or of a validator set: 128 validators with two keys each.
    pub const HOP: usize = 2 << 20;
    /// Bytes of the order's state: some 40 for each block and batch of twice the garbage-collection depth.
    pub const ORDER: usize = 128 << 20;
    /// Blocks above the garbage-collection round, as many as the order's state may name.
    pub const BLOCKS: u64 = 4_000_000;
    /// Bytes of the order's state with its blocks: above twice what 128 validators have above the garbage-collection round.
    pub const ORDER_PART: u64 = 512 << 20;
    /// Bytes of a snapshot that a node takes from peers: nothing certifies the list of chunks before all are there.
    pub const TAKEN: u64 = 64 << 30;
    /// How long a snapshot that was served last stays open, so that one which is removed meanwhile can be taken to its end.
    pub const SERVED_OPEN: Duration = Duration::from_secs(30);
    /// How long after a snapshot could not be taken the next is asked for.
    pub const REST: Duration = Duration::from_secs(10);
    /// Messages at the actor that exchanges snapshots with peers: requests, which are dropped beyond, and asked for again.
    pub const SYNC_MAILBOX: usize = 64;
    /// Requests of one peer that are answered in a second.
    pub const SERVED_PER_SECOND: u32 = 128;
    /// Chunks asked of one peer at a time.
    pub const ASKED_AT_ONCE: usize = 4;
    /// Peers that are asked for their manifests at a time: what they send stays in memory until it is checked.
    pub const MANIFESTS_AT_ONCE: usize = 8;
    /// How long the first manifest is waited for, and each of its pieces.
    pub const MANIFESTS_WITHIN: Duration = Duration::from_secs(10);
    /// How long others are waited for once there is one.
    pub const OTHERS_WITHIN: Duration = Duration::from_secs(3);
    /// How long a chunk may take before another peer is asked.
    pub const CHUNK_WITHIN: Duration = Duration::from_secs(10);
    /// Chunks that a peer may fail to give before it is asked for no more.
    pub const FAILURES: u32 = 3;
    /// How long a peer whose snapshot was wrong is not asked again.
    pub const STRUCK_FOR: Duration = Duration::from_secs(600);
    /// How often progress is logged.
    pub const PROGRESS_EVERY: Duration = Duration::from_secs(5);
    /// Snapshots on disk: the newest, and one more in case it is damaged. Older ones are removed.
    pub const KEPT: usize = 2;
    /// How often it is seen whether one is due.
    pub const LOOK_EVERY: Duration = Duration::from_millis(500);
    /// How long a state waits for the certificate of its checkpoint; after that a newer one is taken. It takes a few
    /// rounds, or never comes if the validator was restarted meanwhile.
    pub const CERTIFIED_WITHIN: Duration = Duration::from_secs(15);
}

/// Pruning of the log.
pub mod pruning {
    use std::time::Duration;

    /// Messages of the actor to itself: one look at a time.
    pub const MAILBOX: usize = 4;
    /// How often it is seen what of the log may go. This crate's own tests do not wait as long.
    pub const LOOK_EVERY: Duration = Duration::from_millis(if cfg!(test) { 50 } else { 2_000 });
    /// How soon again while more may go than is removed at once.
    pub const LOOK_AGAIN: Duration = Duration::from_millis(25);
    /// Segments removed at once. With segments of 64 MiB that is some gigabytes a second, far above what a disk takes in;
    /// a removal is never a long one.
    pub const SEGMENTS_AT_ONCE: u32 = 8;
    /// Commits of which it is looked up at once what they need: a fraction of a second.
    pub const COMMITS_AT_ONCE: usize = 20_000;
    /// How long the journal and the batch store may take to answer.
    pub const ANSWER: Duration = Duration::from_secs(20);
}

/// Consensus.
pub mod consensus {
    /// Messages to the validator: a few a round and peer, and the reports of its own tasks come on top. At the bound a
    /// peer's message is dropped and pulled again by digest; a batch store's report is made again.
    pub const VALIDATOR_MAILBOX: usize = 8_192;
    /// Requests of peers for old blocks. More are dropped; the peer asks another one.
    pub const BLOCKS_MAILBOX: usize = 256;
    /// Requests of peers for ranges of commits: each may read 4 MiB. More are dropped; the peer asks another one.
    pub const COMMITS_MAILBOX: usize = 16;
    /// Delivered batches that the validator keeps for a batch store that does not take messages. Older ones are
    /// forgotten: the store reads them from the log when it starts.
    pub const UNTOLD_DELIVERIES: usize = 16_384;
    /// Earlier epochs whose consensus keys the validator holds to check evidence of them: all of which evidence is taken by
    /// default, 330 KB each with 128 validators. At the bound the oldest goes and is read from the log again.
    pub const EARLIER_SETS: usize = 24;
}

/// The pipeline.
pub mod pipeline {
    use std::time::Duration;

    /// Commits between Order and Publish. Order waits at the bound, and the journal keeps what follows.
    pub const COMMITS_UNDER_WAY: usize = 48;
    /// Bytes of batches between Order and Publish; one commit may exceed it alone. Order waits at the bound.
    pub const BYTES_UNDER_WAY: usize = 64 << 20;
    /// Bytes of bodies that Order asks of the batch store at once, going by the commit; one batch may exceed it alone.
    /// What a slow disk reads within the time that Order waits.
    pub const BODIES_ASKED: u64 = 16 << 20;
    /// New commits that Order keeps for a stream that has not reached them; more are read from the journal.
    pub const NEW_COMMITS: usize = 256;
    /// Messages to Order: one per commit and one per commit done. A refused commit is read from the journal.
    pub const ORDER_MAILBOX: usize = 4_096;
    /// Messages to each later stage: more than may be under way, so that only leftovers of an ended stream can fill it;
    /// the stage before waits.
    pub const STAGE_MAILBOX: usize = 2 * COMMITS_UNDER_WAY;
    /// Commits that wait for the executing thread: more than may be under way, so that it never refuses.
    pub const EXECUTE_QUEUE: usize = 2 * COMMITS_UNDER_WAY;
    /// Blocks after which the state is written to the store however short ago it was: more than the usual interval holds at
    /// full rate, so that it matters for replays alone, and few enough to be replayed in seconds.
    pub const BLOCKS_BETWEEN_CHECKPOINTS: u64 = 1_000;
    /// A node whose last executed commit is older is behind: what can wait for the store waits.
    pub const BEHIND: Duration = Duration::from_secs(10);
    /// Starts of Execute from one and the same state in memory; then the store's checkpoint is loaded instead.
    pub const RESUMES_FROM_ONE_STATE: u32 = 3;
}

/// Signature checks. One takes some 80 µs of a core, 16 µs under a key that was used lately (`docs/performance.md`).
pub mod crypto {
    use std::time::Duration;

    use crate::crypto::Priority;

    /// Messages to the dispatcher. At the bound the asker gets its request back and counts as overloaded.
    pub const DISPATCHER_MAILBOX: usize = 4_096;
    /// Messages to one verifier: its jobs and its thread's farewell.
    pub const VERIFIER_MAILBOX: usize = 2 * JOBS_PER_VERIFIER;
    /// Jobs that one verifier holds: one that it works on and one so that it never waits. Further jobs stay with the
    /// dispatcher, where a block can still overtake them.
    pub const JOBS_PER_VERIFIER: usize = 2;
    /// Signatures in one job for a verifier that lately did so many a second: 2 ms of work, so that a block waits some 4 ms
    /// behind transactions. Not below 16, as with new keys, nor above 256, which cost 11 ms when senders whose keys were known
    /// give way to new ones. Whole eights, which are hashed side by side.
    #[must_use]
    pub fn items_per_job(rate: f64) -> usize {
        ((rate / 500.0) as usize / 8 * 8).clamp(16, 256)
    }
    /// Devices that are used at most, each with a worker of its own; those beyond are left alone.
    pub const DEVICES: usize = 16;
    /// How long the start waits for the driver to count its devices.
    pub const DEVICES_FOUND_WITHIN: Duration = Duration::from_secs(10);
    /// Messages to the worker of a device: its jobs, its timers and what its thread says.
    pub const DEVICE_MAILBOX: usize = 64;
    /// Jobs that the worker of a device holds: batches under way, and one that is gathered.
    pub const JOBS_PER_DEVICE: usize = 3;
    /// Signatures in one job for a device, at 7.5 KB each: 31 MB.
    pub const ITEMS_PER_DEVICE_JOB: usize = 4_096;
    /// How long a batch for a device waits until it is full.
    pub const DEVICE_WAIT: Duration = Duration::from_millis(2);
    /// A batch that takes longer hangs: the device is given up, and others check it. Below the job's own deadline.
    pub const DEVICE_DEADLINE: Duration = Duration::from_secs(2);
    /// One in so many of a device's verdicts is compared with the processor's.
    pub const DEVICE_CHECK_EVERY: usize = 64;
    /// A job that takes longer is given to another verifier: a thread that hangs, or a machine that sleeps.
    pub const JOB_DEADLINE: Duration = Duration::from_secs(5);
    /// Verdicts kept: 23 MB, taken at the start; at 30,000 transactions a second all that are executed within 2 s and nine in
    /// ten of those executed after 4 s. Others are forgotten and reached again when needed.
    pub const VERDICTS: usize = 7 * 32_768;

    /// Keys of senders in the form in which they verify fastest, 66 KB each: some 1,000, shared by all verifiers of a
    /// process. Keys that were used least lately go first; theirs are expanded again when needed.
    pub const EXPANDED_KEYS_BYTES: usize = 64 << 20;

    /// Signatures that wait in one class, at 7.5 KB each; further requests are refused. Consensus and execution are
    /// bounded by the block quotas and by the commits that may be unexecuted; a refusal there means a fault.
    #[must_use]
    pub const fn queue(class: Priority) -> usize {
        match class {
            Priority::Consensus => 16_384,
            Priority::Execution => 65_536,
            Priority::Admission => 16_384,
            Priority::Ahead => 16_384,
        }
    }
}

/// Admission, batchers and the batch store.
pub mod mempool {
    use std::time::Duration;

    /// How long a starting batch store waits for the journal to catch up: longer than any sync seen.
    pub const LOG_BARRIER: Duration = Duration::from_secs(20);
    /// Messages to admission: one per client request. At the bound clients get 503; their bodies count against the
    /// edge's own limits.
    pub const ADMISSION_MAILBOX: usize = 2_048;
    /// Bytes of admitted transactions that no stored batch holds yet: two seconds at 32 MiB/s. Further ones are refused
    /// with 429/503; this is where back-pressure from execution and consensus ends up.
    pub const POOL_BYTES: usize = 64 << 20;
    /// Pending transactions, those in stored batches included: 300 bytes each. Further ones are refused.
    pub const POOL_TRANSACTIONS: usize = 131_072;
    /// Pending transactions of one sender: half of its nonce window, so that the window moves on before it is full.
    /// Further ones of that sender are refused.
    pub const SENDER_TRANSACTIONS: usize = 512;
    /// Bytes of one sender's admitted transactions that no stored batch holds yet: an eighth of the pool. Further ones
    /// of that sender are refused.
    pub const SENDER_BYTES: usize = 8 << 20;
    /// How often admission asks a restarted dispatcher again before it refuses.
    pub const VERIFY_ATTEMPTS: usize = 3;
    /// How long admission waits for a restarted dispatcher.
    pub const DISPATCHER_BACK: Duration = Duration::from_secs(2);

    /// Messages to one batcher; at the bound admission refuses.
    pub const BATCHER_MAILBOX: usize = 4_096;
    /// Bytes that wait at one batcher. Admission's own bound comes first; this one holds also when admission has
    /// restarted and forgotten what it handed over. Further transactions are dropped (they stay pending at admission
    /// until they expire).
    pub const BATCHER_BYTES: usize = POOL_BYTES;
    /// Bytes of one batch that are not transactions: head and lengths.
    pub const BATCH_HEAD: usize = 64;
    /// Sequence numbers that a batcher reserves at once: a synced append for so many batches.
    pub const SEQUENCES: u64 = 4_096;
    /// How long a batcher waits before it offers a batch again that the store did not take.
    pub const PUT_AGAIN: Duration = Duration::from_millis(50);
    /// How long the store may take for one answer to a batcher.
    pub const PUT_WITHIN: Duration = Duration::from_secs(10);

    /// Messages to the batch store. At the bound batches from peers are dropped (and fetched later), batchers wait.
    pub const STORE_MAILBOX: usize = 4_096;
    /// Segments of the log before the newest snapshot's in which a restart looks for own batches that were not delivered:
    /// half a gigabyte, in which every batch that may wait fits several times. Only heads are read. What waited longer
    /// is forgotten; its transactions were never reported committed.
    pub const OWN_LOOK_BACK: u32 = 8;
    /// Own batches that are stored and not delivered; then sealing stops, the pool fills, clients are refused.
    pub const OWN_BATCHES: usize = 64;
    /// Their bytes.
    pub const OWN_BYTES: usize = 64 << 20;
    /// Bytes of stored bodies of one author that no accepted block names yet. Further pushes are dropped: a body is in
    /// the log for good, so what counts is how fast an author may fill it. Fetched bodies are exempt.
    pub const UNREFERENCED_BYTES: usize = 64 << 20;
    /// After this long a body no longer counts as unreferenced.
    pub const UNREFERENCED_TTL: Duration = Duration::from_secs(30);
    /// Bytes of decoded batches in memory; the oldest leave first and are read from the log when needed.
    pub const PREPARED_BYTES: usize = 128 << 20;
    /// Bodies that are being appended; further pushes are dropped.
    pub const APPENDING: usize = 512;
    /// Batches that are being fetched; more are reported as failed, and the validator asks again.
    pub const WANTED: usize = 4_096;
    /// Digests in one request to a peer.
    pub const REQUEST_DIGESTS: usize = 32;
    /// Requests to one peer that are under way; fewer than it serves, which counts one for a moment longer than the asker.
    pub const ASKED_OF_PEER: usize = 2;
    /// How long a peer may take before the next one is asked.
    pub const FETCH_WITHIN: Duration = Duration::from_millis(500);
    /// How often each candidate is asked before a fetch fails.
    pub const FETCH_ROUNDS: usize = 2;
    /// How often fetches are looked at.
    pub const FETCH_TICK: Duration = Duration::from_millis(100);
    /// Requests of one peer that are being served; further ones are dropped.
    pub const SERVING_PER_PEER: usize = 4;
    /// Reads of the log under way; further ones wait.
    pub const LOG_READS: usize = 4;
}

/// The audit log.
pub mod audit {
    use std::time::Duration;

    /// Records waiting at the audit actor. At the bound the sender's record is refused (counted by
    /// `actor_mailbox_refused_total`); what it reports has its own log line.
    pub const MAILBOX: usize = 1_024;
    /// Entries that wait for the store. At the bound further records are dropped, and an entry says how many.
    pub const PENDING: usize = 10_000;
    /// Entries in one message to the store.
    pub const GROUP: usize = 256;
    /// How long the store may take before its answer counts as lost and the entries are sent again.
    pub const STORE_WITHIN: Duration = Duration::from_secs(10);
    /// The wait before entries are sent again.
    pub const RETRY_AFTER: Duration = Duration::from_millis(200);
    /// Longest text field in bytes; longer ones are cut.
    pub const FIELD: usize = 512;
    /// Longest details in bytes; longer ones are cut.
    pub const DETAILS: usize = 8_192;
    /// Newest entries whose chain is verified at the start.
    pub const VERIFY_AT_START: usize = 1_000;
    /// Newest entries that one search or summary looks at.
    pub const SEARCHED: usize = 100_000;
    /// Entries read from the store at once.
    pub const CHUNK: usize = 512;
}
