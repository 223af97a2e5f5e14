// Rows times a packed weight, on all threads.
#pragma once

#include "kernels/product.hpp"
#include "machine/pool.hpp"

namespace glinthawk {

void multiply(const Product& product, const ProductKernel& kernel, int num_threads, Team team);

}  // namespace glinthawk
