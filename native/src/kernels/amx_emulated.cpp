// The kernels for AMX on any CPU, for tests.
#include "kernels/vec_portable.hpp"
// (the vector comes first)
#include "kernels/tiles_emulated.hpp"
// (then the tiles)
#include "kernels/amx_kernels.hpp"
#include "kernels/tile_product.hpp"

namespace glinthawk {

const Kernels* amx_emulated_kernels(DType kv) { return tile_kernels<EmulatedTiles>(kv); }
const ProductKernel* amx_emulated_product() { return tile_product<EmulatedTiles>(); }

}  // namespace glinthawk
