// A file to be a drive.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

#include "check.hpp"

namespace glinthawk {

inline constexpr std::size_t kFileBytes = 2 << 20;

// Without a name, or one that is there.
class Scratch {
public:
    Scratch() {
        char name[] = "glinthawk-check-XXXXXX";
        file_ = mkstemp(name);
        REQUIRE(file_ >= 0);
        unlink(name);
        REQUIRE(ftruncate(file_, kFileBytes) == 0);
    }
    explicit Scratch(const char* name) : file_(open(name, O_RDWR)) { REQUIRE(file_ >= 0); }
    ~Scratch() { close(file_); }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    int file() const { return file_; }

private:
    int file_;
};

}  // namespace glinthawk
