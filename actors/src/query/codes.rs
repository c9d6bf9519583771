//! Stable texts for the ledger's reasons, as they stand in answers.

use aurigraph_ledger::identity::IdentityFailure;
use aurigraph_ledger::staking::StakingFailure;
use aurigraph_ledger::{ExclusionReason, FailureCode};

/// Why a transaction is in no block.
#[must_use]
pub const fn exclusion(reason: ExclusionReason) -> &'static str {
    match reason {
        ExclusionReason::WrongChain => "wrong_chain",
        ExclusionReason::Expired => "expired",
        ExclusionReason::ExpiryTooFar => "expiry_too_far",
        ExclusionReason::UnknownSender => "unknown_sender",
        ExclusionReason::NoKey => "key_not_registered",
        ExclusionReason::NonceUsed => "nonce_used",
        ExclusionReason::NonceOutOfWindow => "nonce_out_of_window",
        ExclusionReason::MaxFeeTooLow => "max_fee_too_low",
        ExclusionReason::CannotPayFee => "cannot_pay_fee",
        ExclusionReason::InvalidSignature => "invalid_signature",
    }
}

/// Why an operation had no effect.
#[must_use]
pub fn failure(code: FailureCode) -> &'static str {
    match code {
        FailureCode::ZeroAmount => "zero_amount",
        FailureCode::SelfTransfer => "self_transfer",
        FailureCode::UnknownIndex => "unknown_index",
        FailureCode::InsufficientBalance => "insufficient_balance",
        FailureCode::BalanceOverflow => "balance_overflow",
        FailureCode::NoIndexLeft => "no_index_left",
        // No two modules have a code in common.
        FailureCode::Module(code) => {
            let staking = StakingFailure::of_code(code).map(StakingFailure::name);
            let identity = || IdentityFailure::of_code(code).map(IdentityFailure::name);
            staking.or_else(identity).unwrap_or("module_failure")
        }
        _ => "module_failure",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_of_a_module_has_one_name() {
        let staking = StakingFailure::ALL.map(|failure| failure as u8);
        assert!(IdentityFailure::ALL.iter().all(|failure| !staking.contains(&(*failure as u8))));
        for wanted in IdentityFailure::ALL {
            assert_eq!(failure(FailureCode::Module(wanted as u8)), wanted.name());
        }
        assert_eq!(failure(FailureCode::Module(255)), "module_failure");
    }
}
