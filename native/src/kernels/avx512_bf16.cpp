// AVX-512 with BF16 and VNNI: Cooper Lake, Sapphire Rapids, Zen 4 and later.
#include "kernels/vec_avx512.hpp"
// (the vector comes first)
#include "kernels/bf16_dot.hpp"
#include "kernels/float_kernels.hpp"
#include "kernels/int8_dot.hpp"

namespace glinthawk {

const Kernels* avx512_bf16_kernels(DType kv) {
    switch (kv) {
        case DType::bfloat16: return kernels<Floats<Bf16DotLines>>();
        case DType::int8: return kernels<Int8Dot>();
        default: return float_kernels(kv);
    }
}

}  // namespace glinthawk
