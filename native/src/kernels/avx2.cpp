// AVX2, FMA and F16C: Haswell, Zen and later.
#include "kernels/vec_avx2.hpp"
// (the vector comes first)
#include "kernels/attend.hpp"
#include "kernels/float_kernels.hpp"

namespace glinthawk {

const Kernels* avx2_kernels(DType kv) { return float_kernels(kv); }

}  // namespace glinthawk
