// The seam between the engine and the kernels of an instruction set: plain structs and pointers to
// functions. Only this header is seen by both, so no wide instruction can leak out of a kernel file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/sample_row.hpp"
#include "layout/dtype.hpp"

namespace glinthawk {

inline constexpr int kMaxTileRows = 16;
inline constexpr int kQueryStride = 1088;  // bytes; 17 lines, so that rows fall in different cache sets

// A row's state, in floats: padded_value_dim weighted sums of values, 16 sums of weights, and the shift
// (in log2) of all its weights.
inline constexpr int kRowTail = 32;
inline constexpr int kRowShift = 16;  // from the start of the tail

// What all tiles of a call have in common.
struct Geometry {
    int head_dim;
    int padded_value_dim;
    int block_tokens;
    int strip_bytes;   // keys of 16 tokens
    int column_bytes;  // 16 dims of a block's values
    int scale_offset;  // from a block's start to its scales, behind its keys
    int value_offset;
    float scaling;     // of scores
    float scale;       // from scores, after softcap, to log2; above 0
    float softcap;     // 0: none
};

// Some query rows of one KV head against one block.
struct Tile {
    const std::byte* block;
    std::ptrdiff_t ahead;  // from a line to the one to ask memory for while it is worked on
    int first_token;        // position of the block's first token
    int valid;              // tokens of the block that hold something
    int strips;             // of 16 tokens, the last perhaps not full
    // Every row sees positions [open, close) of this block's sequence.
    int open, close;
    const int* begin;  // per row, the positions it sees: [begin, end)
    const int* end;
    const std::byte* queries;  // packed rows, kQueryStride apart
    float* const* rows;        // states
};

// Partial rows of one query head, in order of their chunks, to one output row.
struct Merge {
    const float* partials;
    std::size_t stride;  // floats between partials
    int num_partials;
    int value_dim;
    int padded_value_dim;
    const float* sink;  // null: none
    DType dtype;        // of the output
    void* output;
    float* log_sum_exp;
};

struct Kernels {
    int max_rows;  // of a tile: 1, 2, 4 ... up to this; others are padded by the caller
    void (*pack_query)(std::byte* packed, const void* row, DType dtype, int head_dim);
    void (*clear)(float* row, int padded_value_dim);
    void (*attend)(const Geometry& geometry, const Tile& tile, int num_rows);
    void (*merge)(const Merge& merge);
    void (*rest)();  // a thread calls it when it has no more tiles
    // Root-mean-square norm of a row whose size is a multiple of 16.
    void (*norm)(std::byte* out, const std::byte* row, const float* weight, int size, float epsilon,
                 DType dtype);
    // Rotary embedding of a head whose size is a multiple of 32.
    void (*rotate)(std::byte* out, const std::byte* row, const std::byte* cos, const std::byte* sin,
                   int size, DType dtype);
    // Reads memory as fast as it can, asking for lines `ahead` bytes before they are needed (0: not);
    // returns a number nobody needs. For the roof.
    float (*read)(const std::byte* memory, std::size_t bytes, std::size_t ahead);
    // A token drawn from a row of logits, and what a row's likeliest tokens are; -1 and false for one
    // without a distribution. See kernels/sample_row.hpp.
    int (*sample)(const SampleRow& row);
    bool (*rank)(const RankRow& row);
};

// The kernels of one instruction set; each is compiled with its own flags.
const Kernels* portable_kernels(DType kv);
const Kernels* avx2_kernels(DType kv);
const Kernels* avx512_kernels(DType kv);
const Kernels* avx512_bf16_kernels(DType kv);
const Kernels* amx_kernels(DType kv);
const Kernels* amx_emulated_kernels(DType kv);

}  // namespace glinthawk
