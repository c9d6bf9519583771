// CUDA's words for a C++17 compiler, so that a processor can run the kernels in tests. Never part of a release.
#pragma once

#define __global__
#define __device__
// A variable on the stack: each launch of a block has its own, which the compiler fills with a pattern where it can, so
// that memory that was never written does not look like zeros.
#define __shared__
#define __constant__ static const

#define STEP(lane)                                                                                                     \
    for (u32 turn_ = 0, lane = host_lane(0); turn_ < blockDim.x; lane = host_lane(++turn_))
#define INLINE static inline
#define MEMBER inline
#define CONSTEXPR constexpr
#define UNROLL

struct HostIndex {
    unsigned x;
};
static thread_local HostIndex blockIdx, blockDim;
static thread_local bool host_backwards;

static inline unsigned host_lane(unsigned turn) { return host_backwards ? blockDim.x - 1 - turn : turn; }

template <typename T> static inline T atomicAdd(T *at, T more) {
    const T before = *at;
    *at = static_cast<T>(before + more);
    return before;
}

template <typename T> static inline T atomicOr(T *at, T bits) {
    const T before = *at;
    *at = before | bits;
    return before;
}
