// Many rows of logits, a row at a time on each of some threads: what comes of a row depends on nothing
// but its own logits and rules.
#pragma once

#include "kernels/tile.hpp"
#include "machine/pool.hpp"

namespace glinthawk {

struct LogitRows {
    const std::byte* const* rows;  // (num_rows,), each of `size` logits
    std::size_t num_rows;
    int size;
    DType dtype;
};

struct EditedRows {
    const std::int64_t* offsets;  // (num_rows + 1,): where each row's edits begin; null: there are none
    const std::int64_t* tokens;
    const float* values;

    LogitEdits of(std::size_t row) const {
        if (!offsets) return {};
        const std::int64_t first = offsets[row];
        return {tokens + first, values + first, std::size_t(offsets[row + 1] - first)};
    }
};

struct MaskedRows {
    const std::uint32_t* const* masks;  // (num_rows,), null for rows without one; null: there are none
    std::size_t num_words;              // of each mask

    TokenMask of(std::size_t row) const {
        return masks ? TokenMask{masks[row], num_words} : TokenMask{};
    }
};

// Writes a token for each row, -1 where logits have no distribution. `rules` are (num_rows, 5):
// temperature, top-k, top-p, min-p, random number.
void sample_rows(const LogitRows& logits, const double* rules, const EditedRows& edits,
                 const MaskedRows& masks, std::int64_t* tokens, const Kernels& kernels, int num_threads, Team team);

struct RankedRows {
    std::int64_t* tokens;     // (num_rows,): whose log-probability is asked; -1 is written where there
                              // is no distribution
    float* logprobs;          // (num_rows,)
    std::int64_t* ranks;      // (num_rows,)
    int count;                // of the likeliest, at most `size`
    std::int64_t* top_ids;    // (num_rows, count)
    float* top_logprobs;      // (num_rows, count)
};

void rank_rows(const LogitRows& logits, const RankedRows& to, const Kernels& kernels,
               int num_threads, Team team);

}  // namespace glinthawk
