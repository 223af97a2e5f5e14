#include "storage/memory_shares.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "pages/layer.hpp"
#include "schedule/schedule.hpp"
#include "storage/drives.hpp"

namespace glinthawk {

namespace {

int share(std::size_t bytes, std::size_t one, std::size_t least, std::size_t most) {
    return int(std::clamp(bytes / one, least, most));
}

}  // namespace

MemoryShares::MemoryShares(const std::vector<LayerShape>& layers, int page_tokens, DType kv,
                           std::size_t bytes) {
    constexpr std::size_t kFewestLoads = 2, kMostLoads = 16, kFewestStaged = 4, kMostStaged = 64;
    constexpr std::size_t kFewestFrames = 4, kMostFrames = 1 << 30;
    std::size_t page_bytes = 0;
    stage_bytes = 0;
    for (const LayerShape& shape : layers) {
        const std::size_t one = Layer(shape, kv, 1, page_tokens).unit_bytes();
        stage_bytes = std::max(stage_bytes, whole_blocks(one));
        page_bytes += one;
    }
    load_bytes = stage_bytes * (kChunkTokens / page_tokens);
    num_loads = share(bytes / 8, load_bytes, kFewestLoads, kMostLoads);
    num_staged = share(bytes / 16, stage_bytes, kFewestStaged, kMostStaged);
    const std::size_t buffers = load_bytes * num_loads + stage_bytes * num_staged;
    if (bytes < buffers + kFewestFrames * page_bytes)
        throw std::invalid_argument(
            "beside the drives this model needs memory (--kv) of at least " +
            std::to_string((buffers + kFewestFrames * page_bytes) / 1024 + 1) + " KiB");
    num_frames = int(std::min((bytes - buffers) / page_bytes, kMostFrames));
}

}  // namespace glinthawk
