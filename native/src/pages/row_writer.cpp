#include "pages/row_writer.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace glinthawk {

namespace {

struct Bfloat16 {
    std::uint16_t bits;
};
struct Float16 {
    std::uint16_t bits;
};

std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}
float float_of(std::uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

float to_float(float x) { return x; }
float to_float(Bfloat16 x) { return float_of(std::uint32_t(x.bits) << 16); }
float to_float(Float16 x) {
    const std::uint32_t sign = std::uint32_t(x.bits & 0x8000) << 16;
    const std::uint32_t special = (x.bits & 0x7c00) == 0x7c00 ? 0x7f800000 : 0;
    const float magnitude = float_of(std::uint32_t(x.bits & 0x7fff) << 13) * 0x1p112f;
    return float_of(bits_of(magnitude) | special | sign);
}

void from_float(float x, float& to) { to = x; }
void from_float(float x, Bfloat16& to) {
    const std::uint32_t bits = bits_of(x);
    const std::uint32_t up = bits + 0x7fff + (bits >> 16 & 1);
    to.bits = std::uint16_t(x != x ? 0x7fc0 : up >> 16);
}
void from_float(float x, Float16& to) {
    const std::uint32_t sign = bits_of(x) >> 16 & 0x8000, bits = bits_of(x) & 0x7fffffff;
    std::uint32_t half;
    if (bits > 0x7f800000)
        half = 0x7e00;
    else if (bits >= 0x477ff000)
        half = 0x7c00;
    else if (bits < 0x38800000)  // subnormal: let the adder round
        half = bits_of(float_of(bits) + 0.5f) - 0x3f000000;
    else
        half = (bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13;
    to.bits = std::uint16_t(sign | half);
}

template <class From, class To>
To convert(const std::byte* row, int i) {
    From x;
    std::memcpy(&x, row + i * sizeof x, sizeof x);
    if constexpr (std::is_same_v<From, To>) return x;
    To to;
    from_float(to_float(x), to);
    return to;
}

template <class From, class To>
void write_floats(std::byte* block, const BlockLayout& layout, int token, const std::byte* key,
                  const std::byte* value) {
    constexpr int fold = std::is_same_v<To, Bfloat16> ? 2 : 1;
    To* keys = reinterpret_cast<To*>(block) + layout.key_index(token, 0);
    for (int d = 0; d < layout.head_dim; d += fold)
        for (int f = 0; f < fold; ++f) keys[d * kLanes + f] = convert<From, To>(key, d + f);
    To* values = reinterpret_cast<To*>(block + layout.value_offset()) + layout.value_index(token, 0);
    for (int d = 0; d < layout.padded; ++d) {
        To& slot = values[d / kLanes * layout.tokens * kLanes + d % kLanes * fold];
        slot = d < layout.value_dim ? convert<From, To>(value, d) : To{};
    }
}

// The row's scale as a bfloat16; NaN if anything in the row is not finite. Its largest element lands
// half a step beyond the last whole number, which costs it no more than rounding costs the others.
template <class From>
Bfloat16 scale_of(const std::byte* row, int size) {
    float most = 0, poison = 0;
    for (int i = 0; i < size; ++i) {
        const float x = convert<From, float>(row, i);
        most = std::fmax(most, std::fabs(x));
        poison += 0 * x;
    }
    if (poison != poison) return {0x7fc0};
    Bfloat16 scale;
    from_float(most / 127.5f, scale);
    return scale;
}

template <class From>
int quantize(const std::byte* row, int i, float inverse) {
    const float x = convert<From, float>(row, i) * inverse;
    if (!(std::fabs(x) < 256)) return 0;  // the row's scale is NaN
    return std::clamp(int(x + std::copysign(0.5f, x)), -128, 127);
}

float inverse_of(Bfloat16 scale) {
    const float x = to_float(scale);
    return x > 1e-37f ? 1 / x : 0;
}

template <class From>
void write_int8(std::byte* block, const BlockLayout& layout, int token, const std::byte* key,
                const std::byte* value) {
    auto* scales = reinterpret_cast<Bfloat16*>(block + layout.key_bytes()) + token;
    scales[0] = scale_of<From>(key, layout.head_dim);
    scales[layout.tokens] = scale_of<From>(value, layout.value_dim);
    float inverse = inverse_of(scales[0]);
    for (int d = 0; d < layout.head_dim; ++d)
        block[layout.key_index(token, d)] = std::byte(quantize<From>(key, d, inverse) + 128);
    inverse = inverse_of(scales[layout.tokens]);
    std::byte* values = block + layout.value_offset();
    for (int d = 0; d < layout.padded; ++d) {
        const int x = d < layout.value_dim ? quantize<From>(value, d, inverse) : 0;
        values[layout.value_index(token, d)] = std::byte(x);
    }
}

template <class From>
Writer writer_from(DType kv) {
    switch (kv) {
        case DType::float32: return write_floats<From, float>;
        case DType::bfloat16: return write_floats<From, Bfloat16>;
        case DType::float16: return write_floats<From, Float16>;
        case DType::int8: return write_int8<From>;
    }
    return nullptr;
}

}  // namespace

Writer choose_writer(DType rows, DType kv) {
    switch (rows) {
        case DType::bfloat16: return writer_from<Bfloat16>(kv);
        case DType::float16: return writer_from<Float16>(kv);
        default: return writer_from<float>(kv);
    }
}

}  // namespace glinthawk
