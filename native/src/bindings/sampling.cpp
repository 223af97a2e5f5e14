// Tokens from logits.
#include <limits>
#include <stdexcept>

#include "bindings/arguments.hpp"
#include "bindings/bindings.hpp"
#include "kernels/isa.hpp"
#include "sampling/rows.hpp"

namespace nb = nanobind;

namespace glinthawk {

namespace {

DType logits_dtype(const std::string& name) {
    if (name == "int8") throw std::invalid_argument("logits are never int8");
    return dtype_named(name);
}

LogitRows logit_rows(Address rows, std::size_t num_rows, std::size_t size,
                     const std::string& dtype) {
    if (size < 1 || size > std::size_t(std::numeric_limits<int>::max() - kSampleBlock))
        throw std::invalid_argument("a row has from one to some 2^31 logits");
    return {pointer<const std::byte*>(rows), num_rows, int(size), logits_dtype(dtype)};
}

void check_token(std::int64_t token, std::size_t size) {
    if (token < 0 || token >= std::int64_t(size))
        throw std::invalid_argument("there is no such token");
}

const Kernels& kernels_of(const std::string& isa) {
    static const Kernels& best = *choose_kernels("auto", DType::float32).kernels;
    return isa == "auto" ? best : *choose_kernels(isa, DType::float32).kernels;
}

// There are num_rows + 1 offsets.
EditedRows edited_rows(Address offsets, Address tokens, Address values,
                       std::size_t num_rows, std::size_t size) {
    const EditedRows edits{pointer<std::int64_t>(offsets), pointer<std::int64_t>(tokens),
                           pointer<float>(values)};
    const std::int64_t count = edits.offsets ? edits.offsets[num_rows] : 0;
    for (std::int64_t i = 0; i < count; ++i) check_token(edits.tokens[i], size);
    return edits;
}

void sample(Address tokens, Address rules, Address offsets,
            Address edited, Address values, Address masks, std::size_t mask_words, Address rows,
            std::size_t num_rows, std::size_t size, const std::string& dtype,
            const std::string& isa, int threads, Address parallel, Address thread) {
    sample_rows(logit_rows(rows, num_rows, size, dtype), pointer<double>(rules),
                edited_rows(offsets, edited, values, num_rows, size),
                {pointer<const std::uint32_t*>(masks), mask_words}, pointer<std::int64_t>(tokens),
                kernels_of(isa), threads, make_team(parallel, thread));
}

void rank(Address tokens, Address logprobs, Address ranks, std::size_t count, Address top_ids,
          Address top_logprobs, Address rows, std::size_t num_rows, std::size_t size,
          const std::string& dtype, const std::string& isa, int threads, Address parallel,
          Address thread) {
    const LogitRows logits = logit_rows(rows, num_rows, size, dtype);
    if (count > size) throw std::invalid_argument("a row has fewer logits than are asked for");
    for (std::size_t row = 0; row < num_rows; ++row)
        check_token(pointer<std::int64_t>(tokens)[row], size);
    rank_rows(logits,
              {pointer<std::int64_t>(tokens), pointer<float>(logprobs),
               pointer<std::int64_t>(ranks), int(count), pointer<std::int64_t>(top_ids),
               pointer<float>(top_logprobs)},
              kernels_of(isa), threads, make_team(parallel, thread));
}

}  // namespace

void bind_sampling(nb::module_& m) {
    m.def("sample_rows", &sample, Released());
    m.def("rank_rows", &rank, Released());
}

}  // namespace glinthawk
