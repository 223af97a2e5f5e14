// Where R rows and C strips are being read.
#pragma once

#include <cstddef>

namespace glinthawk {
namespace {

template <int R, int C>
struct Cursor {
    const std::byte* rows[R];
    const std::byte* codes[C];
    std::size_t input;  // bytes of a row that were read
};

// Asks for the line that is needed after some others.
inline void prefetch_codes(const std::byte* p) {
    constexpr int kAhead = 2048;  // bytes
    __builtin_prefetch(p + kAhead, 0, 3);
}

}  // namespace
}  // namespace glinthawk
