// Rows into pages.
#pragma once

#include <cstddef>

#include "layout/block_layout.hpp"

namespace glinthawk {

// Writes one token's key and value into its slot of a block, and touches no other token's bytes.
using Writer = void (*)(std::byte* block, const BlockLayout& layout, int token,
                        const std::byte* key, const std::byte* value);

Writer choose_writer(DType rows, DType kv);

}  // namespace glinthawk
