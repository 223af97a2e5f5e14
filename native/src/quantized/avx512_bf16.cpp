// AVX-512 with BF16 and VBMI: Sapphire Rapids, Zen 4 and later.
#include "kernels/vec_avx512.hpp"
// (the vector comes first)
#include "quantized/bf16_lines.hpp"
// (then the lines)
#include "quantized/strips.hpp"

namespace glinthawk {

const QuantizedKernel* avx512_bf16_quantized() { return quantized_kernel<Bf16Lines>(); }

}  // namespace glinthawk
