//! Batches of ML-DSA-87 verifications, ML-KEM-1024 and tree hashes, on the processor and on CUDA devices.
//!
//! Every back-end gives the same verdict for every input, however malformed. Knows bytes, keys and signatures; knows no
//! actors and no transactions. The only crate in which `unsafe` may appear, and only in the modules
//! that speak to C and to vector registers.

mod aws;
mod choice;
mod cuda;
mod device;
mod device_check;
mod envelope;
mod hash;
mod keccak;
mod kem;
mod kernels;
mod keys;
mod mldsa;
mod reference;
mod seal;
mod verify;

pub use aws::AwsLc;
pub use choice::{BackEnd, ChoiceError, Chosen, SelfTestError, back_ends, choose, fastest, self_test};
pub use cuda::Cuda;
pub use device::{Device, DeviceInfo, NoDevice, count_devices, detect, test_device};
pub use device_check::{DeviceReport, ProcessorDevice, check_device};
pub use envelope::{
    ENVELOPE_HEADER_LEN, EnvelopeError, EnvelopeParties, encryption_keys, envelope_digest, envelope_parties,
    open_envelope, seal_envelope,
};
pub use hash::CpuHasher;
pub use kem::{
    CIPHERTEXT_LEN, DECAPSULATION_KEY_LEN, ENCAPSULATION_KEY_LEN, Encapsulated, Fips203, Kem, KemError, KemKeys,
    SharedSecret, random_32,
};
#[cfg(feature = "host-kernels")]
pub use kernels::HostKernels;
pub use kernels::{DeviceError, KeyPairs, KeyUse, Vote};
pub use keys::{Seed, SignError, Signer, public_key_of, sign_with_context};
pub use mldsa::{KeyCacheCounts, Native};
pub use reference::Fips204;
pub use seal::{PassphraseCost, SEAL_OVERHEAD, SealError, key_of_passphrase, seal, unseal};
pub use verify::{BatchVerifier, PUBLIC_KEY_LEN, SIGNATURE_LEN, VerifyItem};
