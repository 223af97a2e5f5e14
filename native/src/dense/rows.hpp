// Norms and rotary embeddings of rows, on the threads of a team.
#pragma once

#include <cstddef>

#include "layout/dtype.hpp"
#include "machine/pool.hpp"

namespace glinthawk {

// Rows that lie one after the other.
struct NormRows {
    std::byte* out;
    const std::byte* rows;
    const float* weight;
    std::size_t num_rows;
    int size;  // a multiple of 16
    float epsilon;
    DType dtype;
};

void rms_norm(const NormRows& rows, int num_threads, Team team);

// Heads (T, H, D), tokens `token_bytes` apart, to contiguous ones; cos and sin are (T, D).
struct RotaryRows {
    std::byte* out;
    const std::byte* heads;
    std::size_t token_bytes;
    const std::byte* cos;
    const std::byte* sin;
    std::size_t num_tokens, num_heads;
    int size;  // of a head, a multiple of 32
    DType dtype;
};

void rotate(const RotaryRows& rows, int num_threads, Team team);

}  // namespace glinthawk
