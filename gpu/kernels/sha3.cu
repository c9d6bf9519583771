// A level of a SHA3-256 tree: H(prefix, message) for each of many messages of one length, a lane a message. The prefix is
// the tree's tag as the ledger frames it. Meant for blocks of 128 lanes.
#include "keccak.h"

extern "C" __global__ void sha3_256_level(const u8 *prefix, u32 prefix_len, const u8 *messages, u64 message_len, u8 *out,
                                          u64 count) {
    STEP(lane) {
        const u64 at = static_cast<u64>(blockIdx.x) * blockDim.x + lane;
        if (at < count) {
            const Input input = {prefix, prefix_len, messages + at * message_len, message_len, MARK_SHA3};
            digest<RATE_SHA3_256, 32>(out + 32 * at, input);
        }
    }
}
