// Plain C++ for any CPU.
#include "kernels/vec_portable.hpp"
// (the vector comes first)
#include "quantized/float_lines.hpp"
// (then the lines)
#include "quantized/strips.hpp"

namespace glinthawk {

const QuantizedKernel* portable_quantized() { return quantized_kernel<FloatLines>(); }

}  // namespace glinthawk
