// Verification of ML-DSA-87 signatures in batches (FIPS 204, algorithm 8). Algorithm numbers are those of FIPS 204.
//
// A batch goes through three kernels:
//   prepare   a lane a signature: message representative and challenge. Hashes in a row, so lanes must not wait for them.
//   rows      a block a signature: decode, sample A, multiply, w1. The matrix is 56 hashes side by side, one a lane.
//   verdicts  a lane a signature: the hash over w1 against the commitment.
// For senders that come again `expand` writes A and t1 into a table once, and `prepare_cached` and `rows_cached` read it.
// Without the table the matrix is never written: each coefficient is multiplied where it is sampled and added to its row.
//
// Lengths are the caller's: records of whole keys and signatures stand side by side. Nothing here is secret, so nothing is
// constant-time. Bounds on the size of numbers are written as multiples of q; R is 2^32.
#include "keccak.h"

namespace mldsa87 {

constexpr i32 Q = 8380417;
constexpr u32 Q_INVERSE = 58728449; // 1 / q mod 2^32
constexpr i32 SCALE = 41978;        // R^2 / 256 mod q
constexpr u32 ROWS = 8, COLUMNS = 7, TAU = 60, OMEGA = 75;
constexpr i32 BETA = 120, GAMMA_1 = 1 << 19, GAMMA_2 = (Q - 1) / 32;
constexpr u32 PUBLIC_KEY = 2592, SIGNATURE = 4627, COMMITMENT = 64, PACKED_Z = 640, PACKED_T1 = 320, PACKED_W1 = 128;
constexpr u32 HINT = COMMITMENT + COLUMNS * PACKED_Z;
static_assert(HINT + OMEGA + ROWS == SIGNATURE && 32 + ROWS * PACKED_T1 == PUBLIC_KEY, "FIPS 204, table 2");
static_assert(2 * GAMMA_2 == 512 * 1023, "high_bits divides by shifts");

// One coefficient more than a polynomial has: rows of shared memory then begin in different banks.
constexpr u32 STRIDE = 257;

// An entry of the table of expanded keys: tr, then A and, as the last column, -t1 * 2^13 in the transform's domain.
struct Entry {
    u8 tr[64];
    i32 rows[ROWS][COLUMNS + 1][256];
};
static_assert(sizeof(Entry) == 64 + 4 * 8 * 8 * 256, "the host makes room for this");

struct Zetas {
    i32 at[256];
};

// Appendix B: zeta to the power of m with its bits reversed, times R, centred.
CONSTEXPR Zetas make_zetas() {
    Zetas table = {};
    for (u32 m = 0; m < 256; m++) {
        u32 power = 0;
        for (u32 bit = 0; bit < 8; bit++) power |= (m >> bit & 1) << (7 - bit);
        i64 value = (1LL << 32) % Q;
        for (u32 times = 0; times < power; times++) value = value * 1753 % Q;
        table.at[m] = static_cast<i32>(value > Q / 2 ? value - Q : value);
    }
    return table;
}
__constant__ Zetas ZETAS = make_zetas();

// x / R mod q, below q in size for x below 2^31 q.
INLINE i32 reduce(i64 x) {
    const i32 quotient = static_cast<i32>(static_cast<u32>(x) * Q_INVERSE);
    return static_cast<i32>((x - static_cast<i64>(quotient) * Q) >> 32);
}

INLINE i32 multiply(i32 a, i32 b) { return reduce(static_cast<i64>(a) * b); }

// The same number modulo q, below q in size, for any that is below 2^31 - 2^22.
INLINE i32 shrink(i32 a) { return a - ((a + (1 << 22)) >> 23) * Q; }

// Algorithm 41 over polynomials side by side. Coefficients grow by 8q.
INLINE void transform(i32 (*polys)[STRIDE], u32 count) {
    for (u32 len = 128; len > 0; len /= 2) {
        STEP(lane) {
            for (u32 job = lane; job < 128 * count; job += blockDim.x) {
                i32 *w = polys[job / 128];
                const u32 group = job % 128 / len, j = 2 * len * group + job % len;
                const i32 t = multiply(ZETAS.at[128 / len + group], w[j + len]);
                w[j + len] = w[j] - t;
                w[j] += t;
            }
        }
    }
}

// Algorithm 42, times R. Takes coefficients below q and returns such: 2^8 q is still below 2^31.
INLINE void inverse(i32 (*polys)[STRIDE], u32 count) {
    for (u32 len = 1; len < 256; len *= 2) {
        STEP(lane) {
            for (u32 job = lane; job < 128 * count; job += blockDim.x) {
                i32 *w = polys[job / 128];
                const u32 group = job % 128 / len, j = 2 * len * group + job % len;
                const i32 t = w[j];
                w[j] = t + w[j + len];
                w[j + len] = multiply(ZETAS.at[256 / len - 1 - group], w[j + len] - t);
            }
        }
    }
    STEP(lane) {
        for (u32 job = lane; job < 256 * count; job += blockDim.x) {
            i32 *w = &polys[job / 256][job % 256];
            *w = multiply(*w, SCALE);
        }
    }
}

// Algorithm 30: hands the coefficients of A's polynomial to `sink`, in order.
template <typename Sink> INLINE void sample(const u8 *rho, u32 row, u32 column, Sink &sink) {
    u64 a[25];
    UNROLL for (u32 at = 0; at < 25; at++) a[at] = 0;
    UNROLL for (u32 at = 0; at < 4; at++) a[at] = load_word(rho + 8 * at);
    a[4] = column | row << 8 | static_cast<u32>(MARK_SHAKE) << 16;
    a[RATE_SHAKE128 / 8 - 1] = 1ULL << 63;
    u32 filled = 0;
    while (filled < 256) {
        keccak(a);
        UNROLL for (u32 at = 0; at < RATE_SHAKE128 / 8; at += 3) {
            const u64 x = a[at], y = a[at + 1], z = a[at + 2];
            const u64 candidates[8] = {x, x >> 24, x >> 48 | y << 16, y >> 8, y >> 32, y >> 56 | z << 8, z >> 16, z >> 40};
            UNROLL for (u32 c = 0; c < 8; c++) {
                const i32 candidate = static_cast<i32>(candidates[c] & 0x7fffff);
                if (candidate < Q && filled < 256) sink.take(filled++, candidate);
            }
        }
    }
}

// Algorithm 18 for ten bits, times -2^13.
INLINE i32 minus_t1(const u8 *packed, u32 at) {
    const u8 *bytes = packed + at / 4 * 5;
    u64 word = 0;
    UNROLL for (u32 b = 0; b < 5; b++) word |= static_cast<u64>(bytes[b]) << (8 * b);
    return -(static_cast<i32>(word >> (10 * (at % 4)) & 0x3ff) * 8192);
}

INLINE void unpack_minus_t1(const u8 *public_key, i32 (*polys)[STRIDE]) {
    STEP(lane) {
        for (u32 job = lane; job < 256 * ROWS; job += blockDim.x) {
            polys[job / 256][job % 256] = minus_t1(public_key + 32 + job / 256 * PACKED_T1, job % 256);
        }
    }
    transform(polys, ROWS);
}

// Algorithm 8, step 7: mu = H(tr, framed message), where the frame is algorithm 3's.
INLINE void representative(const u8 *tr, const u8 *framed, u64 len, u8 *mu) {
    const Input input = {tr, 64, framed, len, MARK_SHAKE};
    digest<RATE_SHAKE256, 64>(mu, input);
}

// Algorithm 29: the challenge, 60 coefficients of 1 or -1.
INLINE void sample_in_ball(const u8 *commitment, i8 *c) {
    const Input input = {commitment, COMMITMENT, commitment, 0, MARK_SHAKE};
    u64 a[25];
    absorb<RATE_SHAKE256>(a, input);
    u64 signs = a[0];
    u8 block[RATE_SHAKE256];
    UNROLL for (u32 at = 0; at < RATE_SHAKE256 / 8; at++) store_word(block + 8 * at, a[at]);
    for (u32 at = 0; at < 256; at++) c[at] = 0;
    u32 read = 8;
    for (u32 at = 256 - TAU; at < 256;) {
        if (read == RATE_SHAKE256) {
            keccak(a);
            UNROLL for (u32 word = 0; word < RATE_SHAKE256 / 8; word++) store_word(block + 8 * word, a[word]);
            read = 0;
        }
        const u32 place = block[read++];
        if (place <= at) {
            c[at] = c[place];
            c[place] = static_cast<i8>(1 - 2 * static_cast<i32>(signs & 1));
            signs >>= 1;
            at++;
        }
    }
}

struct Block {
    i32 factors[COLUMNS + 1][STRIDE]; // z and, last, the challenge
    i32 rows[ROWS][STRIDE];
    u32 hints[ROWS][8]; // a bit a coefficient
    u32 bad;
};

// Algorithm 21. There is one encoding of a hint; every other is refused.
INLINE bool decode_hint(const u8 *places, u32 (*hints)[8]) {
    const u8 *ends = places + OMEGA;
    u32 at = 0;
    for (u32 row = 0; row < ROWS; row++) {
        const u32 start = at, end = ends[row];
        if (end < start || end > OMEGA) return false;
        for (; at < end; at++) {
            if (at > start && places[at - 1] >= places[at]) return false;
            hints[row][places[at] / 32] |= 1U << (places[at] % 32);
        }
    }
    for (; at < OMEGA; at++) {
        if (places[at] != 0) return false;
    }
    return true;
}

// Algorithm 27: the parts of a signature, z checked as in algorithm 8, step 13. Sets `bad` where the signature is invalid
// by its form alone.
INLINE void decode(const u8 *signature, const i8 *challenge, Block &block) {
    STEP(lane) {
        if (lane == 0) block.bad = 0;
        for (u32 job = lane; job < 8 * ROWS; job += blockDim.x) block.hints[job / 8][job % 8] = 0;
        for (u32 job = lane; job < 256; job += blockDim.x) block.factors[COLUMNS][job] = challenge[job];
    }
    STEP(lane) {
        if (lane == 0 && !decode_hint(signature + HINT, block.hints)) atomicOr(&block.bad, 1U);
        // Two coefficients of 20 bits in five bytes.
        for (u32 job = lane; job < 128 * COLUMNS; job += blockDim.x) {
            const u8 *b = signature + COMMITMENT + 5 * job;
            const u32 low = b[0] | b[1] << 8 | (b[2] & 15U) << 16, high = b[2] >> 4 | b[3] << 4 | b[4] << 12;
            const i32 first = GAMMA_1 - static_cast<i32>(low), second = GAMMA_1 - static_cast<i32>(high);
            constexpr i32 BOUND = GAMMA_1 - BETA;
            if (first <= -BOUND || first >= BOUND || second <= -BOUND || second >= BOUND) atomicOr(&block.bad, 1U);
            i32 *z = &block.factors[job / 128][job % 128 * 2];
            z[0] = first;
            z[1] = second;
        }
    }
}

// Algorithms 40 and 28 for one coefficient: without a hint the r1 of algorithm 36, which is (r + gamma2 - 1) / 2gamma2
// rounded down, 16 being 0 again; a hint moves it by one, up if r0 is positive.
INLINE u32 high_bits(i32 r, bool hint) {
    r += (r >> 31) & Q;
    i32 high = ((((r + GAMMA_2 - 1) >> 9) + 1) * 1025) >> 20;
    if (hint) high += r - high * 2 * GAMMA_2 > 0 ? 1 : -1;
    return static_cast<u32>(high & 15);
}

// From the rows of Az - ct1 * 2^d in the transform's domain, below q and times 1 / R, to w1.
INLINE void commit(Block &block, u8 *w1) {
    inverse(block.rows, ROWS);
    STEP(lane) {
        for (u32 job = lane; job < ROWS * PACKED_W1; job += blockDim.x) {
            const u32 row = job / PACKED_W1, at = job % PACKED_W1 * 2;
            const u32 hints = block.hints[row][at / 32] >> (at % 32);
            const u32 low = high_bits(block.rows[row][at], (hints & 1) != 0);
            const u32 high = high_bits(block.rows[row][at + 1], (hints & 2) != 0);
            w1[job] = static_cast<u8>(low | high << 4);
        }
    }
}

// Multiplies a coefficient of A by z's and adds it to its row: seven lanes add to each.
struct Accumulate {
    i32 *row;
    const i32 *factor;
    MEMBER void take(u32 at, i32 coefficient) { atomicAdd(&row[at], multiply(coefficient, factor[at])); }
};

struct Write {
    i32 *to;
    MEMBER void take(u32 at, i32 coefficient) { to[at] = coefficient; }
};

} // namespace mldsa87

