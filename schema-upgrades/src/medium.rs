//! What a step sees of the database: reads, batches and flushes, so that faults can be put in between.

/// Keys and values in the order of the keys.
pub type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// One change of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Vec<u8>,
    /// The new value; none removes the key.
    pub value: Option<Vec<u8>>,
}

impl Change {
    /// Sets a key.
    #[must_use]
    pub fn put(key: &[u8], value: &[u8]) -> Self {
        Self { key: key.to_vec(), value: Some(value.to_vec()) }
    }

    /// Removes a key.
    #[must_use]
    pub fn remove(key: &[u8]) -> Self {
        Self { key: key.to_vec(), value: None }
    }
}

/// The database as steps use it. Every write is one call, so a test can end the world before and after each.
pub trait Medium {
    /// Makes sure that a tree exists.
    ///
    /// # Errors
    /// sled's.
    fn ensure_tree(&self, tree: &str) -> Result<(), sled::Error>;

    /// Takes a tree away. Steps empty it in chunks before.
    ///
    /// # Errors
    /// sled's.
    fn drop_tree(&self, tree: &str) -> Result<(), sled::Error>;

    /// The last key of a tree.
    ///
    /// # Errors
    /// sled's.
    fn last_key(&self, tree: &str) -> Result<Option<Vec<u8>>, sled::Error>;

    /// The names of all trees.
    fn trees(&self) -> Vec<String>;

    /// One value.
    ///
    /// # Errors
    /// sled's.
    fn get(&self, tree: &str, key: &[u8]) -> Result<Option<Vec<u8>>, sled::Error>;

    /// Up to `limit` pairs with keys above `after`, or from the beginning.
    ///
    /// # Errors
    /// sled's.
    fn scan(&self, tree: &str, after: Option<&[u8]>, limit: usize) -> Result<Pairs, sled::Error>;

    /// Applies changes of one tree at once. More than 1,000 make sled's memory grow out of proportion, and each call
    /// costs two writes to the disk and waits for them on sled's threads: for one change, and for those that need not
    /// come together, there is [`Medium::apply_each`].
    ///
    /// # Errors
    /// sled's.
    fn apply(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error>;

    /// Applies changes of one tree one after the other. A crash keeps those before some change, of this call or of
    /// another of the same thread, and none behind it; each change is kept as a whole.
    ///
    /// # Errors
    /// sled's; the changes before the one that failed are there.
    fn apply_each(&self, tree: &str, changes: &[Change]) -> Result<(), sled::Error>;

    /// Makes everything applied so far durable.
    ///
    /// # Errors
    /// sled's.
    fn flush(&self) -> Result<(), sled::Error>;
}
