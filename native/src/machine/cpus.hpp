// Which CPUs this process may use, and where its memory lies.
#pragma once

#include <cstddef>
#include <vector>

namespace glinthawk {

std::vector<int> allowed_cpus();
// Keeps the calling thread on one CPU.
void pin_to(int cpu);
void pin_to(const std::vector<int>& cpus);

// Spreads memory that is not yet touched over all NUMA nodes; nothing on a machine with one node.
void interleave_over_nodes(void* memory, std::size_t bytes);

}  // namespace glinthawk
