// What Python sees: thin, and private to glinthawk.tier2.backends.native, glinthawk.tier1.forward.norms and
// glinthawk.tier1.forward.rotary, which check tensors. Addresses are plain numbers. Every call that takes long
// releases the GIL.
#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <optional>
#include <stdexcept>

#include "attention.hpp"
#include "roof.hpp"
#include "sampling/bindings.hpp"
#include "storage/checksum.hpp"
#include "storage/engine.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace glinthawk {

namespace {

DType dtype_named(const std::string& name) {
    if (name == "float32") return DType::float32;
    if (name == "bfloat16") return DType::bfloat16;
    if (name == "float16") return DType::float16;
    if (name == "int8") return DType::int8;
    throw std::invalid_argument("there is no dtype " + name);
}

template <class T>
T* pointer(std::uintptr_t address) {
    return reinterpret_cast<T*>(address);
}

int thread_count(int asked) { return asked > 0 ? asked : int(allowed_cpus().size()); }

struct LayerArgument {
    LayerShape shape;
    std::vector<float> sinks;
};

LayerArgument make_layer(int num_heads, int num_kv_heads, int head_dim, int value_dim,
                         float scaling, int window, float softcap, std::vector<float> sinks) {
    if (num_kv_heads < 1) throw std::invalid_argument("a layer has at least one KV head");
    if (!sinks.empty() && int(sinks.size()) != num_heads)
        throw std::invalid_argument("sinks are one number a query head");
    return {{num_heads, num_kv_heads, head_dim, value_dim, scaling, window, softcap, nullptr},
            std::move(sinks)};
}

std::vector<LayerShape> shapes_of(const std::vector<LayerArgument>& layers) {
    std::vector<LayerShape> shapes;
    for (const LayerArgument& layer : layers) {
        shapes.push_back(layer.shape);
        if (!layer.sinks.empty()) shapes.back().sinks = layer.sinks.data();
    }
    return shapes;
}

Team make_team(std::uintptr_t parallel, std::uintptr_t thread) {
    return {reinterpret_cast<decltype(Team::parallel)>(parallel),
            reinterpret_cast<decltype(Team::thread)>(thread)};
}

// work(row) for every row, on the threads of a team where that is worth waking them.
template <class Work>
void for_rows(std::size_t count, std::size_t row_bytes, int threads, Team team, const Work& work) {
    constexpr std::size_t kAtOnce = 16, kSmall = 64 << 10;
    if (threads < 2 || !team.parallel || count * row_bytes < kSmall) {
        for (std::size_t row = 0; row < count; ++row) work(row);
        return;
    }
    std::atomic<std::size_t> next{0};
    Pool(threads, team).run([&](int) {
        for (std::size_t at; (at = next.fetch_add(kAtOnce)) < count;)
            for (std::size_t row = at; row < std::min(at + kAtOnce, count); ++row) work(row);
    });
}

// Pages, kernels and threads of one backend. One call at a time; others wait.
class Engine {
public:
    Engine(const std::vector<LayerArgument>& layers, int num_pages, int page_tokens,
           const std::string& kv, int threads, const std::string& isa, std::uintptr_t team_parallel,
           std::uintptr_t team_thread)
        : choice_(choose_kernels(isa, dtype_named(kv))),
          store_(shapes_of(layers), num_pages, page_tokens, dtype_named(kv)),
          num_layers_(int(layers.size())),
          pool_(thread_count(threads), make_team(team_parallel, team_thread)) {}

    void append(int layer, const Plan& plan, std::uintptr_t keys, std::uintptr_t values,
                const std::string& dtype) {
        check(layer, plan);
        const std::lock_guard lock(mutex_);
        store_.append(layer, plan, store_,
                      {pointer<std::byte>(keys), pointer<std::byte>(values), dtype_named(dtype)},
                      pool_);
    }

    void attend(int layer, const Plan& plan, std::uintptr_t queries, const std::string& dtype,
                std::uintptr_t outputs, std::uintptr_t log_sum_exp) {
        check(layer, plan);
        const std::lock_guard lock(mutex_);
        glinthawk::attend(store_, store_, *choice_.kernels,
                          {layer, plan, pointer<void>(queries), dtype_named(dtype),
                           pointer<void>(outputs), pointer<float>(log_sum_exp)},
                          pool_);
    }

