// AVX2, FMA and F16C: Haswell, Zen and later.
#include "vec_avx2.hpp"
// (the vector comes first)
#include "attend.hpp"
#include "float_kernels.hpp"

namespace glinthawk {

const Kernels* avx2_kernels(DType kv) { return float_kernels(kv); }

}  // namespace glinthawk
