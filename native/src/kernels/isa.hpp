// Which kernels this machine can run.
#pragma once

#include <string>
#include <vector>

#include "kernels/product.hpp"
#include "kernels/tile.hpp"

namespace glinthawk {

// Instruction sets this CPU and system can run, worst first; "portable" is always there.
std::vector<std::string> supported_isas();

// Kernels of the best set for "auto", else of the one named; throws std::invalid_argument for one that
// is unknown or that this machine cannot run.
struct IsaChoice {
    std::string name;
    const Kernels* kernels;
};
IsaChoice choose_kernels(const std::string& isa, DType kv);

// Whether tables of 128 bytes can be looked up in registers (AVX-512 VBMI).
bool has_byte_tables();

// That of products; null where this machine has none.
const ProductKernel* choose_product();

}  // namespace glinthawk
