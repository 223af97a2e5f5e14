// Tokens drawn from rows of logits, a row at a time on each of some threads: a row's token depends on
// nothing but its own logits and rules.
#pragma once

#include "../pool.hpp"
#include "../tile.hpp"

namespace glinthawk {

struct SampleBatch {
    const std::byte* const* rows;  // (num_rows,), each of `size` logits
    const double* rules;           // (num_rows, 5): temperature, top-k, top-p, min-p, random number
    std::size_t num_rows;
    int size;
    DType dtype;
    std::int64_t* tokens;  // (num_rows,); -1 where logits have no distribution
};

void sample_rows(const SampleBatch& batch, const Kernels& kernels, int num_threads, Team team);

}  // namespace glinthawk
