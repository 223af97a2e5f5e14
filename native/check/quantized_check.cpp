// Products with quantised weights of random shapes, by every instruction set that there is, on threads:
// they are right, and nothing beside the memory that they were given is touched.
#include <cmath>
#include <cstring>
#include <random>
#include <thread>
#include <vector>

#include "check.hpp"
#include "kernels/isa.hpp"
#include "quantized/product.hpp"

using namespace glinthawk;

namespace {

thread_local int number = 0;

// Threads that live for one call.
void run_parallel(void (*work)(void*), void* data, unsigned num_threads, unsigned) {
    std::vector<std::thread> threads;
    for (unsigned i = 1; i < num_threads; ++i)
        threads.emplace_back([=] {
            number = int(i);
            work(data);
        });
    work(data);
    for (std::thread& thread : threads) thread.join();
}

const Team kTeam{run_parallel, [] { return number; }};

struct Case {
    PackedShape shape;
    std::vector<std::uint8_t> codes, recode;
    std::vector<float> scales, offsets, values, rows;
    std::size_t num_rows;

    Case(std::mt19937& random, int code_bits, int offset_bytes) : recode(256), values(1 << code_bits) {
        const auto below = [&](int end) { return int(random() % end); };
        const int group = 8 * (1 + below(6)), inputs = group + 8 * below(20);
        shape = {1 + below(100), inputs, group, code_bits, below(2) ? 2 : 4, offset_bytes};
        num_rows = 1 + below(20);
        for (int i = 0; i < 256; ++i) recode[i] = std::uint8_t(i % (1 << code_bits));
        const int half = int(values.size()) / 2;
        for (int i = 0; i < half; ++i) values[half + i] = -(values[i] = 0.5f + float(i % 64));
        const std::size_t numbers = std::size_t(shape.num_outputs) * shape.num_groups();
        codes.resize(std::size_t(shape.num_outputs) * inputs);
        for (auto& code : codes) code = recode[below(256)];
        for (auto* all : {&scales, &offsets}) all->resize(numbers);
        for (std::size_t i = 0; i < numbers; ++i) {
            scales[i] = float(1 + below(8)) / 64;  // which bfloat16 has
            offsets[i] = float(below(16) - 8);
        }
        rows.resize(num_rows * inputs);
        for (float& x : rows) x = float(below(33) - 16) / 16;
    }

    double expected(std::size_t row, std::size_t output) const {
        double sum = 0;
        for (std::size_t i = 0; i < std::size_t(shape.num_inputs); ++i) {
            const std::size_t group = output * shape.num_groups() + i / shape.group;
            const double offset = shape.offset_bytes ? offsets[group] : 0.5;
            const double value = values[codes[output * shape.num_inputs + i]] + offset;
            sum += rows[row * shape.num_inputs + i] * value * scales[group];
        }
        return sum;
    }
};

std::vector<std::byte> as(DType dtype, const std::vector<float>& numbers) {
    const int bytes = dtype_bytes(dtype);
    std::vector<std::byte> made(numbers.size() * bytes);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
        std::byte whole[4];
        std::memcpy(whole, &numbers[i], 4);
        std::memcpy(&made[i * bytes], whole + 4 - bytes, bytes);
    }
    return made;
}

void check_case(const Case& one, DType dtype, const QuantizedKernel& kernel, int threads) {
    const PackedShape& shape = one.shape;
    check(shape);
    std::vector<std::byte> packed(shape.bytes());
    pack({one.codes.data(), one.recode.data(), one.scales.data(), one.offsets.data(),
          shape.num_inputs},
         shape, packed.data());
    const std::size_t outputs = shape.num_outputs;
    const int bytes = dtype_bytes(dtype);
    const std::vector<std::byte> rows = as(dtype, one.rows);
    std::vector<std::byte> out(one.num_rows * outputs * bytes);
    multiply({shape, packed.data(), one.values.data(), rows.data(), nullptr, out.data(),
              one.num_rows, nullptr},
             0.5f, kernel, threads, kTeam);
    for (std::size_t i = 0; i < one.num_rows * outputs; ++i) {
        float found = 0;
        std::memcpy(reinterpret_cast<std::byte*>(&found) + 4 - bytes, &out[i * bytes], bytes);
        const double right = one.expected(i / outputs, i % outputs);
        const double rounding = dtype == DType::bfloat16 ? 1.0 / 256 : 1e-5;
        REQUIRE(std::abs(found - right) <= rounding * std::abs(right) + 1e-2);
    }
}

}  // namespace

int main() {
    end_after(300);
    std::mt19937 random(1);
    for (const std::string& isa : supported_isas())
        for (const DType dtype : {DType::float32, DType::bfloat16})
            if (const QuantizedKernel* kernel = choose_quantized(isa, dtype))
                for (int round = 0; round < 60; ++round)
                    check_case(Case(random, round % 2 ? 4 : 8, round % 3 * 2), dtype, *kernel,
                               1 + round % 4);
    std::puts("quantized: ok");
}
