// How fast this machine's threads can read memory: the ceiling of decode attention.
#pragma once

#include "arena.hpp"
#include "pool.hpp"
#include "tile.hpp"

namespace glinthawk {

class Roof {
public:
    // Touches `bytes` of huge pages.
    Roof(std::size_t bytes, const Kernels& kernels, Pool& pool);

    // Bytes per second of one reading of it all, the best way of three.
    double measure();

private:
    double read(std::size_t ahead);

    Arena arena_;
    const Kernels& kernels_;
    Pool& pool_;
};

}  // namespace glinthawk