// Message i stands in `messages` from offsets[i] to offsets[i + 1], framed. Meant for blocks of 128 lanes.
extern "C" __global__ void mldsa87_prepare(const u8 *keys, const u8 *signatures, const u8 *messages, const u64 *offsets,
                                           u8 *mu, i8 *challenges, u64 count) {
    using namespace mldsa87;
    STEP(lane) {
        const u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + lane;
        if (at < count) {
            u8 tr[64];
            const Input key = {keys + at * PUBLIC_KEY, PUBLIC_KEY, keys, 0, MARK_SHAKE};
            digest<RATE_SHAKE256, 64>(tr, key);
            representative(tr, messages + offsets[at], offsets[at + 1] - offsets[at], mu + 64 * at);
            sample_in_ball(signatures + at * SIGNATURE, challenges + 256 * at);
        }
    }
}

// The key of signature i is entry key_of[i] of the table; one beyond its end makes the signature invalid.
extern "C" __global__ void mldsa87_prepare_cached(const mldsa87::Entry *table, const u32 *key_of, u32 entries,
                                                  const u8 *signatures, const u8 *messages, const u64 *offsets, u8 *mu,
                                                  i8 *challenges, u64 count) {
    using namespace mldsa87;
    STEP(lane) {
        const u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + lane;
        if (at < count && key_of[at] < entries) {
            const u8 *tr = table[key_of[at]].tr;
            representative(tr, messages + offsets[at], offsets[at + 1] - offsets[at], mu + 64 * at);
            sample_in_ball(signatures + at * SIGNATURE, challenges + 256 * at);
        }
    }
}

