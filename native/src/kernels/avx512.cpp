// AVX-512 F, BW, DQ, VL: Skylake-X, Zen 4 and later.
#include "kernels/vec_avx512.hpp"
// (the vector comes first)
#include "kernels/attend.hpp"
#include "kernels/float_kernels.hpp"

namespace glinthawk {

const Kernels* avx512_kernels(DType kv) { return float_kernels(kv); }

}  // namespace glinthawk
