// What a step's rows are, and what a layer's attention is.
#include <stdexcept>

#include "bindings/arguments.hpp"
#include "bindings/bindings.hpp"
#include "layout/layer_shape.hpp"
#include "schedule/plan.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace glinthawk {

namespace {

LayerShape make_layer(int num_heads, int num_kv_heads, int head_dim, int value_dim, float scaling,
                      int window, float softcap, std::vector<float> sinks) {
    if (num_kv_heads < 1) throw std::invalid_argument("a layer has at least one KV head");
    if (!sinks.empty() && int(sinks.size()) != num_heads)
        throw std::invalid_argument("sinks are one number a query head");
    return {num_heads, num_kv_heads, head_dim, value_dim,
            scaling,   window,       softcap,  std::move(sinks)};
}

Plan* make_plan(Address starts, Address lengths, std::size_t num_spans, Address pages,
                std::size_t num_pages, Address offsets, Address oldest, std::size_t num_rows,
                int page_limit, int page_tokens) {
    return new Plan({pointer<int>(starts), pointer<int>(lengths), num_spans, pointer<int>(pages),
                     num_pages, pointer<int>(offsets), pointer<int>(oldest)},
                    num_rows, page_limit, page_tokens);
}

}  // namespace

void bind_plan(nb::module_& m) {
    nb::class_<LayerShape>(m, "Layer");
    m.def("make_layer", &make_layer, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "value_dim"_a,
          "scaling"_a, "window"_a, "softcap"_a, "sinks"_a);
    nb::class_<Plan>(m, "Plan");
    m.def("make_plan", &make_plan, "starts"_a, "lengths"_a, "num_spans"_a, "pages"_a,
          "num_pages"_a, "offsets"_a, "oldest"_a, "num_rows"_a, "page_limit"_a, "page_tokens"_a,
          nb::rv_policy::take_ownership);
}

}  // namespace glinthawk
