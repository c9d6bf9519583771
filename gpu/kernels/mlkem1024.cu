// ML-KEM-1024 in batches (FIPS 203): keys, encapsulation, decapsulation; a block each, meant for 32 lanes. Algorithm
// numbers are those of FIPS 203. Randomness comes from the caller.
//
// The time depends on public bytes alone: no branch and no address depends on a secret, divisions by q are
// multiplications, and a wrong ciphertext takes the same way as a right one. Sampling the matrix from its public seed is
// the exception that the standard has too. Numbers modulo q are kept in [0, q) between steps. Memory that held secrets is
// not wiped.
#include "keccak.h"

namespace mlkem1024 {

constexpr u32 Q = 3329, K = 4, STRIDE = 257;
constexpr u32 PACKED = 384, VECTOR = K * PACKED, EK = VECTOR + 32, DK = VECTOR + EK + 64;
constexpr u32 PACKED_U = 352, PACKED_V = 160, CIPHERTEXT = K * PACKED_U + PACKED_V;
static_assert(EK == 1568 && DK == 3168 && CIPHERTEXT == 1568, "FIPS 203, table 3");

// x / q rounded down, for every x.
INLINE u32 divide(u32 x) {
    // 2^32 / q rounded down: the quotient is right or one too small.
    const u32 quotient = static_cast<u32>((static_cast<u64>(x) * 1290167) >> 32);
    const u32 rest = x - quotient * Q;
    return quotient + 1 - ((rest - Q) >> 31);
}

INLINE u32 reduce(u32 x) { return x - divide(x) * Q; }

struct Zetas {
    u32 at[128];
};

// Appendix A: 17 to the power of m with its seven bits reversed.
CONSTEXPR Zetas make_zetas() {
    Zetas table = {};
    for (u32 m = 0; m < 128; m++) {
        u32 power = 0;
        for (u32 bit = 0; bit < 7; bit++) power |= (m >> bit & 1) << (6 - bit);
        u32 value = 1;
        for (u32 times = 0; times < power; times++) value = value * 17 % Q;
        table.at[m] = value;
    }
    return table;
}
__constant__ Zetas ZETAS = make_zetas();

struct Block {
    u32 secret[K][STRIDE];     // s or y
    u32 noise[K + 1][STRIDE];  // e, or e1 and e2
    u32 sums[K + 1][STRIDE];   // t, or u and v
    u8 seeds[64];              // rho and sigma, or the secret and r
    u8 hash[32];
    u8 message[32];
    u8 again[CIPHERTEXT];
    u32 bad;
};

// Algorithm 9 over polynomials side by side.
INLINE void transform(u32 (*polys)[STRIDE], u32 count) {
    for (u32 len = 128; len > 1; len /= 2) {
        STEP(lane) {
            for (u32 job = lane; job < 128 * count; job += blockDim.x) {
                u32 *f = polys[job / 128];
                const u32 group = job % 128 / len, j = 2 * len * group + job % len;
                const u32 t = reduce(ZETAS.at[128 / len + group] * f[j + len]);
                f[j + len] = reduce(f[j] + Q - t);
                f[j] = reduce(f[j] + t);
            }
        }
    }
}

// Algorithm 10.
INLINE void inverse(u32 (*polys)[STRIDE], u32 count) {
    for (u32 len = 2; len < 256; len *= 2) {
        STEP(lane) {
            for (u32 job = lane; job < 128 * count; job += blockDim.x) {
                u32 *f = polys[job / 128];
                const u32 group = job % 128 / len, j = 2 * len * group + job % len;
                const u32 t = f[j];
                f[j] = reduce(t + f[j + len]);
                f[j + len] = reduce(ZETAS.at[256 / len - 1 - group] * (f[j + len] + Q - t));
            }
        }
    }
    STEP(lane) {
        for (u32 job = lane; job < 256 * count; job += blockDim.x) {
            u32 *f = &polys[job / 256][job % 256];
            *f = reduce(*f * 3303);
        }
    }
}

// The two numbers of algorithm 12's pair, below q each.
struct Pair {
    u32 low, high;
};

INLINE Pair multiply(u32 pair, u32 a0, u32 a1, const u32 *b) {
    const u32 zeta = ZETAS.at[64 + pair / 2], gamma = pair % 2 == 0 ? zeta : Q - zeta;
    const u32 b0 = b[2 * pair], b1 = b[2 * pair + 1];
    return {reduce(a0 * b0 + reduce(a1 * b1) * gamma), reduce(a0 * b1 + a1 * b0)};
}

// Algorithm 7, each pair multiplied by the secret's where it is sampled and added to its row: four lanes add to each.
INLINE void sample_and_multiply(const u8 *rho, u32 first, u32 second, const u32 *secret, u32 *sum) {
    u64 a[25];
    UNROLL for (u32 at = 0; at < 25; at++) a[at] = 0;
    UNROLL for (u32 at = 0; at < 4; at++) a[at] = load_word(rho + 8 * at);
    a[4] = first | second << 8 | static_cast<u32>(MARK_SHAKE) << 16;
    a[RATE_SHAKE128 / 8 - 1] = 1ULL << 63;
    u32 filled = 0, before = 0;
    while (filled < 256) {
        keccak(a);
        UNROLL for (u32 at = 0; at < RATE_SHAKE128 / 8; at += 3) {
            const u64 x = a[at], y = a[at + 1], z = a[at + 2];
            const u64 candidates[16] = {x,       x >> 12, x >> 24, x >> 36, x >> 48, x >> 60 | y << 4, y >> 8,  y >> 20,
                                        y >> 32, y >> 44, y >> 56 | z << 8, z >> 4, z >> 16, z >> 28, z >> 40, z >> 52};
            UNROLL for (u32 c = 0; c < 16; c++) {
                const u32 candidate = static_cast<u32>(candidates[c] & 0xfff);
                if (candidate < Q && filled < 256) {
                    if (filled % 2 == 1) {
                        const Pair product = multiply(filled / 2, before, candidate, secret);
                        atomicAdd(&sum[filled - 1], product.low);
                        atomicAdd(&sum[filled], product.high);
                    }
                    before = candidate;
                    filled++;
                }
            }
        }
    }
}

// Adds A (or A transposed) times the secret to the first four sums, which are below q before and after.
INLINE void multiply_matrix(const u8 *rho, bool transposed, Block &block) {
    STEP(lane) {
        for (u32 job = lane; job < K * K; job += blockDim.x) {
            const u32 row = job % K, column = job / K;
            // The seed ends with the column and the row of A.
            sample_and_multiply(rho, transposed ? row : column, transposed ? column : row, block.secret[column],
                                block.sums[row]);
        }
    }
    STEP(lane) {
        for (u32 job = lane; job < 256 * K; job += blockDim.x) {
            u32 *sum = &block.sums[job / 256][job % 256];
            *sum = reduce(*sum);
        }
    }
}

// Algorithm 8 with eta 2 over the function of section 4.1: 128 bytes of SHAKE256(seed, counter), four bits a coefficient.
INLINE void sample_noise(const u8 *seed, u8 counter, u32 *poly) {
    u64 a[25];
    const Input input = {seed, 32, &counter, 1, MARK_SHAKE};
    absorb<RATE_SHAKE256>(a, input);
    UNROLL for (u32 word = 0; word < 16; word++) {
        for (u32 at = 0; at < 16; at++) {
            const u32 bits = static_cast<u32>(a[word] >> (4 * at)) & 15;
            poly[16 * word + at] = reduce(Q + (bits & 1) + (bits >> 1 & 1) - (bits >> 2 & 1) - (bits >> 3));
        }
    }
}

// The secret's four polynomials, and as many of noise as are asked for; the sums begin as zeros.
INLINE void sample_secrets(const u8 *seed, u32 noises, Block &block) {
    STEP(lane) {
        for (u32 job = lane; job < K + noises; job += blockDim.x) {
            sample_noise(seed, static_cast<u8>(job), job < K ? block.secret[job] : block.noise[job - K]);
        }
        for (u32 job = lane; job < 256 * (K + 1); job += blockDim.x) block.sums[job / 256][job % 256] = 0;
    }
    transform(block.secret, K);
}

// Algorithm 6 for twelve bits: a pair in three bytes.
INLINE Pair decode_pair(const u8 *b) {
    return {static_cast<u32>(b[0] | (b[1] & 15) << 8), static_cast<u32>(b[1] >> 4 | b[2] << 4)};
}

INLINE void encode_vector(u32 (*polys)[STRIDE], u8 *out) {
    STEP(lane) {
        for (u32 job = lane; job < 128 * K; job += blockDim.x) {
            const u32 low = polys[job / 128][job % 128 * 2], high = polys[job / 128][job % 128 * 2 + 1];
            u8 *to = out + 3 * job;
            to[0] = static_cast<u8>(low);
            to[1] = static_cast<u8>(low >> 8 | high << 4);
            to[2] = static_cast<u8>(high >> 4);
        }
    }
}

// Section 7's checks: whether all numbers of a packed vector are below q. Sets `bad` where one is not.
INLINE void check_vector(const u8 *packed, Block &block) {
    STEP(lane) {
        u32 beyond = 0;
        for (u32 job = lane; job < 128 * K; job += blockDim.x) {
            const Pair pair = decode_pair(packed + 3 * job);
            beyond |= (Q - 1 - pair.low) | (Q - 1 - pair.high);
        }
        atomicOr(&block.bad, beyond >> 31);
    }
}

// The vector times the secret, added to the fifth sum.
INLINE void multiply_vector(const u8 *packed, Block &block) {
    STEP(lane) {
        for (u32 pair = lane; pair < 128; pair += blockDim.x) {
            u32 low = block.sums[K][2 * pair], high = block.sums[K][2 * pair + 1];
            for (u32 at = 0; at < K; at++) {
                const Pair number = decode_pair(packed + at * PACKED + 3 * pair);
                const Pair product = multiply(pair, number.low, number.high, block.secret[at]);
                low += product.low;
                high += product.high;
            }
            block.sums[K][2 * pair] = reduce(low);
            block.sums[K][2 * pair + 1] = reduce(high);
        }
    }
}

// Formula 4.7: to `bits` bits.
INLINE u32 compress(u32 number, u32 bits) { return divide((number << bits) + Q / 2) & ((1U << bits) - 1); }

// Formula 4.8.
INLINE u32 decompress(u32 number, u32 bits) { return (number * Q + (1U << (bits - 1))) >> bits; }

// Eight numbers in as many bytes as they have bits each.
INLINE void compress_eight(const u32 *numbers, u32 bits, u8 *out) {
    u64 waiting = 0;
    u32 filled = 0;
    for (u32 at = 0; at < 8; at++) {
        waiting |= static_cast<u64>(compress(numbers[at], bits)) << filled;
        for (filled += bits; filled >= 8; filled -= 8, waiting >>= 8) *out++ = static_cast<u8>(waiting);
    }
}

INLINE void decompress_eight(const u8 *packed, u32 bits, u32 *numbers) {
    u64 waiting = 0;
    u32 filled = 0;
    for (u32 at = 0; at < 8; at++) {
        for (; filled < bits; filled += 8) waiting |= static_cast<u64>(*packed++) << filled;
        numbers[at] = decompress(static_cast<u32>(waiting) & ((1U << bits) - 1), bits);
        waiting >>= bits;
        filled -= bits;
    }
}

// Algorithm 14: the ciphertext of block.message with the randomness in the second half of block.seeds.
INLINE void encrypt(const u8 *ek, Block &block, u8 *ciphertext) {
    sample_secrets(block.seeds + 32, K + 1, block);
    multiply_matrix(ek + VECTOR, true, block);
    multiply_vector(ek, block);
    inverse(block.sums, K + 1);
    STEP(lane) {
        for (u32 job = lane; job < 256 * (K + 1); job += blockDim.x) {
            const u32 poly = job / 256, at = job % 256;
            const u32 bit = poly == K ? block.message[at / 8] >> (at % 8) & 1U : 0;
            // Half of q, rounded up, for a bit that is set.
            block.sums[poly][at] = reduce(block.sums[poly][at] + block.noise[poly][at] + bit * (Q / 2 + 1));
        }
    }
    STEP(lane) {
        for (u32 job = lane; job < 32 * (K + 1); job += blockDim.x) {
            const u32 poly = job / 32, eight = job % 32;
            const u32 bits = poly == K ? 5 : 11;
            compress_eight(block.sums[poly] + 8 * eight, bits, ciphertext + poly * PACKED_U + eight * bits);
        }
    }
}

// Algorithm 15: block.message from a ciphertext. Uses all of the block but seeds and hash.
INLINE void decrypt(const u8 *dk, const u8 *ciphertext, Block &block) {
    STEP(lane) {
        for (u32 job = lane; job < 32 * (K + 1); job += blockDim.x) {
            const u32 poly = job / 32, eight = job % 32;
            const u32 bits = poly == K ? 5 : 11;
            u32 *to = poly == K ? block.noise[0] : block.secret[poly];
            decompress_eight(ciphertext + poly * PACKED_U + eight * bits, bits, to + 8 * eight);
        }
        for (u32 job = lane; job < 256; job += blockDim.x) block.sums[K][job] = 0;
    }
    transform(block.secret, K);
    multiply_vector(dk, block);
    inverse(block.sums + K, 1);
    STEP(lane) {
        for (u32 job = lane; job < 32; job += blockDim.x) {
            u32 byte = 0;
            for (u32 bit = 0; bit < 8; bit++) {
                const u32 at = 8 * job + bit;
                byte |= compress(reduce(block.noise[0][at] + Q - block.sums[K][at]), 1) << bit;
            }
            block.message[job] = static_cast<u8>(byte);
        }
    }
}

} // namespace mlkem1024

