// The kernels for AMX on any CPU, for tests.
#include "vec_portable.hpp"
// (the vector comes first)
#include "tiles_emulated.hpp"
// (then the tiles)
#include "amx_kernels.hpp"

namespace glinthawk {

const Kernels* amx_emulated_kernels(DType kv) { return tile_kernels<EmulatedTiles>(kv); }

}  // namespace glinthawk
