//! The NIST vectors of ML-DSA-87, over every back-end.
#![allow(clippy::unwrap_used)]

mod common;

use std::io::Read;

use aurigraph_gpu::{AwsLc, Native, Seed, VerifyItem, public_key_of};
use common::back_ends;
use fips204::ml_dsa_87;
use fips204::traits::{KeyGen, SerDes, Signer as _};
use serde::Deserialize;
use sha3::Shake256;
use sha3::digest::{ExtendableOutput, Update, XofReader};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Vectors<T> {
    test_groups: Vec<Group<T>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group<T> {
    parameter_set: String,
    #[serde(default)]
    signature_interface: String,
    #[serde(default)]
    external_mu: bool,
    tests: Vec<T>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeyGenCase {
    tc_id: u32,
    #[serde(with = "hex::serde")]
    seed: Vec<u8>,
    #[serde(with = "hex::serde")]
    pk: Vec<u8>,
    #[serde(with = "hex::serde")]
    sk: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SigVerCase {
    tc_id: u32,
    test_passed: bool,
    reason: String,
    #[serde(with = "hex::serde")]
    pk: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    message: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    mu: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    context: Vec<u8>,
    #[serde(with = "hex::serde")]
    signature: Vec<u8>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SigGenCase {
    tc_id: u32,
    #[serde(with = "hex::serde")]
    message: Vec<u8>,
    #[serde(with = "hex::serde")]
    sk: Vec<u8>,
    #[serde(default, with = "hex::serde")]
    rnd: Vec<u8>,
    #[serde(with = "hex::serde")]
    context: Vec<u8>,
    #[serde(with = "hex::serde")]
    signature: Vec<u8>,
}

fn load<T: serde::de::DeserializeOwned>(gzip: &[u8]) -> Vec<Group<T>> {
    let mut json = String::new();
    flate2::read::GzDecoder::new(gzip).read_to_string(&mut json).unwrap();
    let vectors: Vectors<T> = serde_json::from_str(&json).unwrap();
    assert!(vectors.test_groups.iter().all(|group| group.parameter_set == "ML-DSA-87" && !group.tests.is_empty()));
    vectors.test_groups
}

fn sig_ver() -> Vec<Group<SigVerCase>> {
    load(include_bytes!("vectors/ml-dsa-87-sigver.json.gz"))
}

fn shake256(parts: &[&[u8]]) -> [u8; 64] {
    let mut hasher = Shake256::default();
    parts.iter().for_each(|part| hasher.update(part));
    let mut out = [0; 64];
    XofReader::read(&mut hasher.finalize_xof(), &mut out);
    out
}

#[test]
fn every_seed_gives_the_key_that_nist_expects() {
    let groups: Vec<Group<KeyGenCase>> = load(include_bytes!("vectors/ml-dsa-87-keygen.json.gz"));
    let cases: Vec<_> = groups.iter().flat_map(|group| &group.tests).collect();
    assert_eq!(cases.len(), 25);
    for case in cases {
        let seed: [u8; 32] = case.seed.as_slice().try_into().unwrap();
        assert_eq!(public_key_of(&Seed::new(seed)).unwrap(), case.pk, "case {} with AWS-LC", case.tc_id);
        let (public, secret) = ml_dsa_87::KG::keygen_from_seed(&seed);
        assert_eq!(public.into_bytes().as_slice(), case.pk, "case {} with fips204", case.tc_id);
        assert_eq!(secret.into_bytes().as_slice(), case.sk, "case {} with fips204", case.tc_id);
    }
}

#[test]
fn every_back_end_judges_the_external_interface_as_nist_does() {
    let groups = sig_ver();
    let cases: Vec<_> =
        groups.iter().filter(|group| group.signature_interface == "external").flat_map(|group| &group.tests).collect();
    assert_eq!(cases.len(), 15);
    let items: Vec<_> = cases
        .iter()
        .map(|case| VerifyItem { context: &case.context, ..VerifyItem::new(&case.pk, &case.message, &case.signature) })
        .collect();
    for back_end in back_ends() {
        let mut verdicts = vec![false; items.len()];
        back_end.verify_batch(&items, &mut verdicts);
        for (case, verdict) in cases.iter().zip(verdicts) {
            let name = back_end.name();
            assert_eq!(verdict, case.test_passed, "{name}, case {}: {}", case.tc_id, case.reason);
        }
    }
}

/// Only the reference signs with given randomness; that every back-end takes the result is what the node needs.
#[test]
fn the_reference_signs_as_nist_does_and_every_back_end_takes_the_signatures() {
    let groups: Vec<Group<SigGenCase>> = load(include_bytes!("vectors/ml-dsa-87-siggen.json.gz"));
    let cases: Vec<_> = groups.iter().flat_map(|group| &group.tests).collect();
    assert_eq!(cases.len(), 30);
    let back_ends = back_ends();
    for case in cases {
        let secret = ml_dsa_87::PrivateKey::try_from_bytes(case.sk.as_slice().try_into().unwrap()).unwrap();
        // The deterministic form signs with zeros.
        let rnd = if case.rnd.is_empty() { [0; 32] } else { case.rnd.as_slice().try_into().unwrap() };
        let signature = secret.try_sign_with_seed(&rnd, &case.message, &case.context).unwrap();
        assert_eq!(signature.as_slice(), case.signature, "case {}", case.tc_id);
        let public_key = secret.get_public_key().into_bytes();
        let item =
            VerifyItem { context: &case.context, ..VerifyItem::new(&public_key, &case.message, &case.signature) };
        for back_end in &back_ends {
            assert!(back_end.verify(&item), "{}, case {}", back_end.name(), case.tc_id);
        }
    }
}

#[test]
#[allow(deprecated)]
fn every_back_end_judges_the_internal_interface_as_nist_does() {
    let groups = sig_ver();
    let ours: Vec<_> = [Some(Native::portable(0)), Native::avx2(0), Native::avx512(0)].into_iter().flatten().collect();
    let mut cases = 0;
    for group in groups.iter().filter(|group| group.signature_interface == "internal") {
        for case in &group.tests {
            let mu = if group.external_mu {
                case.mu.as_slice().try_into().unwrap()
            } else {
                shake256(&[&shake256(&[&case.pk]), &case.message])
            };
            let key = ml_dsa_87::PublicKey::try_from_bytes(case.pk.as_slice().try_into().unwrap()).unwrap();
            let reference = key.verify_mu(&mu, case.signature.as_slice().try_into().unwrap());
            let aws = AwsLc.verify_representative(&case.pk, &mu, &case.signature);
            assert_eq!(reference, case.test_passed, "fips204, case {}: {}", case.tc_id, case.reason);
            assert_eq!(aws, case.test_passed, "AWS-LC, case {}: {}", case.tc_id, case.reason);
            for native in &ours {
                let verdict = native.verify_representative(&case.pk, &mu, &case.signature);
                assert_eq!(verdict, case.test_passed, "{native:?}, case {}: {}", case.tc_id, case.reason);
            }
            cases += 1;
        }
    }
    assert_eq!(cases, 30);
}
