// The seam between products of quantised weights and the kernels of an instruction set.
//
// The sum of a row and an output runs over the inputs of a group in their order, in one accumulator; then
// it is scaled and added to those of the groups before it. Every number of rows and strips at once does it
// like that. So an output's bits depend on its row and its column alone: not on how many rows there are,
// nor on threads. They do depend on the instruction set.
#pragma once

#include <string>

#include "layout/dtype.hpp"
#include "quantized/packed_weight.hpp"

namespace glinthawk {

struct QuantizedProduct {
    PackedShape shape;
    const std::byte* weight;
    const float* values;      // of codes: (16,), or (256,) of which the upper half is minus the lower
    const std::byte* rows;    // (num_rows, shape.num_inputs) in the kernel's dtype
    const float* bias;        // (num_outputs,) or null
    std::byte* out;           // (num_rows, num_outputs) in the kernel's dtype
    std::size_t num_rows;
    // (num_rows, groups): sums of the rows, times the offset that all groups have where the weight keeps
    // none; null where every offset is 0.
    const float* group_sums;
};

// Rows [first, first + count), from one to most_rows of them, times strips [strip, end).
struct StripBlock {
    std::size_t first;
    int count;
    int strip, end;
};

struct QuantizedKernel {
    DType dtype;    // of rows: bfloat16 or float32
    int most_rows;  // of a block: as many as there are registers for
    void (*multiply)(const QuantizedProduct& product, const StripBlock& block);
};

const QuantizedKernel* portable_quantized();
const QuantizedKernel* avx2_quantized();
const QuantizedKernel* avx512_quantized();
const QuantizedKernel* avx512_bf16_quantized();

// That of rows of a dtype, for an instruction set by its name or "auto"; null: it has none for bfloat16.
// Throws std::invalid_argument for an instruction set that is unknown or that this machine has not.
const QuantizedKernel* choose_quantized(const std::string& isa, DType dtype);

}  // namespace glinthawk
