// What a kernel is told of a row of logits. Kernels and their callers see this alone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "layout/dtype.hpp"

namespace glinthawk {

// Ids in this many vectors of sixteen are one block of a row; the same lane of all is one group.
inline constexpr int kSampleFold = 32;
inline constexpr int kSampleBlock = 16 * kSampleFold;

struct SampleRules {
    double temperature;  // above 0
    std::int64_t top_k;  // 0: all
    double top_p;        // from above 0 to 1: all
    double min_p;        // 0: all
    double uniform;      // the row's random number, in [0, 1)
};

// Which tokens may come at all: a bit for each, the first one's the lowest; none beyond the words.
struct TokenMask {
    const std::uint32_t* words;  // null: any may
    std::size_t num_words;
};

// Memory of one thread for rows of up to num_blocks blocks; nothing in it outlives a row.
struct SampleScratch {
    float* sketch;          // 32 a block: the largest of each group, then one other of it
    float* sketch_weights;  // the same number
    double* block_weights;  // 1 a block: of what is kept
    // Tokens whose fate is open, in order of their ids; room for two vectors more than a row.
    float* values;
    float* weights;
    std::int32_t* ids;
    std::byte* tail;  // the last block, filled up
    float* copy;      // a row, in whole blocks
};

struct LogitRow {
    const std::byte* logits;  // (size,), contiguous
    DType dtype;
    int size;
    SampleScratch scratch;
};

// Logits that take the place of a row's own.
struct LogitEdits {
    const std::int64_t* tokens;  // (count,)
    const float* values;
    std::size_t count;
};

struct SampleRow {
    LogitRow row;
    SampleRules rules;
    LogitEdits edits;
    TokenMask mask;
};

// Log-probabilities of a row's logits as they are: of `token`, and of the `count` likeliest.
struct RankRow {
    LogitRow row;
    int token;
    int count;                // at most the row's size
    float* logprob;           // of the token
    std::int64_t* rank;       // of the token: its place among all, from 1 on, in the order below
    std::int64_t* top_ids;    // (count,), likeliest first; of equals the lower id
    float* top_logprobs;      // (count,)
};

}  // namespace glinthawk
