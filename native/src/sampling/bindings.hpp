// What Python sees of sampling; private to glinthawk.tier1.sampling, which checks tensors.
#pragma once

#include <nanobind/nanobind.h>

namespace glinthawk {

void bind_sampling(nanobind::module_& m);

}  // namespace glinthawk
