#include "machine/arena.hpp"

#include <sys/mman.h>

#include <cstdint>
#include <new>

#include "machine/cpus.hpp"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(memory, bytes) ((void)(memory), (void)(bytes))
#endif

namespace glinthawk {

namespace {
constexpr std::size_t kHugePage = std::size_t(2) << 20;
}

Arena::Arena(std::size_t bytes) : size_(bytes) {
    const std::size_t whole = (bytes + kHugePage - 1) / kHugePage * kHugePage;
    mapping_bytes_ = whole + kHugePage;  // room to align
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#ifdef MAP_NORESERVE
    flags |= MAP_NORESERVE;
#endif
    void* mapping = mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (mapping == MAP_FAILED) throw std::bad_alloc();
    mapping_ = static_cast<std::byte*>(mapping);
    const auto address = reinterpret_cast<std::uintptr_t>(mapping_);
    data_ = mapping_ + (kHugePage - address % kHugePage) % kHugePage;
#ifdef MADV_HUGEPAGE
    madvise(data_, whole, MADV_HUGEPAGE);  // a wish: without it everything still works
#endif
    interleave_over_nodes(data_, whole);
    // Before and behind what was asked for lies nobody's memory.
    ASAN_POISON_MEMORY_REGION(mapping_, std::size_t(data_ - mapping_));
    ASAN_POISON_MEMORY_REGION(data_ + size_,
                              std::size_t(mapping_ + mapping_bytes_ - data_) - size_);
}

Arena::~Arena() {
    ASAN_UNPOISON_MEMORY_REGION(mapping_, mapping_bytes_);
    munmap(mapping_, mapping_bytes_);
}

}  // namespace glinthawk
