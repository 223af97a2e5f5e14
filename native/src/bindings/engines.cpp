// Pages and what attends over them, in memory or with drives.
#include <nanobind/stl/tuple.h>

#include "attention/memory_engine.hpp"
#include "bindings/arguments.hpp"
#include "bindings/bindings.hpp"
#include "storage/engine.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace glinthawk {

namespace {

using Layers = std::vector<LayerShape>;
// Descriptor, bytes, name.
using File = std::tuple<int, std::size_t, std::string>;

template <class Engine>
void append(Engine& engine, int layer, const Plan& plan, Address keys, Address values,
            const std::string& dtype) {
    engine.append(layer, plan,
                  {pointer<std::byte>(keys), pointer<std::byte>(values), dtype_named(dtype)});
}

template <class Engine>
void attend(Engine& engine, int layer, const Plan& plan, Address queries, const std::string& dtype,
            Address outputs, Address log_sum_exp) {
    engine.attend({layer, plan, pointer<void>(queries), dtype_named(dtype), pointer<void>(outputs),
                   pointer<float>(log_sum_exp)});
}

template <class Engine>
void append_attend(Engine& engine, int layer, const Plan& plan, Address keys, Address values,
                   Address queries, const std::string& dtype, Address outputs,
                   Address log_sum_exp) {
    append(engine, layer, plan, keys, values, dtype);
    attend(engine, layer, plan, queries, dtype, outputs, log_sum_exp);
}

void attend_packed(MemoryEngine& engine, int layer, const Plan& plan, Address units,
                   Address queries, const std::string& dtype, Address outputs,
                   Address log_sum_exp) {
    engine.attend_packed({layer, plan, pointer<void>(queries), dtype_named(dtype),
                          pointer<void>(outputs), pointer<float>(log_sum_exp)},
                         pointer<std::byte>(units));
}

template <class Engine>
void read(Engine& engine, int layer, Address pages, std::size_t num_pages, Address to) {
    engine.read(layer, pointer<int>(pages), num_pages, pointer<std::byte>(to));
}

// The calls that both engines have.
template <class Engine>
nb::class_<Engine> bind_engine(nb::module_& m, const char* name) {
    return nb::class_<Engine>(m, name)
        .def("append", &append<Engine>, Released())
        .def("attend", &attend<Engine>, Released())
        .def("append_attend", &append_attend<Engine>, Released())
        .def("read", &read<Engine>, Released())
        .def("copy_page", &Engine::copy_page, Released())
        .def("unit_bytes", &Engine::unit_bytes)
        .def_prop_ro("isa", [](const Engine& self) { return self.isa().name; })
        .def_prop_ro("threads", &Engine::threads)
        .def_prop_ro("page_bytes", &Engine::page_bytes);
}

void make_memory_engine(MemoryEngine* self, const Layers& layers, int num_pages, int page_tokens,
                        const std::string& kv, int threads, const std::string& isa,
                        Address team_parallel, Address team_thread) {
    const DType dtype = dtype_named(kv);
    new (self) MemoryEngine(layers, num_pages, page_tokens, dtype, choose_kernels(isa, dtype),
                            thread_count(threads), make_team(team_parallel, team_thread));
}

void make_storage_engine(StorageEngine* self, const Layers& layers, int page_tokens,
                         const std::string& kv, int threads, const std::string& isa,
                         std::size_t memory_bytes, const std::vector<File>& files,
                         bool only_threads) {
    const DType dtype = dtype_named(kv);
    std::vector<DriveFile> drives;
    for (const auto& [file, bytes, name] : files) drives.push_back({file, bytes, name});
    new (self) StorageEngine(layers, page_tokens, dtype, choose_kernels(isa, dtype),
                             thread_count(threads), memory_bytes, drives, only_threads);
}

void release(StorageEngine& engine, Address pages, std::size_t num_pages) {
    engine.release(pointer<int>(pages), num_pages);
}

void bind_storage_engine(nb::module_& m) {
    nb::class_<StorageStats>(m, "StorageStats")
        .def_ro("bytes_read", &StorageStats::bytes_read)
        .def_ro("bytes_written", &StorageStats::bytes_written)
        .def_ro("num_frames", &StorageStats::num_frames)
        .def_ro("num_available", &StorageStats::num_available);
    bind_engine<StorageEngine>(m, "DriveEngine")
        .def("__init__", &make_storage_engine, "layers"_a, "page_tokens"_a, "kv_dtype"_a,
             "threads"_a, "isa"_a, "memory_bytes"_a, "files"_a, "only_threads"_a)
        .def("begin", &StorageEngine::begin, Released())
        .def("end", &StorageEngine::end, Released())
        .def("release", &release, Released())
        .def("validate", &StorageEngine::validate)
        .def("stats", &StorageEngine::stats)
        .def_prop_ro("failure", &StorageEngine::failure)
        .def_prop_ro("num_pages", &StorageEngine::num_pages);
}

}  // namespace

void bind_engines(nb::module_& m) {
    bind_engine<MemoryEngine>(m, "Engine")
        .def("__init__", &make_memory_engine, "layers"_a, "num_pages"_a, "page_tokens"_a,
             "kv_dtype"_a, "threads"_a, "isa"_a, "team_parallel"_a, "team_thread"_a)
        .def("attend_packed", &attend_packed, Released());
    bind_storage_engine(m);
}

}  // namespace glinthawk
