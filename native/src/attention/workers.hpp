// A worker for each thread of a call.
#pragma once

#include <memory>
#include <vector>

#include "attention/worker.hpp"

namespace glinthawk {

using Workers = std::vector<std::unique_ptr<Worker>>;

// One worker for each thread, and memory for the partial rows of any of `passes`.
Workers hire(Attention& attention, const std::vector<Pass>& passes, int threads);
void run(const Pass& pass, const Workers& workers, Pool& pool);

}  // namespace glinthawk
