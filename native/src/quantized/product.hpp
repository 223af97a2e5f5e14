// Rows times a quantised weight, on all threads.
#pragma once

#include "machine/pool.hpp"
#include "quantized/kernel.hpp"

namespace glinthawk {

// `offset` is that of every group where the weight keeps none. Sums of groups are made here.
void multiply(QuantizedProduct product, float offset, const QuantizedKernel& kernel,
              int num_threads, Team team);

}  // namespace glinthawk
