#include "pages/store.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <new>
#include <stdexcept>

#include "pages/row_writer.hpp"

namespace glinthawk {

namespace {

constexpr std::size_t kMostBytes = std::size_t(1) << 47;  // of a process's addresses

void check(const LayerShape& layer) {
    const auto fits = [](int size) { return 8 <= size && size <= kMaxDim && size % 8 == 0; };
    if (!fits(layer.head_dim) || !fits(layer.value_dim))
        throw std::invalid_argument("head sizes must be multiples of 8 from 8 to 256");
    if (layer.num_kv_heads < 1 || layer.num_heads % layer.num_kv_heads != 0 ||
        layer.group() < 1 || layer.group() > kMaxQueriesPerHead)
        throw std::invalid_argument("a KV head must serve from 1 to 64 query heads");
    if (!(layer.scaling > 0)) throw std::invalid_argument("scaling is above 0");
    if (layer.window < 0) throw std::invalid_argument("a window is at least one token");
}

}  // namespace

Store::Store(const std::vector<LayerShape>& layers, int num_pages, int page_tokens, DType kv)
    : num_pages_(num_pages), page_tokens_(page_tokens), dtype_(kv) {
    if (num_pages < 1) throw std::invalid_argument("a store has at least one page");
    if (page_tokens < kLanes || page_tokens % kLanes != 0)
        throw std::invalid_argument("page_tokens must be a multiple of 16");
    for (const LayerShape& shape : layers) {
        check(shape);
        layers_.emplace_back(shape, kv, num_pages, page_tokens);
    }
    if (layers_.empty()) throw std::invalid_argument("a store has at least one layer");
    std::size_t bytes;
    if (__builtin_mul_overflow(page_bytes(), std::size_t(num_pages), &bytes) || bytes > kMostBytes)
        throw std::bad_alloc();
    arena_ = std::make_unique<Arena>(bytes);
    std::byte* at = arena_->data();
    for (Layer& layer : layers_) {
        layer.memory = at;
        at += layer.head_bytes * layer.shape.num_kv_heads;
    }
}

std::size_t Store::page_bytes() const {
    std::size_t sum = 0;
    for (const Layer& layer : layers_) sum += layer.unit_bytes();
    return sum;
}

void Store::copy_page(int from, int to) {
    if (from < 0 || from >= num_pages_ || to < 0 || to >= num_pages_)
        throw std::invalid_argument("there is no such page");
    if (from == to) return;
    for (const Layer& layer : layers_) {
        for (int head = 0; head < layer.shape.num_kv_heads; ++head) {
            std::byte* pages = layer.memory + head * layer.head_bytes;
            std::memcpy(pages + to * layer.page_bytes, pages + from * layer.page_bytes,
                        layer.page_bytes);
        }
    }
}

void Store::read(const Layer& layer, int page, std::byte* to) const {
    const Place place = find(layer, page);
    for (int head = 0; head < layer.shape.num_kv_heads; ++head)
        std::memcpy(to + head * layer.page_bytes, place.memory + head * place.stride,
                    layer.page_bytes);
}

void Store::fill(const Layer& layer, int page, const std::byte* from) {
    const Place place = find(layer, page);
    for (int head = 0; head < layer.shape.num_kv_heads; ++head)
        std::memcpy(place.memory + head * place.stride, from + head * layer.page_bytes,
                    layer.page_bytes);
}

void Store::write(const Layer& layer, const Place& place, int offset, const NewRows& rows,
                  std::size_t first_row, int count) const {
    const Writer write = choose_writer(rows.dtype, dtype_);
    const int heads = layer.shape.num_kv_heads, block = layer.layout.tokens;
    const std::size_t element = dtype_bytes(rows.dtype);
    const std::size_t key_bytes = layer.layout.head_dim * element;
    const std::size_t value_bytes = layer.layout.value_dim * element;
    for (int head = 0; head < heads; ++head) {
        for (int t = 0; t < count; ++t) {
            const std::size_t row = (first_row + t) * heads + head;
            write(place.block(layer, head, offset + t), layer.layout, (offset + t) % block,
                  rows.keys + row * key_bytes, rows.values + row * value_bytes);
        }
    }
}

void Store::append(int index, const Plan& plan, const Pages& to, const NewRows& rows,
                   Pool& pool) const {
    const Layer& layer = layers_.at(index);
    const auto& pieces = plan.pieces();
    std::atomic<std::size_t> next{0};
    constexpr std::size_t kAtOnce = 4;
    pool.run([&](int) {
        for (std::size_t at; (at = next.fetch_add(kAtOnce)) < pieces.size();) {
            for (std::size_t i = at; i < std::min(at + kAtOnce, pieces.size()); ++i) {
                const Piece& piece = pieces[i];
                const int page = plan.spans()[piece.span].pages[piece.position / page_tokens_];
                const Place place = to.find(layer, page);
                if (place.memory)
                    write(layer, place, piece.position % page_tokens_, rows, piece.row,
                          piece.tokens);
            }
        }
    });
}

}  // namespace glinthawk
