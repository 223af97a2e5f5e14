// Where a page is: several things may say so.
#pragma once

#include "pages/layer.hpp"

namespace glinthawk {

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

}  // namespace glinthawk
