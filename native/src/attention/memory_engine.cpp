#include "attention/memory_engine.hpp"

#include <stdexcept>

#include "attention/worker.hpp"

namespace glinthawk {

MemoryEngine::MemoryEngine(const std::vector<LayerShape>& layers, int num_pages, int page_tokens,
                           DType kv, const IsaChoice& choice, int threads, Team team)
    : choice_(choice),
      store_(layers, num_pages, page_tokens, kv),
      num_layers_(int(layers.size())),
      pool_(threads, team) {}

void MemoryEngine::check_layer(int layer) const {
    if (layer < 0 || layer >= num_layers_) throw std::invalid_argument("no such layer");
}

void MemoryEngine::check(int layer, const Plan& plan) const {
    check_layer(layer);
    if (plan.page_limit() != store_.num_pages() || plan.page_tokens() != store_.page_tokens())
        throw std::invalid_argument("this plan was made for other pages");
}

std::size_t MemoryEngine::unit_bytes(int layer) const {
    check_layer(layer);
    return store_.layer(layer).unit_bytes();
}

void MemoryEngine::append(int layer, const Plan& plan, const NewRows& rows) {
    check(layer, plan);
    const std::lock_guard lock(mutex_);
    store_.append(layer, plan, store_, rows, pool_);
}

void MemoryEngine::attend(const Request& request) {
    check(request.layer, request.plan);
    attend_over(store_, request);
}

void MemoryEngine::attend_packed(const Request& request, std::byte* units) {
    check_layer(request.layer);
    if (request.plan.page_tokens() != store_.page_tokens())
        throw std::invalid_argument("this plan was made for other pages");
    attend_over(PackedPages(units), request);
}

void MemoryEngine::attend_over(const Pages& pages, const Request& request) {
    const std::lock_guard lock(mutex_);
    Attention attention(store_, pages, *choice_.kernels, request);
    const auto passes = cut_passes(attention);
    const Workers workers = hire(attention, passes, pool_.size());
    for (const Pass& pass : passes) run(pass, workers, pool_);
}

void MemoryEngine::read(int layer, const int* pages, std::size_t num_pages, std::byte* to) {
    check_layer(layer);
    for (std::size_t i = 0; i < num_pages; ++i)
        if (pages[i] < 0 || pages[i] >= store_.num_pages())
            throw std::invalid_argument("there is no such page");
    const Layer& from = store_.layer(layer);
    const std::lock_guard lock(mutex_);
    for (std::size_t i = 0; i < num_pages; ++i)
        store_.read(from, pages[i], to + i * from.unit_bytes());
}

void MemoryEngine::copy_page(int from, int to) {
    const std::lock_guard lock(mutex_);
    store_.copy_page(from, to);
}

}  // namespace glinthawk