// Algorithm 16 of each pair of seeds: 32 bytes of `d` and of `z` a key pair.
extern "C" __global__ void mlkem1024_keygen(const u8 *d, const u8 *z, u8 *ek, u8 *dk) {
    using namespace mlkem1024;
    __shared__ Block block;
    const u64 at = blockIdx.x;
    ek += at * EK;
    dk += at * DK;
    STEP(lane) {
        if (lane == 0) {
            const u8 k = K;
            const Input input = {d + 32 * at, 32, &k, 1, MARK_SHA3};
            digest<RATE_SHA3_512, 64>(block.seeds, input);
        }
    }
    sample_secrets(block.seeds + 32, K, block);
    transform(block.noise, K);
    STEP(lane) {
        for (u32 job = lane; job < 256 * K; job += blockDim.x) {
            block.sums[job / 256][job % 256] = block.noise[job / 256][job % 256];
        }
    }
    multiply_matrix(block.seeds, false, block);
    encode_vector(block.sums, ek);
    encode_vector(block.secret, dk);
    STEP(lane) {
        for (u32 job = lane; job < 32; job += blockDim.x) {
            ek[VECTOR + job] = block.seeds[job];
            dk[DK - 32 + job] = z[32 * at + job];
        }
    }
    STEP(lane) {
        if (lane == 0) {
            const Input input = {ek, EK, ek, 0, MARK_SHA3};
            digest<RATE_SHA3_256, 32>(dk + DK - 64, input);
        }
        for (u32 job = lane; job < EK; job += blockDim.x) dk[VECTOR + job] = ek[job];
    }
}

