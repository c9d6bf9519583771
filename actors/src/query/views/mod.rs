//! What queries answer: plain data in the contract's words. A figure that the node cannot know is `None`.

mod accounts;
mod audit;
mod chain;
mod checkpoint;
mod network;
mod node;
mod validators;

pub use accounts::{
    AccountProofView, AccountUnbondingView, BalanceView, DelegationView, EncryptionKeyView, EnvelopeView, TokenBalance,
};
pub use audit::{AuditEntryView, AuditFilters, AuditLogPage, AuditSearch, AuditSummaryView, AuditUserView};
pub use chain::{
    AccountRole, AccountTransaction, AccountTransactionPage, BlockFilters, BlockList, BlockPage, BlockSearch,
    BlockView, ChainStats, OperationStatus, OperationView, Page, ProofView, TransactionPage, TransactionStatus,
    TransactionSummary, TransactionView,
};
pub use checkpoint::{CertificateView, CheckpointView, DivergenceView, EpochHopView, SignedCoreView};
pub use network::{
    EdgeStatus, NetworkStats, NodePerformance, NodeStatus, NodeType, NodeView, TopologyEdge, TopologySummary,
    TopologyView,
};
pub use node::{
    ActorRowView, ActorTreeView, ConsensusView, DeviceView, FeatureView, HealthView, InfoView, PerformanceView,
    ReadyCheck, ReadyView, ScheduleView, SigningView,
};
pub use validators::{
    SlashingEventPage, SlashingEventView, UnbondingView, ValidatorDetail, ValidatorMetrics, ValidatorPage,
    ValidatorStatus, ValidatorView,
};