    // Over `units`, pages of this layer one after the other as `read` packs them.
    void attend_packed(int layer, const Plan& plan, std::uintptr_t units, std::uintptr_t queries,
                       const std::string& dtype, std::uintptr_t outputs,
                       std::uintptr_t log_sum_exp) {
        check_layer(layer);
        if (plan.page_tokens() != store_.page_tokens())
            throw std::invalid_argument("this plan was made for other pages");
        const std::lock_guard lock(mutex_);
        glinthawk::attend(store_, PackedPages(pointer<std::byte>(units)), *choice_.kernels,
                          {layer, plan, pointer<void>(queries), dtype_named(dtype),
                           pointer<void>(outputs), pointer<float>(log_sum_exp)},
                          pool_);
    }

    // Packs pages of a layer one after the other.
    void read(int layer, std::uintptr_t pages, std::size_t num_pages, std::uintptr_t to) {
        check_layer(layer);
        const Layer& from = store_.layer(layer);
        const int* numbers = pointer<int>(pages);
        for (std::size_t i = 0; i < num_pages; ++i)
            if (numbers[i] < 0 || numbers[i] >= store_.num_pages())
                throw std::invalid_argument("there is no such page");
        const std::lock_guard lock(mutex_);
        for (std::size_t i = 0; i < num_pages; ++i)
            store_.read(from, numbers[i], pointer<std::byte>(to) + i * from.unit_bytes());
    }

    std::size_t unit_bytes(int layer) const {
        check_layer(layer);
        return store_.layer(layer).unit_bytes();
    }

    void append_attend(int layer, const Plan& plan, std::uintptr_t keys, std::uintptr_t values,
                       std::uintptr_t queries, const std::string& dtype, std::uintptr_t outputs,
                       std::uintptr_t log_sum_exp) {
        append(layer, plan, keys, values, dtype);
        attend(layer, plan, queries, dtype, outputs, log_sum_exp);
    }

    void copy_page(int from, int to) {
        const std::lock_guard lock(mutex_);
        store_.copy_page(from, to);
    }

    std::string isa() const { return choice_.name; }
    int threads() const { return pool_.size(); }
    std::size_t page_bytes() const { return store_.page_bytes(); }

private:
    void check_layer(int layer) const {
        if (layer < 0 || layer >= num_layers_) throw std::invalid_argument("no such layer");
    }

    void check(int layer, const Plan& plan) const {
        check_layer(layer);
        if (plan.page_limit() != store_.num_pages() ||
            plan.page_tokens() != store_.page_tokens())
            throw std::invalid_argument("this plan was made for other pages");
    }

    IsaChoice choice_;
    Store store_;
    int num_layers_;
    Pool pool_;
    std::mutex mutex_;
};

// Descriptor, bytes, name.
using FileArgument = std::tuple<int, std::size_t, std::string>;

// Pages in memory and on drives, with the calls of Engine.
class DriveEngine {
public:
    DriveEngine(const std::vector<LayerArgument>& layers, int page_tokens, const std::string& kv,
                int threads, const std::string& isa, std::size_t memory_bytes,
                const std::vector<FileArgument>& files, bool only_threads)
        : engine_(shapes_of(layers), page_tokens, dtype_named(kv),
                  choose_kernels(isa, dtype_named(kv)), thread_count(threads), memory_bytes,
                  files_of(files), only_threads) {}

    void append(int layer, const Plan& plan, std::uintptr_t keys, std::uintptr_t values,
                const std::string& dtype) {
        engine_.append(layer, plan, {pointer<std::byte>(keys), pointer<std::byte>(values),
                                     dtype_named(dtype)});
    }

    void attend(int layer, const Plan& plan, std::uintptr_t queries, const std::string& dtype,
                std::uintptr_t outputs, std::uintptr_t log_sum_exp) {
        engine_.attend(layer, plan, pointer<void>(queries), dtype_named(dtype),
                       pointer<void>(outputs), pointer<float>(log_sum_exp));
    }

    void append_attend(int layer, const Plan& plan, std::uintptr_t keys, std::uintptr_t values,
                       std::uintptr_t queries, const std::string& dtype, std::uintptr_t outputs,
                       std::uintptr_t log_sum_exp) {
        append(layer, plan, keys, values, dtype);
        attend(layer, plan, queries, dtype, outputs, log_sum_exp);
    }

    void read(int layer, std::uintptr_t pages, std::size_t num_pages, std::uintptr_t to) {
        engine_.read(layer, pointer<int>(pages), num_pages, pointer<std::byte>(to));
    }
    void release(std::uintptr_t pages, std::size_t num_pages) {
        engine_.release(pointer<int>(pages), num_pages);
    }

