#include "attention.hpp"

#include <algorithm>
#include <atomic>
#include <memory>

#include "work.hpp"
#include "worker.hpp"

namespace glinthawk {

void attend(const Store& store, const Pages& pages, const Kernels& kernels,
            const Request& request, Pool& pool) {
    const Layer& layer = store.layer(request.layer);
    Attention attention(store, pages, kernels, request,
                        request.plan.schedule(layer.shape.group(), layer.shape.window));
    const auto passes = cut_passes(attention);
    std::size_t partial_floats = 0;
    for (const Pass& pass : passes) partial_floats = std::max(partial_floats, pass.partial_floats);
    attention.partials = std::make_unique_for_overwrite<float[]>(partial_floats);
    std::vector<std::unique_ptr<Worker>> workers;
    for (int i = 0; i < pool.size(); ++i) workers.push_back(std::make_unique<Worker>(attention));
    for (const Pass& pass : passes) {
        std::atomic<std::size_t> next{0};
        pool.run([&](int thread) { workers[thread]->run(pass, next, pool.size()); });
    }
}

}  // namespace glinthawk
