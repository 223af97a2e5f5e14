#include "bindings/bindings.hpp"

NB_MODULE(_native, m) {
    glinthawk::bind_machine(m);
    glinthawk::bind_dense(m);
    glinthawk::bind_quantized(m);
    glinthawk::bind_plan(m);
    glinthawk::bind_engines(m);
    glinthawk::bind_sampling(m);
}
