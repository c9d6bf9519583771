// Runs the kernels on a processor: one block after the other, its lanes in turns. For tests (feature host-kernels).
#include "common.h"

#include "mldsa87.cu"
#include "mlkem1024.cu"
#include "sha3.cu"
#include "tally.cu"

struct HostLaunch {
    u32 blocks, lanes, backwards;
};

template <typename... Parameters, typename... Arguments>
static void launch(HostLaunch with, void (*kernel)(Parameters...), Arguments... arguments) {
    blockDim.x = with.lanes;
    host_backwards = with.backwards != 0;
    for (u32 block = 0; block < with.blocks; block++) {
        blockIdx.x = block;
        kernel(arguments...);
    }
}

#define HOST(kernel, parameters, ...)                                                                                  \
    extern "C" void host_##kernel(HostLaunch with, HOST_PARAMETERS parameters) { launch(with, kernel, __VA_ARGS__); }
#define HOST_PARAMETERS(...) __VA_ARGS__

HOST(mldsa87_prepare,
     (const u8 *keys, const u8 *signatures, const u8 *messages, const u64 *offsets, u8 *mu, i8 *challenges, u64 count),
     keys, signatures, messages, offsets, mu, challenges, count)
HOST(mldsa87_prepare_cached,
     (const mldsa87::Entry *table, const u32 *key_of, u32 entries, const u8 *signatures, const u8 *messages,
      const u64 *offsets, u8 *mu, i8 *challenges, u64 count),
     table, key_of, entries, signatures, messages, offsets, mu, challenges, count)
HOST(mldsa87_rows, (const u8 *keys, const u8 *signatures, const i8 *challenges, u8 *w1, u8 *well_formed), keys, signatures,
     challenges, w1, well_formed)
HOST(mldsa87_rows_cached,
     (const mldsa87::Entry *table, const u32 *key_of, u32 entries, const u8 *signatures, const i8 *challenges, u8 *w1,
      u8 *well_formed),
     table, key_of, entries, signatures, challenges, w1, well_formed)
HOST(mldsa87_expand, (const u8 *keys, const u32 *slots, mldsa87::Entry *table), keys, slots, table)
HOST(mldsa87_verdicts,
     (const u8 *signatures, const u8 *mu, const u8 *w1, const u8 *well_formed, u8 *verdicts, u64 count), signatures, mu, w1,
     well_formed, verdicts, count)
HOST(mlkem1024_keygen, (const u8 *d, const u8 *z, u8 *ek, u8 *dk), d, z, ek, dk)
HOST(mlkem1024_encaps, (const u8 *ek, const u8 *m, u8 *ciphertexts, u8 *secrets, u8 *good), ek, m, ciphertexts, secrets,
     good)
HOST(mlkem1024_decaps, (const u8 *dk, const u8 *ciphertexts, u8 *secrets, u8 *good), dk, ciphertexts, secrets, good)
HOST(sha3_256_level, (const u8 *prefix, u32 prefix_len, const u8 *messages, u64 message_len, u8 *out, u64 count), prefix,
     prefix_len, messages, message_len, out, count)
HOST(tally,
     (const u32 *voters, const u32 *choices, const u8 *verdicts, const u64 *stakes, u32 voter_count, u32 choice_count,
      u32 *seen, u64 *totals, u64 count),
     voters, choices, verdicts, stakes, voter_count, choice_count, seen, totals, count)