// A block a signature, meant for 64 lanes: 56 of them sample a polynomial each.
extern "C" __global__ void mldsa87_rows(const u8 *keys, const u8 *signatures, const i8 *challenges, u8 *w1, u8 *well_formed) {
    using namespace mldsa87;
    __shared__ Block block;
    const u64 at = blockIdx.x;
    const u8 *key = keys + at * PUBLIC_KEY;
    decode(signatures + at * SIGNATURE, challenges + 256 * at, block);
    STEP(lane) {
        if (lane == 0) well_formed[at] = block.bad == 0;
    }
    if (block.bad != 0) return;
    unpack_minus_t1(key, block.rows);
    transform(block.factors, COLUMNS + 1);
    STEP(lane) {
        for (u32 job = lane; job < 256 * ROWS; job += blockDim.x) {
            i32 *w = &block.rows[job / 256][job % 256];
            *w = multiply(*w, block.factors[COLUMNS][job % 256]);
        }
    }
    STEP(lane) {
        // Rows before columns: fewer lanes of a warp then add to the same number.
        for (u32 job = lane; job < ROWS * COLUMNS; job += blockDim.x) {
            const u32 row = job % ROWS, column = job / ROWS;
            Accumulate sink = {block.rows[row], block.factors[column]};
            sample(key, row, column, sink);
        }
    }
    STEP(lane) {
        // Eight products, each below q.
        for (u32 job = lane; job < 256 * ROWS; job += blockDim.x) {
            i32 *w = &block.rows[job / 256][job % 256];
            *w = shrink(*w);
        }
    }
    commit(block, w1 + at * ROWS * PACKED_W1);
}

