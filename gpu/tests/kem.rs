//! The NIST vectors of ML-KEM-1024 and malformed inputs, over every implementation.
#![allow(clippy::unwrap_used)]

use std::io::Read;

use aurigraph_gpu::{AwsLc, Fips203, Kem, KemError};
use serde::Deserialize;
use serde_json::Value;

#[derive(Deserialize)]
struct KeyGenCase {
    #[serde(with = "hex::serde")]
    z: Vec<u8>,
    #[serde(with = "hex::serde")]
    d: Vec<u8>,
    #[serde(with = "hex::serde")]
    ek: Vec<u8>,
    #[serde(with = "hex::serde")]
    dk: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Case {
    tc_id: u32,
    #[serde(default)]
    test_passed: Option<bool>,
    #[serde(default, with = "hex::serde")]
    ek: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    dk: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    c: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    k: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    m: Vec<u8>,
}

#[cfg(not(feature = "host-kernels"))]
const ALL: [&dyn Kem; 2] = [&Fips203, &AwsLc];
#[cfg(feature = "host-kernels")]
const ALL: [&dyn Kem; 4] = {
    use aurigraph_gpu::HostKernels;
    [&Fips203, &AwsLc, &HostKernels::uncached(), &HostKernels::uncached().backwards(5)]
};

fn groups(gzip: &[u8]) -> Vec<Value> {
    let mut json = String::new();
    flate2::read::GzDecoder::new(gzip).read_to_string(&mut json).unwrap();
    let mut vectors: Value = serde_json::from_str(&json).unwrap();
    serde_json::from_value(vectors["testGroups"].take()).unwrap()
}

fn cases(function: &str, count: usize) -> Vec<Case> {
    let groups = groups(include_bytes!("vectors/ml-kem-1024-encapdecap.json.gz"));
    let group = groups.into_iter().find(|group| group["function"] == function).unwrap();
    let cases: Vec<Case> = serde_json::from_value(group["tests"].clone()).unwrap();
    assert_eq!(cases.len(), count);
    cases
}

fn bytes_32(bytes: &[u8]) -> &[u8; 32] {
    bytes.try_into().unwrap()
}

#[test]
fn every_pair_of_seeds_gives_the_keys_that_nist_expects() {
    let groups = groups(include_bytes!("vectors/ml-kem-1024-keygen.json.gz"));
    let cases: Vec<KeyGenCase> = serde_json::from_value(groups[0]["tests"].clone()).unwrap();
    assert_eq!(cases.len(), 25);
    for case in cases {
        for kem in ALL {
            let keys = kem.key_pair(bytes_32(&case.d), bytes_32(&case.z)).unwrap();
            assert_eq!(keys.encapsulation, case.ek, "{}", kem.name());
            assert_eq!(*keys.decapsulation, case.dk, "{}", kem.name());
        }
    }
}

#[test]
fn encapsulation_gives_what_nist_expects() {
    for case in cases("encapsulation", 25) {
        for kem in ALL {
            let (ciphertext, secret) = kem.encapsulate(&case.ek, bytes_32(&case.m)).unwrap();
            assert_eq!((ciphertext, &secret[..]), (case.c.clone(), &case.k[..]), "{}, case {}", kem.name(), case.tc_id);
        }
    }
}

#[test]
fn decapsulation_gives_what_nist_expects_also_for_modified_ciphertexts() {
    for case in cases("decapsulation", 10) {
        for kem in ALL {
            let secret = kem.decapsulate(&case.dk, &case.c).unwrap();
            assert_eq!(secret[..], case.k, "{}, case {}", kem.name(), case.tc_id);
        }
    }
}

#[test]
fn keys_that_fail_the_checks_of_fips_203_are_refused() {
    for case in cases("decapsulationKeyCheck", 10) {
        for kem in ALL {
            let refused = kem.decapsulate(&case.dk, &[0; 1_568]).err();
            let expected = (case.test_passed == Some(false)).then_some(KemError::Key { what: "decapsulation key" });
            assert_eq!(refused, expected, "{}, case {}", kem.name(), case.tc_id);
        }
    }
    for case in cases("encapsulationKeyCheck", 10) {
        for kem in ALL {
            let refused = kem.encapsulate(&case.ek, &[7; 32]).err();
            let expected = (case.test_passed == Some(false)).then_some(KemError::Key { what: "encapsulation key" });
            assert_eq!(refused, expected, "{}, case {}", kem.name(), case.tc_id);
        }
    }
}

#[test]
fn all_implementations_refuse_the_same_lengths_and_numbers() {
    let keys = AwsLc.key_pair(&[1; 32], &[2; 32]).unwrap();
    let (ciphertext, secret) = AwsLc.encapsulate(&keys.encapsulation, &[3; 32]).unwrap();
    for kem in ALL {
        assert_eq!(*kem.decapsulate(&keys.decapsulation, &ciphertext).unwrap(), *secret);
        for wrong in [0, 1, 1_567, 1_569] {
            assert!(matches!(kem.encapsulate(&vec![0; wrong], &[3; 32]), Err(KemError::Length { .. })));
            let cut = vec![0; wrong];
            assert!(matches!(kem.decapsulate(&keys.decapsulation, &cut), Err(KemError::Length { .. })));
        }
        assert!(matches!(kem.decapsulate(&keys.decapsulation[1..], &ciphertext), Err(KemError::Length { .. })));
        // A number of the secret vector that is q or more: 12 bits set.
        let mut broken = keys.decapsulation.clone();
        broken[0] = 0xff;
        broken[1] |= 0x0f;
        assert_eq!(
            kem.decapsulate(&broken, &ciphertext).err(),
            Some(KemError::Key { what: "decapsulation key" }),
            "{}",
            kem.name()
        );
    }
}

#[test]
fn wrong_ciphertexts_carry_the_same_secret_for_all_implementations() {
    let keys = AwsLc.key_pair(&[4; 32], &[5; 32]).unwrap();
    let (ciphertext, secret) = AwsLc.encapsulate(&keys.encapsulation, &[6; 32]).unwrap();
    for at in (0..ciphertext.len()).step_by(61) {
        let mut wrong = ciphertext.clone();
        wrong[at] ^= 1;
        let secrets = ALL.map(|kem| *kem.decapsulate(&keys.decapsulation, &wrong).unwrap());
        assert!(secrets.iter().all(|other| *other == secrets[0]));
        assert_ne!(secrets[0], *secret);
    }
}
