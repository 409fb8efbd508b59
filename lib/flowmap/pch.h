// Precompiled: header tiers 1 and 2 (docs/build.md). Not torch/torch.h, which costs
// twice as much and which nothing here includes.
#pragma once

#include <torch/nn/module.h>

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
