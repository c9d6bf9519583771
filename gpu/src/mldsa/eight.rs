//! Signatures in eights: what is hashed for them is hashed side by side.
//!
//! Under a known key eleven of a verification's permutations are left, one that the challenge is drawn from and ten that
//! hash: the message representative and the commitment. Those ten are made for eight signatures at once.

use super::verify::{COMMITMENT, W1};
use super::{Avx2, Avx512, Machine, Native};
use crate::keccak::{Eight, RATE_256};
use crate::verify::{BatchVerifier as _, SIGNATURE_LEN, VerifyItem};

/// The vectors that eight states are permuted by.
#[derive(Clone, Copy)]
pub(super) enum Wide {
    Avx2(Avx2),
    Avx512(Avx512),
}

impl Wide {
    pub(super) const fn of(machine: Machine) -> Option<Self> {
        match machine {
            Machine::Portable => None,
            Machine::Avx2(avx2) => Some(Self::Avx2(avx2)),
            Machine::Avx512(avx512) | Machine::Mixed(avx512, _) => Some(Self::Avx512(avx512)),
        }
    }

    fn permute(self, states: &mut Eight) {
        match self {
            Self::Avx2(avx2) => avx2.permute_eight(states),
            Self::Avx512(avx512) => avx512.permute_eight(states),
        }
    }

    /// From how many signatures on eight states, some of them idle, cost less than as many single ones.
    const fn worth_it_from(self) -> usize {
        match self {
            Self::Avx512(_) => 2,
            Self::Avx2(_) => 4,
        }
    }

    /// The first 64 bytes of SHAKE256 over each input, which stands here without its padding.
    fn shake256(self, inputs: &mut [Vec<u8>; 8]) -> [[u8; 64]; 8] {
        const NOTHING: [u8; RATE_256] = [0; RATE_256];
        for input in &mut *inputs {
            input.push(0x1f);
            input.resize(input.len().next_multiple_of(RATE_256), 0);
            input.last_mut().into_iter().for_each(|last| *last |= 0x80);
        }
        let mut out = [[0; 64]; 8];
        let mut states = Eight::new();
        for block in 0..inputs.iter().map(|input| input.len() / RATE_256).max().unwrap_or(0) {
            let of = |input: &Vec<u8>| input.len() / RATE_256;
            let part = |input| <[u8]>::get(input, block * RATE_256..(block + 1) * RATE_256).unwrap_or(&NOTHING);
            states.absorb(inputs.each_ref().map(|input| part(input.as_slice())));
            self.permute(&mut states);
            // An input that ends here has its output now; what is done to its state afterwards is read by nobody.
            if inputs.iter().any(|input| of(input) == block + 1) {
                let mut now = [[0; 64]; 8];
                states.squeeze(now.each_mut().map(|bytes| &mut bytes[..]));
                for ((out, now), input) in out.iter_mut().zip(now).zip(&*inputs) {
                    if of(input) == block + 1 {
                        *out = now;
                    }
                }
            }
        }
        out
    }
}

impl Native {
    /// Up to eight signatures; a verdict each.
    pub(super) fn verify_eight(&self, wide: Wide, items: &[VerifyItem<'_>], verdicts: &mut [bool]) {
        verdicts.fill(false);
        if items.len() < wide.worth_it_from() {
            for (item, verdict) in items.iter().zip(verdicts) {
                *verdict = self.verify(item);
            }
            return;
        }
        let mut inputs: [Vec<u8>; 8] = Default::default();
        let mut signatures: [Option<&[u8; SIGNATURE_LEN]>; 8] = [None; 8];
        let mut keys: [Option<std::sync::Arc<super::ExpandedKey>>; 8] = Default::default();
        for (at, item) in items.iter().enumerate().take(8) {
            let (Ok(public_key), Ok(signature)) = (item.public_key.try_into(), item.signature.try_into()) else {
                continue;
            };
            if !item.well_formed() {
                continue;
            }
            let key = self.expanded(public_key);
            key.frame(item.context, item.message, &mut inputs[at]);
            (signatures[at], keys[at]) = (Some(signature), Some(key));
        }
        let representatives = wide.shake256(&mut inputs);
        for (at, input) in inputs.iter_mut().enumerate() {
            input.clear();
            let (Some(signature), Some(key)) = (signatures[at], &keys[at]) else { continue };
            input.reserve(64 + W1 + RATE_256);
            input.extend_from_slice(&representatives[at]);
            input.resize(64 + W1, 0);
            let Some(w1) = input.last_chunk_mut() else { continue };
            if !self.commitment(key, signature, w1) {
                input.clear();
                signatures[at] = None;
            }
        }
        let commitments = wide.shake256(&mut inputs);
        for ((verdict, signature), commitment) in verdicts.iter_mut().zip(signatures).zip(commitments) {
            *verdict = signature.is_some_and(|signature| signature[..COMMITMENT] == commitment);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keccak::Shake256;

    #[test]
    fn eight_inputs_of_any_lengths_hash_like_one() {
        let wide = [Avx2::detect().map(Wide::Avx2), Avx512::detect().map(Wide::Avx512)];
        let bytes: Vec<u8> = (0..2_000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for wide in wide.into_iter().flatten() {
            for lens in [[0, 1, 134, 135, 136, 137, 271, 272], [273, 1_088, 5, 1_087, 0, 1_500, 408, 407], [113; 8]] {
                let mut inputs = lens.map(|len| bytes[..len].to_vec());
                let expected = lens.map(|len| Shake256::digest(&[&bytes[..len]]));
                assert_eq!(wide.shake256(&mut inputs), expected, "{lens:?}");
            }
        }
    }
}
