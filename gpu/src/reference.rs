//! The reference: fips204, pure Rust. Slow, and what the others are held to.

use fips204::ml_dsa_87;
use fips204::traits::{SerDes, Verifier};

use crate::verify::{BatchVerifier, VerifyItem};

/// fips204.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fips204;

impl BatchVerifier for Fips204 {
    fn name(&self) -> &'static str {
        "fips204"
    }

    fn verify(&self, item: &VerifyItem<'_>) -> bool {
        let (Ok(public_key), Ok(signature)) = (item.public_key.try_into(), item.signature.try_into()) else {
            return false;
        };
        item.well_formed()
            && ml_dsa_87::PublicKey::try_from_bytes(public_key)
                .is_ok_and(|key| key.verify(item.message, &signature, item.context))
    }
}
