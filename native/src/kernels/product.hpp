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

namespace glinthawk {

inline constexpr int kPanel = 32;  // outputs of a panel, inputs of a step, rows of a block

struct Product {
    const std::byte* rows;    // (num_rows, num_inputs), contiguous
    const std::byte* weight;  // packed
    const float* bias;        // (num_outputs filled up,) or null
    std::byte* out;           // (num_rows, num_outputs), contiguous
    std::size_t num_rows;
    int num_inputs;  // a multiple of 32
    int num_outputs;
};

// Rows [first, first + count), at most 32 of them, times panels [panel, end).
struct ProductBlock {
    std::size_t first;
    int count;
    int panel, end;
};

// The kernel of an instruction set, or null; `rest` is called by a thread that has no more blocks.
struct ProductKernel {
    void (*multiply)(const Product& product, const ProductBlock& block);
    void (*rest)();
};
const ProductKernel* amx_product();
const ProductKernel* amx_emulated_product();

}  // namespace glinthawk
