// Plain C++ for any CPU the compiler knows.
#include "kernels/vec_portable.hpp"
// (the vector comes first)
#include "kernels/attend.hpp"
#include "kernels/float_kernels.hpp"

namespace glinthawk {

const Kernels* portable_kernels(DType kv) { return float_kernels(kv); }

}  // namespace glinthawk
