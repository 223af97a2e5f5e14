// Attention with tiles: up to 16 rows of queries against 16 tokens, or 16 dims, at once. Blocks are made
// so that their lines are tiles as they lie. Include tiles_*.hpp first.
#pragma once

#include "kernels/attend.hpp"
#include "kernels/float_kernels.hpp"
#include "kernels/int8_rows.hpp"

namespace glinthawk {
namespace {

// Which register does what.
enum : int { kSum, kSumLow, kRows, kLines, kRowsRest, kLinesRest, kWeights, kValues };

template <class Tiles>
struct TileUnit {
    // Registers of a tile of `rows` queries; nothing to do if they were set up so already.
    static void configure(const Geometry& geometry, int rows) {
        const int lines = geometry.strip_bytes / 64, rest = lines % 16;
        const int values = geometry.column_bytes / 64 < 16 ? geometry.column_bytes / 64 : 16;
        const int key = rows << 16 | rest << 8 | values;
        if (key == configured_) return;
        configured_ = key;
        const auto r = std::uint8_t(rows);
        const auto shape = [](int count) { return TileShape{std::uint8_t(count), 64}; };
        const auto words = [&](int count) { return TileShape{r, std::uint16_t(4 * count)}; };
        Tiles::configure({shape(rows), shape(rows), words(16), shape(16),
                          words(rest ? rest : 16), shape(rest ? rest : 16), words(values),
                          shape(values)});
    }
    static void rest() {
        if (configured_) Tiles::release();
        configured_ = 0;
    }

    static void ask(const std::byte* p, std::ptrdiff_t ahead, int lines) {
        for (int i = 0; i < lines; ++i) prefetch(p + ahead + 64 * i);
    }

private:
    static inline thread_local int configured_ = 0;
};

template <class Tiles>
struct TileBfloat16 {
    static constexpr int kTileRows = 16;
    static constexpr auto rest = TileUnit<Tiles>::rest;

    struct Packed {
        static constexpr int kBytes = 2;
        static void pack(std::byte* to, Vec x) { store_bf16(to, x); }
    };
    static constexpr auto pack_query = pack_floats<Packed>;

    template <int R>
    static void score(const Geometry& geometry, const Tile& tile, float (*scores)[kMaxBlock]) {
        TileUnit<Tiles>::configure(geometry, R);
        const int lines = geometry.strip_bytes / 64, whole = lines / 16;
        const std::byte* key = tile.block;
        for (int s = 0; s < tile.strips; ++s, key += geometry.strip_bytes) {
            TileUnit<Tiles>::ask(key, tile.ahead, lines);
            Tiles::template clear<kSum>();
            for (int i = 0; i < whole; ++i) {
                Tiles::template read<kRows>(tile.queries + 64 * i, kQueryStride);
                Tiles::template read<kLines>(key + 1024 * i, 64);
                Tiles::template dot_bf16<kSum, kRows, kLines>();
            }
            if (lines % 16) {
                Tiles::template read<kRowsRest>(tile.queries + 64 * whole, kQueryStride);
                Tiles::template read<kLinesRest>(key + 1024 * whole, 64);
                Tiles::template dot_bf16<kSum, kRowsRest, kLinesRest>();
            }
            Tiles::template write<kSum>(scores[0] + 16 * s, kMaxBlock * sizeof(float));
        }
    }

    template <int R>
    static void weigh(const Geometry& geometry, const Tile& tile,
                      const float (*weights)[kMaxBlock], const float* rescale) {
        alignas(64) std::byte packed[R][kMaxBlock * 2] = {};
        alignas(64) std::byte filled[kMaxBlock * 32];
        alignas(64) float sums[R][16];
        for (int r = 0; r < R; ++r)
            for (int s = 0; s < tile.strips; ++s)
                store_bf16(packed[r] + 32 * s, load(weights[r] + 16 * s));
        const int lines = geometry.column_bytes / 64, step = lines < 16 ? lines : 16;
        const std::byte* value = tile.block + geometry.value_offset;
        for (int d = 0; d < geometry.padded_value_dim; d += 16, value += geometry.column_bytes) {
            TileUnit<Tiles>::ask(value, tile.ahead, lines);
            const std::byte* column = value;
            if (tile.valid < geometry.block_tokens)
                column = fill(filled, value, tile.valid, geometry.column_bytes);
            Tiles::template clear<kSum>();
            for (int i = 0; i < lines; i += step) {
                Tiles::template read<kWeights>(packed[0] + 4 * i, kMaxBlock * 2);
                Tiles::template read<kValues>(column + 64 * i, 64);
                Tiles::template dot_bf16<kSum, kWeights, kValues>();
            }
            Tiles::template write<kSum>(sums[0], sizeof sums[0]);
            for (int r = 0; r < R; ++r) {
                float* to = tile.rows[r] + d;
                store(to, fma(load(to), set1(rescale ? rescale[r] : 1), load(sums[r])));
            }
        }
    }

private:
    // A column with zeros where nothing was written yet: 0 times garbage may be no number.
    static const std::byte* fill(std::byte* to, const std::byte* from, int valid, int bytes) {
        const int kept = valid / 2 * 64;
        std::memcpy(to, from, kept);
        std::memset(to + kept, 0, bytes - kept);
        if (valid % 2)
            for (int i = 0; i < 64; i += 4) std::memcpy(to + kept + i, from + kept + i, 2);
        return to;
    }
};

template <class Tiles>
struct TileInt8 {
    static constexpr int kTileRows = 16;
    static constexpr auto rest = TileUnit<Tiles>::rest;
    static constexpr auto pack_query = pack_int8_query;