    StorageEngine& engine() { return engine_; }

private:
    static std::vector<DriveFile> files_of(const std::vector<FileArgument>& files) {
        std::vector<DriveFile> drives;
        for (const auto& [file, bytes, name] : files) drives.push_back({file, bytes, name});
        return drives;
    }

    StorageEngine engine_;
};

Plan* make_plan(std::uintptr_t starts, std::uintptr_t lengths, std::size_t num_spans,
                std::uintptr_t pages, std::size_t num_pages, std::uintptr_t offsets,
                std::uintptr_t oldest, std::size_t num_rows, int page_limit, int page_tokens) {
    return new Plan({pointer<int>(starts), pointer<int>(lengths), num_spans, pointer<int>(pages),
                     num_pages, pointer<int>(offsets), pointer<int>(oldest)},
                    num_rows, page_limit, page_tokens);
}

// Norms of rows that lie one after the other; sizes are multiples of 16.
void rms_norm(std::uintptr_t out, std::uintptr_t rows, std::uintptr_t weight, std::size_t num_rows,
              int size, float epsilon, const std::string& dtype, int threads, std::uintptr_t parallel,
              std::uintptr_t thread) {
    if (size < 16 || size % 16) throw std::invalid_argument("a row is a multiple of 16 long");
    static const Kernels& kernels = *choose_kernels("auto", DType::float32).kernels;
    const DType type = dtype_named(dtype);
    const std::size_t stride = std::size_t(size) * dtype_bytes(type);
    for_rows(num_rows, stride, threads, make_team(parallel, thread), [&](std::size_t row) {
        kernels.norm(pointer<std::byte>(out) + row * stride, pointer<std::byte>(rows) + row * stride,
                     pointer<float>(weight), size, epsilon, type);
    });
}

// Heads (T, H, D), tokens token_bytes apart, to contiguous ones; cos and sin are (T, D).
void rotate(std::uintptr_t out, std::uintptr_t heads, std::size_t token_bytes, std::uintptr_t cos,
            std::uintptr_t sin, std::size_t num_tokens, std::size_t num_heads, int size,
            const std::string& dtype, int threads, std::uintptr_t parallel, std::uintptr_t thread) {
    if (size < 32 || size % 32) throw std::invalid_argument("a head is a multiple of 32 long");
    static const Kernels& kernels = *choose_kernels("auto", DType::float32).kernels;
    const DType type = dtype_named(dtype);
    const std::size_t bytes = std::size_t(size) * dtype_bytes(type);
    const std::size_t row_bytes = num_heads * bytes;
    for_rows(num_tokens, row_bytes, threads, make_team(parallel, thread), [&](std::size_t token) {
        const std::byte* from = pointer<std::byte>(heads) + token * token_bytes;
        std::byte* to = pointer<std::byte>(out) + token * row_bytes;
        for (std::size_t head = 0; head < num_heads; ++head, from += bytes, to += bytes)
            kernels.rotate(to, from, pointer<std::byte>(cos) + token * bytes,
                           pointer<std::byte>(sin) + token * bytes, size, type);
    });
}

// Rows times a packed weight; see product.hpp.
void multiply_rows(std::uintptr_t out, std::uintptr_t rows, std::uintptr_t weight, std::uintptr_t bias,
                   std::size_t num_rows, int num_inputs, int num_outputs, bool emulated, int threads,
                   std::uintptr_t parallel, std::uintptr_t thread) {
    static const ProductKernel* hardware = choose_product();
    const ProductKernel* kernel = emulated ? amx_emulated_product() : hardware;
    if (!kernel) throw std::invalid_argument("this CPU has no AMX");
    if (num_inputs < kPanel || num_inputs % kPanel)
        throw std::invalid_argument("a packed weight has a multiple of 32 inputs");
    multiply({pointer<std::byte>(rows), pointer<std::byte>(weight), pointer<float>(bias),
              pointer<std::byte>(out), num_rows, num_inputs, num_outputs},
             *kernel, threads, make_team(parallel, thread));
}

// Owns its pool: members in order of need.
struct OwnedRoof {
    Pool pool;
    Roof roof;
    OwnedRoof(std::size_t bytes, int threads)
        : pool(thread_count(threads)),
          roof(bytes, *choose_kernels("auto", DType::float32).kernels, pool) {}
};

}  // namespace

}  // namespace glinthawk

