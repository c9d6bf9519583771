// What every kernel stands on: number types, and the way in which the lanes of a block take turns.
//
// The text of all kernels is the common part of CUDA C++ and C++17: a device runs it, and the host runs it in tests
// (host.h). That holds because of one rule. A kernel is a row of steps: in a step each lane of the block works by
// itself, and no lane begins the next step before all have ended this one. What outlives a step stands in shared or
// global memory, never in a local variable of a lane. On a device STEP is the lane's own turn and a barrier behind it;
// on the host it is a loop over the lanes, which may be walked backwards to show that their order does not matter.
// There is no communication inside a warp. Inside a step there is no return, break or continue out of it.
//
// Every kernel is right for every size of a block; the sizes that are meant stand with the kernels.
#pragma once

#ifdef __CUDACC__
#define STEP(lane) for (u32 lane = threadIdx.x, turn_ = 1; turn_ != 0; turn_ = 0, __syncthreads())
#define INLINE __device__ __forceinline__
#define MEMBER __device__ __forceinline__
#define CONSTEXPR __host__ __device__ constexpr
#define UNROLL _Pragma("unroll")
#else
#include "host.h"
#endif

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char i8;
typedef int i32;
typedef long long i64;

static_assert(sizeof(u32) == 4 && sizeof(u64) == 8, "the sizes that the standards' arithmetic is written for");
