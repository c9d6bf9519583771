// The stake behind each choice: of the votes whose signatures are valid, each voter counts once for a choice, however
// often and in whatever order its votes stand. Votes of unknown voters or for unknown choices count nothing. `seen` (a
// bit for each choice and voter) and `totals` start as zeros. Sums of stake fit in 64 bits: the caller's stakes do.
// Meant for blocks of 128 lanes, a lane a vote.
#include "common.h"

extern "C" __global__ void tally(const u32 *voters, const u32 *choices, const u8 *verdicts, const u64 *stakes,
                                 u32 voter_count, u32 choice_count, u32 *seen, u64 *totals, u64 count) {
    STEP(lane) {
        const u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + lane;
        if (at < count && verdicts[at] == 1 && voters[at] < voter_count && choices[at] < choice_count) {
            const u64 place = static_cast<u64>(choices[at]) * voter_count + voters[at];
            const u32 bit = 1U << (place % 32);
            if ((atomicOr(&seen[place / 32], bit) & bit) == 0) atomicAdd(&totals[choices[at]], stakes[voters[at]]);
        }
    }
}
