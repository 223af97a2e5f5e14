// A row of logits as whole blocks, and the walks over all of it. Include a vec_*.hpp first.
#pragma once

#include <cstring>

#include "kernels/math.hpp"
#include "kernels/sample_row.hpp"
#include "kernels/threshold.hpp"

namespace glinthawk {
namespace {

struct Float32Logits {
    static constexpr int kBytes = 4;
    static Vec at(const std::byte* p) { return load(reinterpret_cast<const float*>(p)); }
    static void store_lowest(std::byte* p) {
        store(reinterpret_cast<float*>(p), set1(-kInfinity));
    }
};
struct Bfloat16Logits {
    static constexpr int kBytes = 2;
    static Vec at(const std::byte* p) { return load_bf16(p); }
    static void store_lowest(std::byte* p) { store_bf16(p, set1(-kInfinity)); }
};
struct Float16Logits {
    static constexpr int kBytes = 2;
    static Vec at(const std::byte* p) { return load_f16(p); }
    static void store_lowest(std::byte* p) { store_f16(p, set1(-kInfinity)); }
};

// exp((x - top) / temperature): what the likeliest token's 1 is to the others.
struct Softmax {
    Vec top, factor;

    Softmax(float largest, double temperature)
        : top(set1(largest)), factor(set1(float(1.4426950408889634 / temperature))) {}
    Vec operator()(Vec x) const { return exp2(mul(sub(x, top), factor)); }
};

// Lets all logits be what they are.
struct Unmasked {
    explicit Unmasked(TokenMask) {}
    bool has_none(int) const { return false; }
    bool has_none(int, int) const { return false; }
    template <class Logits>
    Vec at(const std::byte* p, int, int) const {
        return Logits::at(p);
    }
};

// Tokens that may not come have -inf, whatever stands there. Most masks let few pass: what has none is
// not read at all.
class Masked {
public:
    explicit Masked(TokenMask mask) : mask_(mask) {}
    bool has_none(int block) const {
        constexpr std::size_t kWords = kSampleBlock / 32;
        const std::size_t first = std::size_t(block) * kWords;
        std::uint32_t any = 0;
        for (std::size_t i = first; i < first + kWords && i < mask_.num_words; ++i)
            any |= mask_.words[i];
        return !any;
    }
    bool has_none(int block, int vector) const { return !lanes(block, vector); }
    template <class Logits>
    Vec at(const std::byte* p, int block, int vector) const {
        const unsigned its = lanes(block, vector);
        return its ? blend(its, Logits::at(p), set1(-kInfinity)) : set1(-kInfinity);
    }

private:
    unsigned lanes(int block, int vector) const {
        const std::size_t word = (std::size_t(block) * kSampleFold + std::size_t(vector)) / 2;
        return word < mask_.num_words ? mask_.words[word] >> 16 * (vector % 2) & 0xffff : 0;
    }

    const TokenMask mask_;
};

template <class Logits, class Mask>
class RowBlocks {
public:
    explicit RowBlocks(const LogitRow& row, TokenMask mask = {})
        : row_(row), mask_(mask), num_blocks_((row.size + kSampleBlock - 1) / kSampleBlock) {
        for (int i = 0; i < kSampleBlock; i += 16)
            Logits::store_lowest(row.scratch.tail + i * Logits::kBytes);
        const int last = (num_blocks_ - 1) * kSampleBlock;
        std::memcpy(row.scratch.tail, row.logits + std::size_t(last) * Logits::kBytes,
                    std::size_t(row.size - last) * Logits::kBytes);
    }

    int num_blocks() const { return num_blocks_; }
    int num_groups() const { return 16 * num_blocks_; }

    Vec at(int block, int vector) const {
        const std::byte* p = block == num_blocks_ - 1
                                 ? row_.scratch.tail
                                 : row_.logits + std::size_t(block) * kSampleBlock * Logits::kBytes;
        return mask_.template at<Logits>(p + vector * 16 * Logits::kBytes, block, vector);
    }

    // Whether no token of a block, or of one of its vectors, may come.
    bool has_none(int block) const { return mask_.has_none(block); }
    bool has_none(int block, int vector) const { return mask_.has_none(block, vector); }

    // Writes the largest of each group, then its first; returns the largest of all, NaN if any is.
    float survey() const {
        float* largest = row_.scratch.sketch;
        float* first = largest + num_groups();
        Vec top = set1(-kInfinity);
        unsigned numbers = 0xffff;
        for (int block = 0; block < num_blocks_; ++block) {
            Vec best = set1(-kInfinity);
            for (int v = has_none(block) ? kSampleFold : 0; v < kSampleFold; ++v) {
                if (has_none(block, v)) continue;
                best = max(at(block, v), best);
                numbers &= at_least(at(block, v), set1(-kInfinity));
            }
            store(largest + 16 * block, best);
            store(first + 16 * block, at(block, 0));
            top = max(best, top);
        }
        // Not -0: the next number above that is +0, which it reaches itself.
        return numbers == 0xffff ? hmax(top) + 0.0f : __builtin_nanf("");
    }

    // A logit that `rank` tokens reach at least, low enough for few more to do so: that of the last of so
    // many groups, each of which has a token as large.
    float reached_by(int rank, float top) const {
        if (rank > num_groups()) return -kInfinity;
        return highest_limit(-kInfinity, next_above(top), rank, [&](float limit) {
            return count_from(row_.scratch.sketch, num_groups(), limit);
        });
    }

    struct Mass {
        double all = 0, kept = 0;
    };
    // Adds up the weights of all tokens, and of those from `limit` up, these for each block, too.
    Mass weigh(const Softmax& softmax, float limit) const {
        const Vec least = set1(limit);
        Mass mass;
        for (int block = 0; block < num_blocks_; ++block) {
            Vec all = zero(), kept = zero();
            for (int v = has_none(block) ? kSampleFold : 0; v < kSampleFold; ++v) {
                if (has_none(block, v)) continue;
                const Vec x = at(block, v), weight = softmax(x);
                all = add(all, weight);
                kept = add(kept, where_at_least(x, least, weight));
            }
            row_.scratch.block_weights[block] = double(hsum(kept));
            mass.all += double(hsum(all));
            mass.kept += row_.scratch.block_weights[block];
        }
        return mass;
    }

    // Writes tokens in [low, high) with their weights; returns their number.
    int collect(const Softmax& softmax, float low, float high) const {
        const SampleScratch& to = row_.scratch;
        const Vec least = set1(low), most = set1(high);
        int size = 0;
        for (int block = 0; block < num_blocks_; ++block) {
            if (has_none(block) || !at_least(load(to.sketch + 16 * block), least)) continue;
            for (int v = 0; v < kSampleFold; ++v) {
                const Vec x = at(block, v);
                const unsigned mask = at_least(x, least) & ~at_least(x, most);
                if (mask)
                    size += append(to.values + size, to.ids + size, x, mask,
                                   block * kSampleBlock + 16 * v);
            }
        }
        while (size && to.ids[size - 1] >= row_.size) --size;  // what the last block is filled with
        for (int i = 0; i < size; i += 16) store(to.weights + i, softmax(load(to.values + i)));
        for (int i = size; i < size + 32; i += 16) {
            store(to.values + i, set1(-kInfinity));
            store(to.weights + i, zero());
        }
        return size;
    }

private:
    const LogitRow& row_;
    const Mask mask_;
    const int num_blocks_;
};

}  // namespace
}  // namespace glinthawk
