// A worker's pages in memory, with the kernels and threads that attend over them.
#pragma once

#include <mutex>
#include <vector>

#include "attention/attention.hpp"
#include "kernels/isa.hpp"

namespace glinthawk {

// One call at a time; others wait. Calls throw std::invalid_argument for what does not fit.
class MemoryEngine {
public:
    MemoryEngine(const std::vector<LayerShape>& layers, int num_pages, int page_tokens, DType kv,
                 const IsaChoice& choice, int threads, Team team = {});

    const IsaChoice& isa() const { return choice_; }
    int threads() const { return pool_.size(); }
    std::size_t page_bytes() const { return store_.page_bytes(); }
    std::size_t unit_bytes(int layer) const;

    void append(int layer, const Plan& plan, const NewRows& rows);
    void attend(const Request& request);
    // Over `units`, pages of this layer one after the other as `read` packs them.
    void attend_packed(const Request& request, std::byte* units);
    // Packs pages of a layer one after the other.
    void read(int layer, const int* pages, std::size_t num_pages, std::byte* to);
    void copy_page(int from, int to);

private:
    void check_layer(int layer) const;
    void check(int layer, const Plan& plan) const;
    void attend_over(const Pages& pages, const Request& request);

    const IsaChoice choice_;
    Store store_;
    const int num_layers_;
    Pool pool_;
    std::mutex mutex_;
};

}  // namespace glinthawk