// Algorithms 20 and 17. `good` is 1, or 0 where section 7.2's check refuses the key; such have no output.
extern "C" __global__ void mlkem1024_encaps(const u8 *ek, const u8 *m, u8 *ciphertexts, u8 *secrets, u8 *good) {
    using namespace mlkem1024;
    __shared__ Block block;
    const u64 at = blockIdx.x;
    ek += at * EK;
    STEP(lane) {
        if (lane == 0) {
            block.bad = 0;
            const Input input = {ek, EK, ek, 0, MARK_SHA3};
            digest<RATE_SHA3_256, 32>(block.hash, input);
        }
    }
    check_vector(ek, block);
    STEP(lane) {
        if (lane == 0) {
            good[at] = block.bad == 0;
            const Input input = {m + 32 * at, 32, block.hash, 32, MARK_SHA3};
            digest<RATE_SHA3_512, 64>(block.seeds, input);
        }
        for (u32 job = lane; job < 32; job += blockDim.x) block.message[job] = m[32 * at + job];
    }
    if (block.bad != 0) return;
    encrypt(ek, block, ciphertexts + at * CIPHERTEXT);
    STEP(lane) {
        for (u32 job = lane; job < 32; job += blockDim.x) secrets[32 * at + job] = block.seeds[job];
    }
}

