// AMX with bfloat16 and int8: Sapphire Rapids and later.
#include "kernels/vec_avx512.hpp"
// (the vector comes first)
#include "kernels/tiles_hardware.hpp"
// (then the tiles)
#include "kernels/amx_kernels.hpp"
#include "kernels/tile_product.hpp"

namespace glinthawk {

const Kernels* amx_kernels(DType kv) { return tile_kernels<HardwareTiles>(kv); }
const ProductKernel* amx_product() { return tile_product<HardwareTiles>(); }

}  // namespace glinthawk
