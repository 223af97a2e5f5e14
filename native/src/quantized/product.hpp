// Rows times a quantised weight, on all threads.
#pragma once

#include "machine/pool.hpp"
#include "quantized/kernel.hpp"

namespace glinthawk {

// Sums of groups are made here, where `has_offsets` says that they are needed.
void multiply(QuantizedProduct product, bool has_offsets, const QuantizedKernel& kernel,
              int num_threads, Team team);

}  // namespace glinthawk
