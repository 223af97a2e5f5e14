// How fast this machine's threads can read memory: the ceiling of decode attention.
#pragma once

#include "machine/arena.hpp"
#include "machine/pool.hpp"

namespace glinthawk {

class Roof {
public:
    // Reads memory as fast as it can, asking for lines `ahead` bytes before they are needed.
    using Read = float (*)(const std::byte* memory, std::size_t bytes, std::size_t ahead);

    // Touches `bytes` of huge pages.
    Roof(std::size_t bytes, int threads, Read read);

    // Bytes per second of one reading of it all, the best way of three.
    double measure();

private:
    double read_all(std::size_t ahead);

    Arena arena_;
    Pool pool_;
    const Read read_;
};

}  // namespace glinthawk