// Algorithm 21, with the secret of implicit rejection for a wrong ciphertext. `good` is 1, or 0 where the key is none:
// its hash does not fit, or a number of its vectors is q or more; such have no output.
extern "C" __global__ void mlkem1024_decaps(const u8 *dk, const u8 *ciphertexts, u8 *secrets, u8 *good) {
    using namespace mlkem1024;
    __shared__ Block block;
    const u64 at = blockIdx.x;
    dk += at * DK;
    const u8 *ek = dk + VECTOR, *ciphertext = ciphertexts + at * CIPHERTEXT;
    STEP(lane) {
        if (lane == 0) {
            const Input input = {ek, EK, ek, 0, MARK_SHA3};
            digest<RATE_SHA3_256, 32>(block.hash, input);
            block.bad = 0;
            for (u32 byte = 0; byte < 32; byte++) block.bad |= block.hash[byte] ^ dk[DK - 64 + byte];
        }
    }
    check_vector(dk, block);
    check_vector(ek, block);
    STEP(lane) {
        if (lane == 0) good[at] = block.bad == 0;
    }
    if (block.bad != 0) return;
    decrypt(dk, ciphertext, block);
    STEP(lane) {
        if (lane == 0) {
            const Input input = {block.message, 32, block.hash, 32, MARK_SHA3};
            digest<RATE_SHA3_512, 64>(block.seeds, input);
            // Whatever the comparison below finds, this is computed.
            const Input rejected = {dk + DK - 32, 32, ciphertext, CIPHERTEXT, MARK_SHAKE};
            digest<RATE_SHAKE256, 32>(block.hash, rejected);
        }
    }
    encrypt(ek, block, block.again);
    STEP(lane) {
        u32 different = 0;
        for (u32 job = lane; job < CIPHERTEXT; job += blockDim.x) different |= block.again[job] ^ ciphertext[job];
        atomicOr(&block.bad, different);
    }
    STEP(lane) {
        // All bits set if the ciphertexts differ: then 0 - bad has its highest bit, as bad is below 256.
        const u32 mask = 0U - ((0U - block.bad) >> 31);
        for (u32 job = lane; job < 32; job += blockDim.x) {
            secrets[32 * at + job] = static_cast<u8>((block.seeds[job] & ~mask) | (block.hash[job] & mask));
        }
    }
}
