//! Forms of parameters and bodies, as the document describes them.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use aurigraph_actors::query::values::{HexHash, Units};
use aurigraph_actors::query::views::TransactionStatus;
use aurigraph_ledger::Hash;

/// Declares a form that stands in the document only.
macro_rules! form {
    ($(#[$doc:meta])* $name:ident = $($schema:tt)*) => {
        $(#[$doc])*
        pub struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($($schema)*)
            }
        }
    };
}

form!(
    /// A page's number.
    PageNumber = { "type": "integer", "minimum": 1, "maximum": 9_007_199_254_740_991_u64, "default": 1 }
);
form!(
    /// A page's size.
    PageSize = { "type": "integer", "minimum": 1, "maximum": 200, "default": 20 }
);
form!(
    /// A block's height.
    Height = { "type": "integer", "minimum": 0, "maximum": u64::MAX }
);
form!(
    /// A checkpoint's number, or the newest certified one.
    CheckpointNumber = { "type": "string", "pattern": "^(latest|[0-9]{1,20})$" }
);
form!(
    /// How many of the newest.
    Limit = { "type": "integer", "minimum": 1, "maximum": 200, "default": 20 }
);
form!(
    /// A hash or an address as it may be given: digits of either case.
    HexInput = { "type": "string", "pattern": "^0x[0-9a-fA-F]{64}$" }
);
form!(
    /// Whether to wait for the commit.
    Wait = { "type": "string", "enum": ["committed", "accepted"], "default": "committed" }
);
form!(
    /// Kinds of events, separated by commas.
    Kinds = {
        "type": "string",
        "pattern": "^(block|transaction|validator|actor)(,(block|transaction|validator|actor))*$"
    }
);
form!(
    /// An event's id.
    EventId = { "type": "string", "pattern": "^[0-9]{1,19}$" }
);
form!(
    /// Bytes: `0x` and hex digits, or base64.
    EncodedBytes = {
        "type": "string",
        "pattern": "^(0x([0-9a-fA-F]{2})+|([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{3}=|[A-Za-z0-9+/]{2}==))$"
    }
);

/// The body of a submission in JSON.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubmitBody {
    /// A signed transaction's canonical bytes: `0x` and hex digits, or base64.
    #[schemars(with = "EncodedBytes")]
    pub transaction: String,
}

/// The body of a submission of many in JSON.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SubmitManyBody {
    /// Signed transactions' canonical bytes: `0x` and hex digits, or base64.
    #[schemars(with = "Vec<EncodedBytes>", length(min = 1, max = 4096))]
    pub transactions: Vec<String>,
}

/// The body of a transfer: a signed transaction, or plain fields that the node signs.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TransferBody {
    /// A signed transaction's canonical bytes: `0x` and hex digits, or base64. Then nothing else may be given.
    pub transaction: Option<String>,
    /// Who receives: an address.
    pub recipient: Option<String>,
    /// How much, in base units.
    pub amount: Option<String>,
    /// At most 256 bytes.
    pub memo: Option<String>,
}

impl JsonSchema for TransferBody {
    fn schema_name() -> Cow<'static, str> {
        "TransferBody".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (signed, plain) = (generator.subschema_for::<SubmitBody>(), generator.subschema_for::<PlainTransferForm>());
        json_schema!({ "oneOf": [signed, plain] })
    }
}

/// The body of an unjailing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct UnjailBody {
    /// At most 256 bytes.
    pub memo: Option<String>,
}

/// A transfer that the node signs.
#[derive(JsonSchema)]
#[schemars(rename = "PlainTransfer", deny_unknown_fields)]
#[allow(dead_code, reason = "stands in the document only")]
struct PlainTransferForm {
    /// Who receives: an address.
    recipient: HexInput,
    /// How much, in base units.
    amount: Units,
    /// At most 256 bytes.
    #[schemars(length(max = 256))]
    memo: Option<String>,
}

/// What became of a submitted transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubmittedView {
    /// Its id.
    #[schemars(with = "HexHash")]
    pub hash: Hash,
    /// Where it stands.
    pub status: TransactionStatus,
    /// The block that includes it.
    pub block_height: Option<u64>,
    /// Its position there.
    pub index: Option<u32>,
    /// How many operations it holds, once it is committed.
    pub operation_count: Option<u32>,
    /// How many of them failed.
    pub failed_operations: Option<u32>,
}

/// What became of one of many submitted transactions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubmittedItem {
    /// Its id; none if it was refused before it had one.
    #[schemars(with = "Option<HexHash>")]
    pub hash: Option<Hash>,
    /// Where it stands; `failed` if it was refused.
    pub status: TransactionStatus,
    /// The block that includes it.
    pub block_height: Option<u64>,
    /// Its position there.
    pub index: Option<u32>,
    /// Stable code of the refusal or failure.
    pub code: Option<String>,
    /// What is wrong with it.
    pub detail: Option<String>,
}

/// What became of many submitted transactions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SubmittedMany {
    /// How many the mempool took.
    pub accepted: u64,
    /// How many it refused.
    pub refused: u64,
    /// One each, in order.
    pub results: Vec<SubmittedItem>,
}

/// How an actor is to end.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum KillModeForm {
    /// At the next await point.
    Kill,
    /// A panic inside the handler.
    Panic,
    /// The handler returns an error.
    Error,
    /// An ordered stop.
    Stop,
    /// The task is aborted.
    Abort,
}

/// The body of an order to end an actor.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KillBody {
    /// How.
    pub mode: KillModeForm,
}

/// What became of an order to end an actor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KillView {
    /// The actor.
    pub name: String,
    /// How.
    pub mode: String,
    /// `killed`, or `scheduled` where the answer would not get out otherwise.
    pub outcome: String,
}
