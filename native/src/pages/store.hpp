// The pages of all layers in memory.
#pragma once

#include <memory>
#include <vector>

#include "machine/arena.hpp"
#include "machine/pool.hpp"
#include "pages/pages.hpp"
#include "schedule/plan.hpp"

namespace glinthawk {

// Keys (T, K, D) and values (T, K, Dv) of new tokens.
struct NewRows {
    const std::byte* keys;
    const std::byte* values;
    DType dtype;
};

class Store final : public Pages {
public:
    Store(const std::vector<LayerShape>& layers, int num_pages, int page_tokens, DType kv);

    const Layer& layer(int index) const { return layers_.at(index); }
    int num_pages() const { return num_pages_; }
    int page_tokens() const { return page_tokens_; }
    std::size_t page_bytes() const;  // of one page over all layers

    Place find(const Layer& layer, int page) const override {
        return {layer.memory + page * layer.page_bytes, layer.head_bytes};
    }

    // Writes the new tokens' keys (T, K, D) and values (T, K, Dv) to `pages`; those without memory are
    // left out.
    void append(int layer, const Plan& plan, const Pages& pages, const NewRows& rows, Pool& pool) const;
    void copy_page(int from, int to);
    // Packs a page of one layer, head by head, into unit_bytes of memory; and back.
    void read(const Layer& layer, int page, std::byte* to) const;
    void fill(const Layer& layer, int page, const std::byte* from);
    // Writes some of the rows, from `row` on, to a page from token `offset` on.
    void write(const Layer& layer, const Place& place, int offset, const NewRows& rows,
               std::size_t row, int count) const;

private:
    std::vector<Layer> layers_;
    int num_pages_;
    int page_tokens_;
    DType dtype_;
    std::unique_ptr<Arena> arena_;
};

}  // namespace glinthawk
