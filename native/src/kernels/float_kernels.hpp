// Kernels that turn every format into floats and multiply those.
#pragma once

#include "kernels/attend.hpp"

namespace glinthawk {
namespace {

template <class Lines>
struct Floats : Dense<Lines> {
    static void pack_query(std::byte* packed, const void* row, DType dtype, int head_dim) {
        pack_floats<Lines>(packed, row, dtype, head_dim);
    }
};

inline const Kernels* float_kernels(DType kv) {
    switch (kv) {
        case DType::float32: return kernels<Floats<Float32Lines>>();
        case DType::bfloat16: return kernels<Floats<Bfloat16Lines>>();
        case DType::float16: return kernels<Floats<Float16Lines>>();
        case DType::int8: return kernels<Floats<Int8Lines>>();
    }
    return nullptr;
}

}  // namespace
}  // namespace glinthawk
