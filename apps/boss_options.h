// What the verbs `flowmap boss search` and `flowmap boss report` share.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "apps/run_options.h"
#include "apps/sampler_flags.h"
#include "flowmap/formats/image.h"
#include "samplers/boss/schedule_file.h"
#include "samplers/boss/search.h"

namespace flowmap::apps {

struct BossNetworkFlags {
  NetworkFlags network;
  GuidanceFlags guidance;
  std::string device, dtype = "float32", classes;
  int64_t batch = 64;
};
// --network ..., --guidance, --gnet, --class, --batch, --device, --dtype.
void add_boss_network_flags(CLI::App& app, BossNetworkFlags& flags);

struct BossNetwork {
  std::shared_ptr<Model> bare;   // without guidance: its weights are the checksum's
  Guided guided;
  at::Device device = at::kCPU;
  Precision precision;
  ModelInfo info;
};
BossNetwork load_boss_network(const CLI::App& app, const BossNetworkFlags& flags);

// Batches of seeds; none larger than fits half a gigabyte of states at `anchors` anchors.
std::vector<std::vector<std::uint64_t>> seed_batches(
    const std::vector<std::int64_t>& seeds, int64_t batch, int64_t anchors,
    const ModelInfo& info, bool with_slopes);
samplers::SearchBatch boss_batch(const BossNetwork& network, const BossNetworkFlags& flags,
                                 const std::vector<std::uint64_t>& seeds);

// The cost matrix (logarithm by colour; row: from, column: to) with the path of every
// budget over it, beside the knots of every budget in time.
Image boss_picture(const at::Tensor& cost, const std::vector<double>& times,
                   const std::vector<samplers::ScheduleBudget>& budgets,
                   const std::vector<std::vector<double>>& budget_times);
// Labelled rows of pictures.
Image boss_samples_picture(const std::vector<std::pair<std::string, Image>>& rows);

int run_boss_search(std::span<const std::string> arguments);
int run_boss_report(std::span<const std::string> arguments);

}  // namespace flowmap::apps
