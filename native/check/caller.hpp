// Somebody who writes to pages and attends over them, on drives and in memory, and wants the same bits.
#pragma once

#include <random>
#include <string>
#include <vector>

#include "attention/memory_engine.hpp"
#include "rows.hpp"
#include "storage/engine.hpp"

namespace glinthawk {

// Has sequences, and pages of its own.
class Caller {
public:
    Caller(StorageEngine& far, int first_page, int num_pages, unsigned seed);

    // Something at random.
    void act();
    // Prompts of `length`, until a drive fails. What it says, or nothing.
    std::string fail_to_prompt(int length);

private:
    struct Sequence {
        std::vector<int> pages;
        int length = 0;
    };

    void prompt();
    void decode();
    void give_up_a_prompt();
    void copy();
    void release();

    bool take(std::vector<int>& pages, int length);
    void give_back(Sequence& sequence);
    void step(const Sequence& sequence, int start, int length, bool attends, int num_layers);
    void append_and_attend(const Plan& plan, bool attends, int num_layers);
    void attend(int layer, const Plan& plan);
    std::vector<float> numbers(std::size_t count);

    StorageEngine& far_;
    MemoryEngine near_;
    std::mt19937 random_;
    std::vector<int> free_;
    std::vector<Sequence> sequences_;
};

}  // namespace glinthawk
