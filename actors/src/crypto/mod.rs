//! Signature checking: verifier actors over threads, and the dispatcher that queues, shares out and remembers.
//!
//! Nothing here decides what a verdict means; that is the ledger's.

mod back_end;
mod cache;
mod describe;
mod dispatcher;
#[cfg(test)]
mod fake_device;
#[cfg(test)]
mod fleet_tests;
mod gpu_state;
mod gpu_worker;
mod job_reply;
mod messages;
mod queue;
mod requests;
mod share;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod verifier;

pub use back_end::{BackEndError, cpu_back_end, log_back_end, use_back_end};
pub(crate) use describe::describe_metrics;
pub use dispatcher::{Internal, VerifyDispatcher, Worker};
pub use gpu_state::{GpuState, GpuStatus, Gpus};
pub use gpu_worker::{DeviceMsg, GpuWorker, GpuWorkerState, Open, Tuning};
pub use job_reply::JobReply;
pub use messages::{
    Check, DispatchError, DispatchMsg, KnownKey, Priority, Signed, TransactionCheck, Verdict, VerifierMsg,
};
pub use verifier::{Verifier, VerifierState};
