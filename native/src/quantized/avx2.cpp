// AVX2, FMA and F16C.
#include "kernels/vec_avx2.hpp"
// (the vector comes first)
#include "quantized/float_lines.hpp"
// (then the lines)
#include "quantized/strips.hpp"

namespace glinthawk {

const QuantizedKernel* avx2_quantized() { return quantized_kernel<FloatLines>(); }

}  // namespace glinthawk
