// Number formats of rows and of KV pages.
#pragma once

#include <cstddef>

namespace glinthawk {

enum class DType : int { float32, bfloat16, float16, int8 };

constexpr int dtype_bytes(DType dtype) {
    return dtype == DType::float32 ? 4 : dtype == DType::int8 ? 1 : 2;
}

// How many neighbours lie side by side in a page so that one dot instruction can eat them:
// head dims of a key, tokens of a value.
constexpr int dtype_fold(DType dtype) {
    return dtype == DType::int8 ? 4 : dtype == DType::bfloat16 ? 2 : 1;
}

}  // namespace glinthawk
