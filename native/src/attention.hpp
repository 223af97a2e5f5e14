// Attention of a step's new tokens over their sequences, on all threads.
#pragma once

#include <string>

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

}  // namespace glinthawk
