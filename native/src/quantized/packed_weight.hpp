// How a quantised weight (out, in) lies in memory. Codes have 4 or 8 bits, and a code's value is an entry
// of a table. Outputs are in strips of 16, inputs are filled up to a multiple of 8, and a strip is
//
//   [in / 8][16 outputs][8 inputs]  codes of 4 bits, or
//   [in / 4][16 outputs][4 inputs]  codes of 8 bits, then
//   [groups][16 outputs]            scales, bfloat16 or float32, then
//   [groups][16 outputs]            offsets, where there are any, bfloat16 or float32,
//
// filled up to 64 bytes. So a line of codes has 32 bits for each of 16 outputs. They are in such an order
// that pairs of inputs come off as halves of 32 bits:
//
//   bits   28 24 20 16 12  8  4  0             bits   24 16  8  0
//   input   7  5  3  1  6  4  2  0             input   3  1  2  0
//
// The weight of an output and an input is (value of the code + offset of the group) * scale of the group.
#pragma once

#include <cstddef>
#include <cstdint>

namespace glinthawk {

inline constexpr int kStrip = 16;
inline constexpr int kLine = 64;        // bytes
inline constexpr int kInputStep = 8;    // inputs, and those of a group, are a multiple of it

struct PackedShape {
    int num_outputs;
    int num_inputs;    // filled up
    int group;         // inputs of a group; the last one may be shorter
    int code_bits;     // 4 or 8
    int scale_bytes;   // 2: bfloat16, 4: float32
    int offset_bytes;  // 0: there are none

    int line_inputs() const { return 32 / code_bits; }
    int num_strips() const { return int((num_outputs + std::int64_t(kStrip) - 1) / kStrip); }
    int num_groups() const { return int((num_inputs + std::int64_t(group) - 1) / group); }
    std::size_t code_bytes() const { return std::size_t(num_inputs) * kStrip * code_bits / 8; }
    std::size_t strip_bytes() const {
        const std::size_t numbers = std::size_t(num_groups()) * kStrip;
        const std::size_t bytes = code_bytes() + numbers * (scale_bytes + offset_bytes);
        return (bytes + kLine - 1) / kLine * kLine;
    }
    std::size_t bytes() const { return num_strips() * strip_bytes(); }
};

// Throws std::invalid_argument for one that cannot be.
void check(const PackedShape& shape);

// What a weight is packed from.
struct PlainWeight {
    const std::uint8_t* codes;   // (num_outputs, num_given), a code a byte
    const std::uint8_t* recode;  // (256,): what is kept of each code
    const float* scales;         // (num_outputs, groups)
    const float* offsets;        // (num_outputs, groups) or null
    int num_given;               // inputs before they were filled up
};

// Writes `shape.bytes()`. Numbers that are kept as bfloat16 are representable in it.
void pack(const PlainWeight& plain, const PackedShape& shape, std::byte* packed);

}  // namespace glinthawk
