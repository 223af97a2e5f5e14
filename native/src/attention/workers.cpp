#include "attention/workers.hpp"

#include <algorithm>

namespace glinthawk {

Workers hire(Attention& attention, const std::vector<Pass>& passes, int threads) {
    std::size_t partial_floats = 0;
    for (const Pass& pass : passes) partial_floats = std::max(partial_floats, pass.partial_floats);
    attention.partials = std::make_unique_for_overwrite<float[]>(partial_floats);
    Workers workers;
    for (int i = 0; i < threads; ++i) workers.push_back(std::make_unique<Worker>(attention));
    return workers;
}

void run(const Pass& pass, const Workers& workers, Pool& pool) {
    std::atomic<std::size_t> next{0};
    pool.run([&](int thread) { workers[thread]->run(pass, next, pool.size()); });
}

}  // namespace glinthawk
