// Work for a thread that somebody else deals out.
#pragma once

#include "attention/passes.hpp"

namespace glinthawk {

// An item under one head, and where its pages are.
struct Task {
    const Unit* unit = nullptr;  // null: no work
    const Item* item = nullptr;
    const Pages* pages = nullptr;
    void* owner = nullptr;
};

// Deals tasks in an order of its own; any thread may ask.
class Tasks {
public:
    virtual Task take() = 0;  // waits for one; none: there will be no more
    virtual void finish(const Task& task) = 0;

protected:
    ~Tasks() = default;
};

}  // namespace glinthawk
