// Plain C++ for any CPU the compiler knows.
#include "vec_portable.hpp"
// (the vector comes first)
#include "attend.hpp"
#include "float_kernels.hpp"

namespace glinthawk {

const Kernels* portable_kernels(DType kv) { return float_kernels(kv); }

}  // namespace glinthawk
