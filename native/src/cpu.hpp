// What this machine can do and which CPUs this process may use.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "product.hpp"
#include "tile.hpp"

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

// That of products (product.hpp); null where this machine has none.
const ProductKernel* choose_product();

std::vector<int> allowed_cpus();
// Keeps the calling thread on one CPU.
void pin_to(int cpu);
void pin_to(const std::vector<int>& cpus);

// Spreads memory that is not yet touched over all NUMA nodes; nothing on a machine with one node.
void interleave_over_nodes(void* memory, std::size_t bytes);

}  // namespace glinthawk