// A block a signature, meant for 64 lanes.
extern "C" __global__ void mldsa87_rows_cached(const mldsa87::Entry *table, const u32 *key_of, u32 entries,
                                               const u8 *signatures, const i8 *challenges, u8 *w1, u8 *well_formed) {
    using namespace mldsa87;
    __shared__ Block block;
    const u64 at = blockIdx.x;
    const bool known = key_of[at] < entries;
    if (known) decode(signatures + at * SIGNATURE, challenges + 256 * at, block);
    STEP(lane) {
        if (lane == 0) well_formed[at] = known && block.bad == 0;
    }
    if (!known || block.bad != 0) return;
    const Entry &entry = table[key_of[at]];
    transform(block.factors, COLUMNS + 1);
    STEP(lane) {
        for (u32 job = lane; job < 256 * ROWS; job += blockDim.x) {
            const u32 row = job / 256, place = job % 256;
            // z and t1 are below 9q, A below q: 7 * 9q^2 + 81q^2 is below 2^31 q.
            i64 sum = 0;
            for (u32 column = 0; column <= COLUMNS; column++) {
                sum += static_cast<i64>(entry.rows[row][column][place]) * block.factors[column][place];
            }
            block.rows[row][place] = reduce(sum);
        }
    }
    commit(block, w1 + at * ROWS * PACKED_W1);
}

