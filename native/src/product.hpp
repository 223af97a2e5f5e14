// Products of rows and a packed weight, bfloat16 with sums in float32. Every sum runs over the inputs in
// their order, in one accumulator, so an output's bits depend on nothing but its row and its column: not
// on how many rows there are, nor on threads.
//
// A weight (out, in) is packed as panels of 32 outputs:
//
//   [out / 32][in / 32][2 halves of 16 outputs][16 pairs of inputs][16 outputs][2]
//
// so that each half is a tile of AMX as it lies. Outputs and inputs are filled up with zeros.
#pragma once

#include <cstddef>

#include "pool.hpp"

namespace glinthawk {

inline constexpr int kPanel = 32;  // outputs of a panel, inputs of a step, rows of a block

struct Product {
    const std::byte* rows;    // (num_rows, num_inputs), contiguous, or packed
    const std::byte* weight;  // packed
    const float* bias;        // (num_outputs filled up,) or null
    std::byte* out;           // (num_rows, num_outputs), contiguous
    std::size_t num_rows;
    int num_inputs;  // a multiple of 32
    int num_outputs;
    // Rows packed like a weight, [num_rows / 16][in / 32][16 rows][32 inputs]: where there are many, as
    // rows that lie a power of two apart would take each other's places in the caches.
    bool packed_rows = false;
};

// Inputs that are added up before the next rows are taken: so many of a panel stay in the first-level
// cache meanwhile.
inline constexpr int kDepth = 512;

// Rows [first, first + count), at most 32 of them, of one panel; inputs [begin, end).
struct ProductBlock {
    std::size_t first;
    int count;
    int panel;
    int begin, end;
    float* sums;  // (32, 32): taken up where begin is not 0, left there where end is not the last
};

// The kernel of an instruction set, or null; `rest` is called by a thread that has no more blocks.
struct ProductKernel {
    void (*multiply)(const Product& product, const ProductBlock& block);
    void (*rest)();
};
const ProductKernel* amx_product();
const ProductKernel* amx_emulated_product();

void multiply(const Product& product, const ProductKernel& kernel, int num_threads, Team team);

}  // namespace glinthawk