NB_MODULE(_native, m) {
    using namespace glinthawk;
    using release = nb::call_guard<nb::gil_scoped_release>;

    m.def("supported_isas", &supported_isas);
    m.def("rms_norm", &rms_norm, release());
    m.def("rotate", &rotate, release());
    m.def("multiply_rows", &multiply_rows, release());
    bind_sampling(m);
    nb::class_<LayerArgument>(m, "Layer");
    m.def("make_layer", &make_layer, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "value_dim"_a,
          "scaling"_a, "window"_a, "softcap"_a, "sinks"_a);
    nb::class_<Plan>(m, "Plan");
    m.def("make_plan", &make_plan, "starts"_a, "lengths"_a, "num_spans"_a, "pages"_a,
          "num_pages"_a, "offsets"_a, "oldest"_a, "num_rows"_a, "page_limit"_a,
          "page_tokens"_a, nb::rv_policy::take_ownership);
    nb::class_<Engine>(m, "Engine")
        .def(nb::init<const std::vector<LayerArgument>&, int, int, const std::string&, int,
                      const std::string&, std::uintptr_t, std::uintptr_t>(),
             "layers"_a, "num_pages"_a, "page_tokens"_a, "kv_dtype"_a, "threads"_a, "isa"_a,
             "team_parallel"_a, "team_thread"_a)
        .def("append", &Engine::append, release())
        .def("attend", &Engine::attend, release())
        .def("append_attend", &Engine::append_attend, release())
        .def("attend_packed", &Engine::attend_packed, release())
        .def("read", &Engine::read, release())
        .def("unit_bytes", &Engine::unit_bytes)
        .def("copy_page", &Engine::copy_page, release())
        .def_prop_ro("isa", &Engine::isa)
        .def_prop_ro("threads", &Engine::threads)
        .def_prop_ro("page_bytes", &Engine::page_bytes);
    m.def("checksum", [](std::uintptr_t memory, std::size_t bytes, bool plain) {
        return plain ? checksum_plain(pointer<std::byte>(memory), bytes)
                     : checksum(pointer<std::byte>(memory), bytes);
    });
    nb::class_<StorageStats>(m, "StorageStats")
        .def_ro("bytes_read", &StorageStats::bytes_read)
        .def_ro("bytes_written", &StorageStats::bytes_written)
        .def_ro("num_frames", &StorageStats::num_frames)
        .def_ro("num_available", &StorageStats::num_available);
    nb::class_<DriveEngine>(m, "DriveEngine")
        .def(nb::init<const std::vector<LayerArgument>&, int, const std::string&, int,
                      const std::string&, std::size_t,
                      const std::vector<FileArgument>&, bool>(),
             "layers"_a, "page_tokens"_a, "kv_dtype"_a, "threads"_a, "isa"_a, "memory_bytes"_a,
             "files"_a, "only_threads"_a)
        .def("begin", [](DriveEngine& self, const Plan& plan) { self.engine().begin(plan); }, release())
        .def("end", [](DriveEngine& self, const Plan& plan) { self.engine().end(plan); }, release())
        .def("append", &DriveEngine::append, release())
        .def("attend", &DriveEngine::attend, release())
        .def("append_attend", &DriveEngine::append_attend, release())
        .def("read", &DriveEngine::read, release())
        .def("release", &DriveEngine::release, release())
        .def("copy_page", [](DriveEngine& self, int from,
                             int to) { self.engine().copy_page(from, to); }, release())
        .def("unit_bytes", [](DriveEngine& self, int layer) { return self.engine().unit_bytes(layer); })
        .def("slow_down", [](DriveEngine& self, double speed) { self.engine().slow_down(speed); })
        .def("validate", [](DriveEngine& self) { self.engine().validate(); })
        .def("stats", [](DriveEngine& self) { return self.engine().stats(); })
        .def_prop_ro("failure", [](DriveEngine& self) { return self.engine().failure(); })
        .def_prop_ro("num_pages", [](DriveEngine& self) { return self.engine().num_pages(); })
        .def_prop_ro("page_bytes", [](DriveEngine& self) { return self.engine().page_bytes(); })
        .def_prop_ro("isa", [](DriveEngine& self) { return self.engine().isa().name; })
        .def_prop_ro("threads", [](DriveEngine& self) { return self.engine().threads(); })
        .def_prop_ro("queue", [](DriveEngine& self) { return std::string(self.engine().queue()); });
    nb::class_<OwnedRoof>(m, "Roof")
        .def(nb::init<std::size_t, int>(), "bytes"_a, "threads"_a)
        .def("measure", [](OwnedRoof& self) { return self.roof.measure(); }, release());
}
