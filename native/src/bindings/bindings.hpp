// What Python sees, by subject. It is thin, and private to the modules that check tensors:
// glinthawk.tier2.backends.native and storage, glinthawk.tier1.forward.norms, rotary and tile_linear,
// glinthawk.tier1.quantized.packed_product, glinthawk.tier1.sampling.kernels.
#pragma once

#include <nanobind/nanobind.h>

namespace glinthawk {

void bind_machine(nanobind::module_& m);
void bind_dense(nanobind::module_& m);
void bind_quantized(nanobind::module_& m);
void bind_plan(nanobind::module_& m);
void bind_engines(nanobind::module_& m);
void bind_sampling(nanobind::module_& m);

}  // namespace glinthawk
