//! The trait of all verifiers.

/// Bytes of an ML-DSA-87 public key.
pub const PUBLIC_KEY_LEN: usize = aurigraph_ledger::types::PUBLIC_KEY_LEN;
/// Bytes of an ML-DSA-87 signature.
pub const SIGNATURE_LEN: usize = aurigraph_ledger::types::SIGNATURE_LEN;
/// Longest context string of FIPS 204; a signature under a longer one is invalid.
pub(crate) const MAX_CONTEXT: usize = 255;

/// One signature to check.
#[derive(Debug, Clone, Copy)]
pub struct VerifyItem<'a> {
    /// The raw public key.
    pub public_key: &'a [u8],
    /// What was signed.
    pub message: &'a [u8],
    /// The signature.
    pub signature: &'a [u8],
    /// The context string; empty for blocks and transactions.
    pub context: &'a [u8],
}

impl<'a> VerifyItem<'a> {
    /// A signature with the empty context.
    #[must_use]
    pub const fn new(public_key: &'a [u8], message: &'a [u8], signature: &'a [u8]) -> Self {
        Self { public_key, message, signature, context: &[] }
    }

    /// Whether all lengths are those of ML-DSA-87. Anything else is an invalid signature with every back-end, also
    /// where the library behind it would read another encoding of a key.
    pub(crate) const fn well_formed(&self) -> bool {
        self.public_key.len() == PUBLIC_KEY_LEN
            && self.signature.len() == SIGNATURE_LEN
            && self.context.len() <= MAX_CONTEXT
    }
}

/// Checks ML-DSA-87 signatures in batches. All implementations agree on every input.
pub trait BatchVerifier: Send + Sync {
    /// Short name, for logs, metrics and `/info`.
    fn name(&self) -> &'static str;

    /// Whether this signature is valid. Never panics, whatever the bytes.
    fn verify(&self, item: &VerifyItem<'_>) -> bool;

    /// Sets `verdicts[i]` to whether `items[i]` is valid; a verdict without an item becomes false. Eights of items may cost
    /// less than eight single ones.
    fn verify_batch(&self, items: &[VerifyItem<'_>], verdicts: &mut [bool]) {
        for (at, verdict) in verdicts.iter_mut().enumerate() {
            *verdict = items.get(at).is_some_and(|item| self.verify(item));
        }
    }
}
