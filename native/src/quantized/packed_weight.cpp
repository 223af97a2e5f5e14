#include "quantized/packed_weight.hpp"

#include <cstring>
#include <limits>
#include <stdexcept>

namespace glinthawk {

namespace {

// Where input i of a line is within an output's 32 bits.
int first_bit(int code_bits, int i) {
    const int half = 16 * (i % 2), pair = i / 2;
    return code_bits == 4 ? half + 4 * pair : half + 8 * pair;
}

void pack_codes(const PlainWeight& plain, const PackedShape& shape, int strip, std::byte* to) {
    const int inputs = shape.line_inputs();
    for (int first = 0; first < shape.num_inputs; first += inputs, to += kLine) {
        std::uint32_t lanes[kStrip] = {};
        for (int lane = 0; lane < kStrip && strip * kStrip + lane < shape.num_outputs; ++lane) {
            const std::size_t output = std::size_t(strip) * kStrip + lane;
            const std::uint8_t* codes = plain.codes + output * plain.num_given;
            for (int i = 0; i < inputs && first + i < plain.num_given; ++i) {
                const std::uint32_t code = plain.recode[codes[first + i]];
                lanes[lane] |= code << first_bit(shape.code_bits, i);
            }
        }
        std::memcpy(to, lanes, sizeof lanes);
    }
}

// The upper half is all there is of a number that bfloat16 has.
void put(std::byte* to, float number, int bytes) {
    std::byte whole[4];
    std::memcpy(whole, &number, 4);
    std::memcpy(to, whole + 4 - bytes, bytes);
}

std::byte* pack_numbers(const float* numbers, const PackedShape& shape, int strip, int bytes,
                        std::byte* to) {
    const int groups = shape.num_groups();
    for (int group = 0; group < groups; ++group)
        for (int lane = 0; lane < kStrip; ++lane, to += bytes) {
            const std::size_t output = std::size_t(strip) * kStrip + lane;
            const bool is_there = output < std::size_t(shape.num_outputs);
            put(to, is_there ? numbers[output * groups + group] : 0, bytes);
        }
    return to;
}

}  // namespace

void check(const PackedShape& shape) {
    constexpr int most = std::numeric_limits<int>::max() - 2 * kLine;
    const auto require = [](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(what);
    };
    require(shape.num_outputs > 0 && shape.num_outputs < most, "a weight has from one to 2^31 outputs");
    require(shape.num_inputs > 0 && shape.num_inputs < most && shape.num_inputs % kInputStep == 0,
            "a packed weight has a multiple of 8 inputs");
    require(shape.group > 0 && shape.group % kInputStep == 0 && shape.group <= shape.num_inputs,
            "a group is a multiple of 8 inputs, and no longer than a row");
    require(shape.code_bits == 4 || shape.code_bits == 8, "a code has 4 or 8 bits");
    require(shape.scale_bytes == 2 || shape.scale_bytes == 4, "a scale has 2 or 4 bytes");
    require(shape.offset_bytes == 0 || shape.offset_bytes == 2 || shape.offset_bytes == 4,
            "an offset has 2 or 4 bytes, or is not there");
}

void pack(const PlainWeight& plain, const PackedShape& shape, std::byte* packed) {
    std::memset(packed, 0, shape.bytes());
    for (int strip = 0; strip < shape.num_strips(); ++strip, packed += shape.strip_bytes()) {
        pack_codes(plain, shape, strip, packed);
        std::byte* to = packed + shape.code_bytes();
        to = pack_numbers(plain.scales, shape, strip, shape.scale_bytes, to);
        if (shape.offset_bytes)
            pack_numbers(plain.offsets, shape, strip, shape.offset_bytes, to);
    }
}

}  // namespace glinthawk
