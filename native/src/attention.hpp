// Attention of a step's new tokens over their sequences, on all threads.
#pragma once

#include <memory>
#include <vector>

#include "cpu.hpp"
#include "plan.hpp"
#include "pool.hpp"
#include "store.hpp"

namespace glinthawk {

struct Request {
    int layer;
    const Plan& plan;
    const void* queries;  // (T, H, D)
    DType dtype;          // of queries and outputs
    void* outputs;        // (T, H, Dv)
    float* log_sum_exp;   // (T, H)
};

// Over `pages`, of the shapes that `store` has.
void attend(const Store& store, const Pages& pages, const Kernels& kernels,
            const Request& request, Pool& pool);

struct Attention;
struct Pass;
class Worker;

using Workers = std::vector<std::unique_ptr<Worker>>;

// One worker for each thread, and memory for the partial rows of any of `passes`.
Workers hire(Attention& attention, const std::vector<Pass>& passes, int threads);
void run(const Pass& pass, const Workers& workers, Pool& pool);

}  // namespace glinthawk
