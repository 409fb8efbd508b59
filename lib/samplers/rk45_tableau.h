// The coefficients of Dormand and Prince (1980), RK5(4)7M, and of the quartic of Shampine
// (1986) through its stages.
#pragma once

#include <array>
#include <cstddef>

namespace flowmap::samplers {

// Stages of a step; a seventh at its end is the first of the next.
inline constexpr std::size_t kRk45Stages = 6;

inline constexpr std::array<double, 6> kRk45C{0, 1.0 / 5, 3.0 / 10, 4.0 / 5, 8.0 / 9, 1};

inline constexpr std::array<std::array<double, 5>, 6> kRk45A{{
    {},
    {1.0 / 5},
    {3.0 / 40, 9.0 / 40},
    {44.0 / 45, -56.0 / 15, 32.0 / 9},
    {19372.0 / 6561, -25360.0 / 2187, 64448.0 / 6561, -212.0 / 729},
    {9017.0 / 3168, -355.0 / 33, 46732.0 / 5247, 49.0 / 176, -5103.0 / 18656},
}};

// Fifth order.
inline constexpr std::array<double, 6> kRk45B{35.0 / 384,     0,         500.0 / 1113,
                                              125.0 / 192, -2187.0 / 6784, 11.0 / 84};

// Fourth order less fifth.
inline constexpr std::array<double, 7> kRk45E{
    -71.0 / 57600,       0,           71.0 / 16695, -71.0 / 1920,
    17253.0 / 339200, -22.0 / 525, 1.0 / 40};

// x(theta) = x + h sum_s k_s sum_p P[s][p] theta^(p+1), theta in [0, 1]. At 1 it is B.
inline constexpr std::array<std::array<double, 4>, 7> kRk45P{{
    {1, -8048581381.0 / 2820520608, 8663915743.0 / 2820520608, -12715105075.0 / 11282082432},
    {},
    {0, 131558114200.0 / 32700410799, -68118460800.0 / 10900136933,
     87487479700.0 / 32700410799},
    {0, -1754552775.0 / 470086768, 14199869525.0 / 1410260304, -10690763975.0 / 1880347072},
    {0, 127303824393.0 / 49829197408, -318862633887.0 / 49829197408,
     701980252875.0 / 199316789632},
    {0, -282668133.0 / 205662961, 2019193451.0 / 616988883, -1453857185.0 / 822651844},
    {0, 40617522.0 / 29380423, -110615467.0 / 29380423, 69997945.0 / 29380423},
}};

}  // namespace flowmap::samplers