// A block a key, meant for 64 lanes. Key i becomes entry slots[i] of the table: no two the same, none beyond its end.
extern "C" __global__ void mldsa87_expand(const u8 *keys, const u32 *slots, mldsa87::Entry *table) {
    using namespace mldsa87;
    __shared__ i32 t1[ROWS][STRIDE];
    const u8 *key = keys + static_cast<u64>(blockIdx.x) * PUBLIC_KEY;
    Entry &entry = table[slots[blockIdx.x]];
    unpack_minus_t1(key, t1);
    STEP(lane) {
        for (u32 job = lane; job < 256 * ROWS; job += blockDim.x) {
            entry.rows[job / 256][COLUMNS][job % 256] = t1[job / 256][job % 256];
        }
        for (u32 job = lane; job <= ROWS * COLUMNS; job += blockDim.x) {
            if (job == ROWS * COLUMNS) {
                const Input input = {key, PUBLIC_KEY, key, 0, MARK_SHAKE};
                digest<RATE_SHAKE256, 64>(entry.tr, input);
            } else {
                Write sink = {entry.rows[job % ROWS][job / ROWS]};
                sample(key, job % ROWS, job / ROWS, sink);
            }
        }
    }
}

// Algorithm 8, step 12. A verdict is 1 or 0. Meant for blocks of 128 lanes.
extern "C" __global__ void mldsa87_verdicts(const u8 *signatures, const u8 *mu, const u8 *w1, const u8 *well_formed,
                                            u8 *verdicts, u64 count) {
    using namespace mldsa87;
    STEP(lane) {
        const u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + lane;
        if (at < count) {
            u64 difference = 1;
            if (well_formed[at] == 1) {
                u64 a[25];
                const Input input = {mu + 64 * at, 64, w1 + at * ROWS * PACKED_W1, ROWS * PACKED_W1, MARK_SHAKE};
                absorb<RATE_SHAKE256>(a, input);
                difference = 0;
                UNROLL for (u32 word = 0; word < COMMITMENT / 8; word++) {
                    difference |= a[word] ^ load_word(signatures + at * SIGNATURE + 8 * word);
                }
            }
            verdicts[at] = difference == 0;
        }
    }
}
