#pragma once

#include "plan.hpp"

namespace glinthawk {

Schedule make_schedule(const Plan& plan, int group, int window);

}  // namespace glinthawk
