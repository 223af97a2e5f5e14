// What the checks share: a way to fail.
#pragma once

#include <unistd.h>

#include <cstdio>
#include <cstdlib>

namespace glinthawk {

#define REQUIRE(holds)                                                           \
    do {                                                                         \
        if (!(holds)) {                                                          \
            std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, \
                         #holds);                                                \
            std::exit(1);                                                        \
        }                                                                        \
    } while (false)

// A check that stands still fails.
inline void end_after(unsigned seconds) { alarm(seconds); }

}  // namespace glinthawk
