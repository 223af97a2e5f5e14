// AVX-512 F, BW, DQ, VL.
#include "kernels/vec_avx512.hpp"
// (the vector comes first)
#include "quantized/float_lines.hpp"
// (then the lines)
#include "quantized/strips.hpp"

namespace glinthawk {

const QuantizedKernel* avx512_quantized() { return quantized_kernel<FloatLines>(); }

}  // namespace glinthawk