    template <int R>
    static void score(const Geometry& geometry, const Tile& tile, float (*scores)[kMaxBlock]) {
        TileUnit<Tiles>::configure(geometry, R);
        alignas(64) int high[R][16], low[R][16];
        const Int8Query& query = int8_query(tile, 0);
        const int lines = geometry.strip_bytes / 64, whole = lines / 16;
        const std::byte* key = tile.block;
        for (int s = 0; s < tile.strips; ++s, key += geometry.strip_bytes) {
            TileUnit<Tiles>::ask(key, tile.ahead, lines);
            Tiles::template clear<kSum>();
            Tiles::template clear<kSumLow>();
            for (int i = 0; i < whole; ++i) {
                Tiles::template read<kLines>(key + 1024 * i, 64);
                Tiles::template read<kRows>(query.high + 64 * i, kQueryStride);
                Tiles::template dot_signed<kSum, kRows, kLines>();
                Tiles::template read<kRows>(query.low + 64 * i, kQueryStride);
                Tiles::template dot_signed<kSumLow, kRows, kLines>();
            }
            if (lines % 16) {
                Tiles::template read<kLinesRest>(key + 1024 * whole, 64);
                Tiles::template read<kRowsRest>(query.high + 64 * whole, kQueryStride);
                Tiles::template dot_signed<kSum, kRowsRest, kLinesRest>();
                Tiles::template read<kRowsRest>(query.low + 64 * whole, kQueryStride);
                Tiles::template dot_signed<kSumLow, kRowsRest, kLinesRest>();
            }
            Tiles::template write<kSum>(high[0], sizeof high[0]);
            Tiles::template write<kSumLow>(low[0], sizeof low[0]);
            for (int r = 0; r < R; ++r) {
                const Int8Query& row = int8_query(tile, r);
                alignas(64) float sum[16];
                for (int i = 0; i < 16; ++i)
                    sum[i] = float(int(unsigned(high[r][i]) * 128u + unsigned(low[r][i]) -
                                       unsigned(row.bias)));
                store(scores[r] + 16 * s, mul(load(sum), set1(row.scale)));
            }
        }
        scale_scores<R>(geometry, tile, scores);
    }

    template <int R>
    static void weigh(const Geometry& geometry, const Tile& tile,
                      const float (*weights)[kMaxBlock], const float* rescale) {
        Int8Weights packed[R] = {};
        float unit[R];
        alignas(64) int high[R][16], low[R][16];
        for (int r = 0; r < R; ++r)
            unit[r] = pack_int8_weights(packed[r], geometry, tile, weights[r]);
        const std::byte* value = tile.block + geometry.value_offset;
        for (int d = 0; d < geometry.padded_value_dim; d += 16, value += geometry.column_bytes) {
            TileUnit<Tiles>::ask(value, tile.ahead, geometry.column_bytes / 64);
            Tiles::template clear<kSum>();
            Tiles::template clear<kSumLow>();
            Tiles::template read<kValues>(value, 64);
            Tiles::template read<kWeights>(packed->high, sizeof packed[0]);
            Tiles::template dot_unsigned<kSum, kWeights, kValues>();
            Tiles::template read<kWeights>(packed->low, sizeof packed[0]);
            Tiles::template dot_unsigned<kSumLow, kWeights, kValues>();
            Tiles::template write<kSum>(high[0], sizeof high[0]);
            Tiles::template write<kSumLow>(low[0], sizeof low[0]);
            for (int r = 0; r < R; ++r) {
                alignas(64) float sum[16];
                for (int i = 0; i < 16; ++i) sum[i] = float(high[r][i] * 256 + low[r][i]);
                float* to = tile.rows[r] + d;
                const Vec before = mul(load(to), set1(rescale ? rescale[r] : 1));
                store(to, fma(load(sum), set1(unit[r]), before));
            }
        }
    }
};

template <class Tiles>
const Kernels* tile_kernels(DType kv) {
    switch (kv) {
        case DType::bfloat16: return kernels<TileBfloat16<Tiles>>();
        case DType::int8: return kernels<TileInt8<Tiles>>();
        default: return float_kernels(kv);
    }
}

}  // namespace
}  // namespace glinthawk
