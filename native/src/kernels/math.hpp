// Elementary functions over sixteen floats. Include a vec_*.hpp first.
#pragma once

namespace glinthawk {
namespace {

// 2^x, within 2 ulp; exactly 1 for 0 and exactly 0 for -inf and all x < -150. NaN stays NaN.
inline Vec exp2(Vec x) {
    const Vec f = fraction(x);
    Vec y = set1(1.8671301659e-3f);  // minimax on [0, 1), with 1 at 0
    y = fma(y, f, set1(9.0170297772e-3f));
    y = fma(y, f, set1(5.5799912661e-2f));
    y = fma(y, f, set1(2.4016444385e-1f));
    y = fma(y, f, set1(6.9315129519e-1f));
    y = fma(y, f, set1(1));
    return scale2(y, x);
}

// tanh(x) = 1 - 2 / (e^2x + 1), within 2e-7.
inline Vec tanh(Vec x) {
    constexpr float two_log2e = 2.885390082f;
    const Vec capped = mul(max(set1(-30), mul(x, set1(-two_log2e))), set1(-1));
    return sub(set1(1), div(set1(2), add(exp2(capped), set1(1))));
}

}  // namespace
}  // namespace glinthawk
