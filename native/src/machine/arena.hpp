// Memory of all pages: huge pages where the system allows, touched when first written.
#pragma once

#include <cstddef>

namespace glinthawk {

class Arena {
public:
    explicit Arena(std::size_t bytes);  // throws std::bad_alloc
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;

    std::byte* data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    std::byte* mapping_;
    std::size_t mapping_bytes_;
    std::byte* data_;
    std::size_t size_;
};

}  // namespace glinthawk
