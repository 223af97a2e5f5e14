#include "attention.hpp"

#include <algorithm>
#include <atomic>

#include "work.hpp"
#include "worker.hpp"

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

void attend(const Store& store, const Pages& pages, const Kernels& kernels,
            const Request& request, Pool& pool) {
    const Layer& layer = store.layer(request.layer);
    Attention attention(store, pages, kernels, request,
                        request.plan.schedule(layer.shape.group(), layer.shape.window));
    const auto passes = cut_passes(attention);
    const Workers workers = hire(attention, passes, pool.size());
    for (const Pass& pass : passes) run(pass, workers, pool);
}

}  // namespace glinthawk
