// Keccak-f[1600] and the sponges of FIPS 202 over it: one state a lane, held in registers.
//
// Input is read by words of the padded message (Input::word), so that the state is indexed by constants alone and never
// falls out of the registers.
#pragma once
#include "common.h"

// Bytes that one permutation takes in or gives.
constexpr u32 RATE_SHAKE128 = 168, RATE_SHAKE256 = 136, RATE_SHA3_256 = 136, RATE_SHA3_512 = 72;
// What stands behind the message: the hash's mark and the first bit of the padding.
constexpr u8 MARK_SHAKE = 0x1f, MARK_SHA3 = 0x06;

__constant__ u64 KECCAK_ROUNDS[24] = {
    0x0000000000000001ULL, 0x0000000000008082ULL, 0x800000000000808aULL, 0x8000000080008000ULL,
    0x000000000000808bULL, 0x0000000080000001ULL, 0x8000000080008081ULL, 0x8000000000008009ULL,
    0x000000000000008aULL, 0x0000000000000088ULL, 0x0000000080008009ULL, 0x000000008000000aULL,
    0x000000008000808bULL, 0x800000000000008bULL, 0x8000000000008089ULL, 0x8000000000008003ULL,
    0x8000000000008002ULL, 0x8000000000000080ULL, 0x000000000000800aULL, 0x800000008000000aULL,
    0x8000000080008081ULL, 0x8000000000008080ULL, 0x0000000080000001ULL, 0x8000000080008008ULL,
};

template <int LEFT> INLINE u64 rotate(u64 word) { return word << LEFT | word >> (64 - LEFT); }

// Chi over the row at `to`.
INLINE void keccak_row(u64 *to, u64 b0, u64 b1, u64 b2, u64 b3, u64 b4) {
    to[0] = b0 ^ (~b1 & b2);
    to[1] = b1 ^ (~b2 & b3);
    to[2] = b2 ^ (~b3 & b4);
    to[3] = b3 ^ (~b4 & b0);
    to[4] = b4 ^ (~b0 & b1);
}

// FIPS 202, section 3.2: 24 rounds. Lane (x, y) stands at x + 5 * y.
INLINE void keccak(u64 (&a)[25]) {
    for (u32 round = 0; round < 24; round++) {
        const u64 c0 = a[0] ^ a[5] ^ a[10] ^ a[15] ^ a[20];
        const u64 c1 = a[1] ^ a[6] ^ a[11] ^ a[16] ^ a[21];
        const u64 c2 = a[2] ^ a[7] ^ a[12] ^ a[17] ^ a[22];
        const u64 c3 = a[3] ^ a[8] ^ a[13] ^ a[18] ^ a[23];
        const u64 c4 = a[4] ^ a[9] ^ a[14] ^ a[19] ^ a[24];
        const u64 d0 = c4 ^ rotate<1>(c1), d1 = c0 ^ rotate<1>(c2), d2 = c1 ^ rotate<1>(c3);
        const u64 d3 = c2 ^ rotate<1>(c4), d4 = c3 ^ rotate<1>(c0);
        u64 e[25];
        keccak_row(e, a[0] ^ d0, rotate<44>(a[6] ^ d1), rotate<43>(a[12] ^ d2), rotate<21>(a[18] ^ d3),
                   rotate<14>(a[24] ^ d4));
        keccak_row(e + 5, rotate<28>(a[3] ^ d3), rotate<20>(a[9] ^ d4), rotate<3>(a[10] ^ d0), rotate<45>(a[16] ^ d1),
                   rotate<61>(a[22] ^ d2));
        keccak_row(e + 10, rotate<1>(a[1] ^ d1), rotate<6>(a[7] ^ d2), rotate<25>(a[13] ^ d3), rotate<8>(a[19] ^ d4),
                   rotate<18>(a[20] ^ d0));
        keccak_row(e + 15, rotate<27>(a[4] ^ d4), rotate<36>(a[5] ^ d0), rotate<10>(a[11] ^ d1), rotate<15>(a[17] ^ d2),
                   rotate<56>(a[23] ^ d3));
        keccak_row(e + 20, rotate<62>(a[2] ^ d2), rotate<55>(a[8] ^ d3), rotate<39>(a[14] ^ d4), rotate<41>(a[15] ^ d0),
                   rotate<2>(a[21] ^ d1));
        e[0] ^= KECCAK_ROUNDS[round];
        UNROLL for (u32 at = 0; at < 25; at++) a[at] = e[at];
    }
}

// Eight bytes at any address, as the standards count them.
INLINE u64 load_word(const u8 *bytes) {
    u64 word = 0;
    UNROLL for (u32 at = 0; at < 8; at++) word |= static_cast<u64>(bytes[at]) << (8 * at);
    return word;
}

INLINE void store_word(u8 *bytes, u64 word) {
    UNROLL for (u32 at = 0; at < 8; at++) bytes[at] = static_cast<u8>(word >> (8 * at));
}

// A message in two parts.
struct Input {
    const u8 *first;
    u64 first_len;
    const u8 *second;
    u64 second_len;
    u8 mark;

    MEMBER u64 len() const { return first_len + second_len; }

    MEMBER u8 byte(u64 at) const {
        if (at < first_len) return first[at];
        if (at < len()) return second[at - first_len];
        return at == len() ? mark : 0;
    }

    // Eight bytes of the padded message, but for the padding's last bit.
    MEMBER u64 word(u64 at) const {
        if (at + 8 <= first_len) return load_word(first + at);
        if (at >= first_len && at + 8 <= len()) return load_word(second + (at - first_len));
        u64 word = 0;
        for (u32 b = 0; b < 8; b++) word |= static_cast<u64>(byte(at + b)) << (8 * b);
        return word;
    }
};

// Takes a whole message in. The first block of output stands in the state.
template <u32 RATE> INLINE void absorb(u64 (&a)[25], const Input &input) {
    UNROLL for (u32 at = 0; at < 25; at++) a[at] = 0;
    const u64 blocks = input.len() / RATE + 1;
    for (u64 block = 0; block < blocks; block++) {
        UNROLL for (u32 at = 0; at < RATE / 8; at++) a[at] ^= input.word(block * RATE + 8 * at);
        if (block + 1 == blocks) a[RATE / 8 - 1] ^= 1ULL << 63;
        keccak(a);
    }
}

// The first bytes of a hash, in whole words, of which there is no more than a block.
template <u32 RATE, u32 BYTES> INLINE void digest(u8 *out, const Input &input) {
    static_assert(BYTES % 8 == 0 && BYTES <= RATE, "a part of one block");
    u64 a[25];
    absorb<RATE>(a, input);
    UNROLL for (u32 at = 0; at < BYTES / 8; at++) store_word(out + 8 * at, a[at]);
}
