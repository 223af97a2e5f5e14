// Where a key or value of a token lies. Everything is made of blocks: up to 64 tokens of one KV head.
//
//   keys    [tokens / 16][head_dim / F][16 tokens][F]         strips of 16 tokens
//   scales  [tokens] of keys, [tokens] of values, as bfloat16 (int8 pages only)
//   values  [value_dim / 16, rounded up][tokens / F][16 dims][F]      columns of 16 dims
//
// F is dtype_fold. A 64-byte line of keys holds F dims of 16 tokens, a line of values holds F tokens
// of 16 dims, so both are consumed the same way: 16 sums, each of F products, without a horizontal
// sum. With bfloat16, 16 lines of keys are one AMX tile as they lie, and so are 16 of values.
//
//   page    [blocks]        of one KV head
//   layer   [KV head][page]                  arena  [layer]
//
// So pages with successive numbers are one run of memory under each head, and work goes through a
// sequence head by head. Hardware prefetchers reach the full bandwidth of memory on runs of 128 KB
// and more, half of it on runs of 16 KB, and software prefetching does not make up for it.
#pragma once

#include "layout/dtype.hpp"

namespace glinthawk {

inline constexpr int kLanes = 16;      // tokens, or dims, of a line
inline constexpr int kMaxBlock = 64;   // tokens of a block: one step of online softmax
inline constexpr int kMaxDim = 256;    // largest head or value size

struct BlockLayout {
    DType dtype;
    int head_dim;
    int value_dim;  // as asked
    int padded;     // value_dim rounded up to 16
    int tokens;     // of a block

    BlockLayout(DType kv, int keys, int values, int page_tokens)
        : dtype(kv),
          head_dim(keys),
          value_dim(values),
          padded((values + kLanes - 1) / kLanes * kLanes),
          tokens(block_tokens(page_tokens)) {}

    // The most that divide a page evenly.
    static int block_tokens(int page_tokens) {
        return page_tokens % 64 == 0 ? 64 : page_tokens % 32 == 0 ? 32 : 16;
    }

    int strip_bytes() const { return kLanes * head_dim * dtype_bytes(dtype); }
    int column_bytes() const { return kLanes * tokens * dtype_bytes(dtype); }
    int key_bytes() const { return tokens / kLanes * strip_bytes(); }
    int value_bytes() const { return padded / kLanes * column_bytes(); }
    int scale_bytes() const { return dtype == DType::int8 ? 4 * tokens : 0; }
    int value_offset() const { return key_bytes() + scale_bytes(); }
    int bytes() const { return value_offset() + value_bytes(); }

    // Element index of (token, dim) within the keys, or within the values, of a block.
    int key_index(int token, int dim) const {
        const int fold = dtype_fold(dtype);
        const int line = token / kLanes * (head_dim / fold) + dim / fold;
        return (line * kLanes + token % kLanes) * fold + dim % fold;
    }
    int value_index(int token, int dim) const {
        const int fold = dtype_fold(dtype);
        const int line = dim / kLanes * (tokens / fold) + token / fold;
        return (line * kLanes + dim % kLanes) * fold + token % fold;
    }
};

}  // namespace glinthawk
