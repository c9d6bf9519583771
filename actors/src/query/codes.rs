//! Stable texts for the ledger's reasons, as they stand in answers.

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
        // Staking is the only module.
        FailureCode::Module(code) => StakingFailure::of_code(code).map_or("module_failure", StakingFailure::name),
        _ => "module_failure",
    }
}
