// One tile from end to end, and the table of an instruction set's kernels.
#pragma once

#include "kernels/dense.hpp"
#include "kernels/norm.hpp"
#include "kernels/rank.hpp"
#include "kernels/rotary.hpp"
#include "kernels/rows.hpp"
#include "kernels/sample.hpp"

namespace glinthawk {
namespace {

template <class Codec, int R>
void attend_rows(const Geometry& geometry, const Tile& tile) {
    alignas(64) float scores[R][kMaxBlock];
    alignas(64) float rescale[kMaxTileRows];
    Codec::template score<R>(geometry, tile, scores);
    const bool moved = softmax<R>(geometry, tile, scores, rescale);
    Codec::template weigh<R>(geometry, tile, scores, moved ? rescale : nullptr);
}

template <class Codec>
void attend(const Geometry& geometry, const Tile& tile, int num_rows) {
    switch (num_rows) {
        case 1: return attend_rows<Codec, 1>(geometry, tile);
        case 2: return attend_rows<Codec, 2>(geometry, tile);
        case 4: return attend_rows<Codec, 4>(geometry, tile);
        case 8:
            if constexpr (Codec::kTileRows >= 8) attend_rows<Codec, 8>(geometry, tile);
            return;
        case 16:
            if constexpr (Codec::kTileRows >= 16) attend_rows<Codec, 16>(geometry, tile);
            return;
    }
}

inline float read(const std::byte* memory, std::size_t bytes, std::size_t ahead) {
    Vec sum[8] = {zero(), zero(), zero(), zero(), zero(), zero(), zero(), zero()};
    for (const std::byte* end = memory + bytes / 512 * 512; memory != end; memory += 512) {
        if (ahead)
            for (int i = 0; i < 8; ++i) prefetch(memory + ahead + 64 * i);
        for (int i = 0; i < 8; ++i)
            sum[i] = max(sum[i], load(reinterpret_cast<const float*>(memory) + 16 * i));
    }
    Vec all = sum[0];
    for (Vec x : sum) all = max(all, x);
    return hmax(all);
}

template <class Codec>
const Kernels* kernels() {
    static constexpr Kernels table{Codec::kTileRows, Codec::pack_query, clear_row,  attend<Codec>,
                                   merge_row,        Codec::rest,       norm_row,   rotate_row,
                                   read,             sample_row,         rank_row};
    return &table;
}

}  // namespace
}  // namespace glinthawk
