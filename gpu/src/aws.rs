//! The default on processors: AWS-LC, in vectorised C and assembly.

mod context;
mod kem;

use aws_lc_rs::signature::{ML_DSA_87, UnparsedPublicKey};

use crate::verify::{BatchVerifier, VerifyItem};

/// AWS-LC. Signatures with a context string go through its C interface, all others through its Rust crate.
#[derive(Debug, Clone, Copy, Default)]
pub struct AwsLc;

impl AwsLc {
    /// Whether the signature is valid for this message representative (FIPS 204's mu), which binds key, context and
    /// message: for callers that hash elsewhere.
    #[must_use]
    pub fn verify_representative(&self, public_key: &[u8], mu: &[u8; 64], signature: &[u8]) -> bool {
        VerifyItem::new(public_key, mu, signature).well_formed()
            && context::verify_representative(public_key, mu, signature)
    }
}

impl BatchVerifier for AwsLc {
    fn name(&self) -> &'static str {
        "aws-lc"
    }

    fn verify(&self, item: &VerifyItem<'_>) -> bool {
        // The length check comes first: the library would also take a key in X.509 form.
        if !item.well_formed() {
            return false;
        }
        if !item.context.is_empty() {
            return context::verify(item);
        }
        UnparsedPublicKey::new(&ML_DSA_87, item.public_key).verify(item.message, item.signature).is_ok()
    }
}
