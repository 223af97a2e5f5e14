// The pages of all layers.
#pragma once

#include <memory>
#include <vector>

#include "arena.hpp"
#include "layout.hpp"
#include "plan.hpp"
#include "pool.hpp"

namespace glinthawk {

struct Layer {
    LayerShape shape;
    std::vector<float> sinks;
    BlockLayout layout;
    std::size_t page_bytes;  // of one page under one KV head
    std::size_t head_bytes;  // of all pages under one KV head
    std::byte* memory;

    // Of one page in this layer.
    std::size_t unit_bytes() const { return page_bytes * shape.num_kv_heads; }

    Layer(const LayerShape& shape, DType kv, int num_pages, int page_tokens);
};

// A page in one layer: what it has under its first KV head, and the bytes from one head to the next.
struct Place {
    std::byte* memory;
    std::size_t stride;

    // The block of `head` that holds token `offset` of the page.
    std::byte* block(const Layer& layer, int head, int offset) const {
        return memory + head * stride +
               std::size_t(offset / layer.layout.tokens) * layer.layout.bytes();
    }
};

// Keys (T, K, D) and values (T, K, Dv) of new tokens.
struct NewRows {
    const std::byte* keys;
    const std::byte* values;
    DType dtype;
};

// Finds the pages of a call.
class Pages {
public:
    virtual Place find(const Layer& layer, int page) const = 0;

protected:
    ~Pages() = default;
};

// Pages one after the other, in one layer, as `Store::read` packs them.
class PackedPages final : public Pages {
public:
    explicit PackedPages(std::byte* memory) : memory_(memory) {}
    Place find(const Layer& layer, int page) const override {
        return {memory_ + page * layer.unit_bytes(), layer.page_bytes};
    }

private:
    std::byte* memory_;
};

class Store final : public Pages {
public:
    Store(const std::vector<LayerShape>& layers, int num_pages, int page_tokens, DType kv);

    const Layer& layer(int index) const { return layers_.at(index); }
    DType dtype() const { return dtype_; }
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
