#include "bindings/arguments.hpp"

#include <stdexcept>

#include "machine/cpus.hpp"

namespace glinthawk {

DType dtype_named(const std::string& name) {
    if (name == "float32") return DType::float32;
    if (name == "bfloat16") return DType::bfloat16;
    if (name == "float16") return DType::float16;
    if (name == "int8") return DType::int8;
    throw std::invalid_argument("there is no dtype " + name);
}

int thread_count(int asked) { return asked > 0 ? asked : int(allowed_cpus().size()); }

Team make_team(Address parallel, Address thread) {
    return {reinterpret_cast<decltype(Team::parallel)>(parallel),
            reinterpret_cast<decltype(Team::thread)>(thread)};
}

}  // namespace glinthawk
