// Seconds of a forward, of a forward with backward (flow matching loss) and of steps of
// Lagrangian self-distillation and of MeanFlow (three quarters of the batch on the
// diagonal, a quarter off it, no optimiser) of two networks. benchmarks/peers/networks.py
// does the same in PyTorch; benchmarks/compare runs the two in turns.
//   cifar  CIFAR-10's DDPM++ (Karras et al. 2022) as a two-time flow map
//   demo   the network of configs/fashion-mnist/student.json
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <functional>
#include <iostream>
#include <limits>
#include <map>
#include <memory>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "distill/flow_map/losses.h"
#include "distill/regression_losses.h"
#include "benchmarks/bench_main.h"
#include "flowmap/base/config.h"
#include "flowmap/base/error.h"
#include "flowmap/base/text.h"
#include "flowmap/draw.h"
#include "flowmap/interpolant.h"
#include "flowmap/model.h"
#include "flowmap/precision.h"
#include "flowmap/tensor_io.h"
#include "flowmap/train/snapshot.h"

namespace flowmap {
namespace {

constexpr const char* kUsage =
    R"(usage: bench_networks [--network cifar|demo] [--batch N] [--threads N]
                      [--repeats R] [--json] [--serve] [--reference FOLDER]
                      [--config FILE]

  --json       one JSON object instead of a table
  --serve      reads lines "WHAT PRECISION" and answers each with the seconds of one run;
               WHAT: forward, forward_backward, lsd_step, meanflow_step, sgemm
  --reference  writes network.safetensors (a snapshot, every weight away from its start)
               and step.safetensors (inputs, losses, gradients) and measures nothing
  --config     of the demo network (default: configs/fashion-mnist/student.json)
)";

// EDM's CIFAR-10 network, whose settings are the defaults of ddpmpp, with a second time.
constexpr const char* kCifarSpec =
    R"({"network": {"type": "ddpmpp"},
        "preconditioning": {"type": "flow", "two_times": true},
        "sample_shape": [3, 32, 32]})";

struct Options {
  std::string network = "demo", reference, config = "configs/fashion-mnist/student.json";
  int64_t batch = 16, threads = 0, repeats = 5;
  bool json = false, serve = false;
};

int64_t positive_number(const std::string& flag, const std::string& text) {
  int64_t value = 0;
  std::istringstream in(text);
  FM_CHECK_USAGE(in >> value && in.eof() && value >= 1 && value <= 1 << 20, flag,
                 " takes a whole number from 1 on, not '", text, "'");
  return value;
}

// False: the help was printed.
bool read_options(int argc, char** argv, Options& o) {
  const std::map<std::string, std::string*> texts = {{"--network", &o.network},
                                                     {"--reference", &o.reference},
                                                     {"--config", &o.config}};
  const std::map<std::string, int64_t*> numbers = {
      {"--batch", &o.batch}, {"--threads", &o.threads}, {"--repeats", &o.repeats}};
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--help" || flag == "-h") {
      std::fputs(kUsage, stdout);
      return false;
    }
    if (flag == "--json" || flag == "--serve") {
      (flag == "--json" ? o.json : o.serve) = true;
      continue;
    }
    FM_CHECK_USAGE(texts.contains(flag) || numbers.contains(flag), "unknown flag '", flag,
                   "'; see --help");
    FM_CHECK_USAGE(i + 1 < argc, flag, " needs a value");
    const std::string value = argv[++i];
    if (texts.contains(flag))
      *texts.at(flag) = value;
    else
      *numbers.at(flag) = positive_number(flag, value);
  }
  FM_CHECK_USAGE(o.network == "cifar" || o.network == "demo",
                 "--network is cifar or demo, not '", o.network, "'");
  return true;
}

Config network_spec(const Options& o) {
  if (o.network == "cifar") return Config::from_text(kCifarSpec, "cifar");
  FM_CHECK_USAGE(std::filesystem::exists(o.config), o.config,
                 " is not there; run in the root of the checkout or give --config");
  const Config run = Config::from_file(o.config);
  Config spec;
  for (const char* part : {"network", "preconditioning"})
    spec.set_json(part, run.raw(part), o.config);
  spec.set_json("sample_shape", "[1, 28, 28]", "Fashion-MNIST");
  return spec;
}

// A network with the inputs of its steps.
class Workload {
 public:
  explicit Workload(const Options& o) : spec_(network_spec(o)) {
    model_ = make_model(spec_, 0);
    const Draw draw(1, 0, o.batch);
    const auto shape = model_->info().sample_shape;
    x1_ = draw.uniform("data", shape) * 2 - 1;
    noise_ = draw.normal("noise", shape);
    const at::Tensor p = draw.uniform("p", {}), q = draw.uniform("q", {});
    s_ = at::minimum(p, q);
    t_ = at::maximum(p, q);
  }

  Model& model() { return *model_; }
  int64_t batch() const { return x1_.size(0); }
  // Rows off the diagonal: a quarter, at least one where there are two rows.
  int64_t off_diagonal() const {
    return batch() == 1 ? 0 : std::max<int64_t>(1, batch() / 4);
  }

  at::Tensor forward() {
    const at::NoGradGuard no_grad;
    Context context;
    return model_->average_velocity(x1_, s_, Dual(t_), {}, context).value;
  }

  // Mean over the batch, of sums over pixels.
  at::Tensor flow_matching_loss() { return diagonal_sum(0, batch()) / batch(); }

  at::Tensor lsd_loss() {
    return mixed_loss([&](const distill::MapSamples& at, Context& context) {
      return distill::lagrangian_loss(*model_, *model_, at, context,
                                      distill::StopGradient::convex);
    });
  }
  at::Tensor meanflow_loss() {
    return mixed_loss([&](const distill::MapSamples& at, Context& context) {
      return distill::tangent_loss(*model_, at, at.velocity, at.velocity, context);
    });
  }

  void clear_gradients() {
    for (at::Tensor& p : model_->parameters()) p.mutable_grad() = at::Tensor();
  }

  // Floating-point operations of one image in convolutions and matrix products. Backward
  // counts twice its forward; off the diagonal a Jacobian-vector product (two forwards)
  // is differentiated and the teacher adds a plain forward; MeanFlow's product is not
  // differentiated.
  double flops(const std::string& what) const {
    const double forward = 2 * model_->multiply_adds();
    if (what == "forward") return forward;
    if (what == "forward_backward") return 3 * forward;
    const double off = static_cast<double>(off_diagonal()) / static_cast<double>(batch());
    return forward * (3 * (1 - off) + (what == "lsd_step" ? 7 : 4) * off);
  }

  void write_reference(const std::filesystem::path& folder);

 private:
  // The diagonal rows, and `residual` of the others.
  template <class Residual>
  at::Tensor mixed_loss(const Residual& residual) {
    const int64_t on = batch() - off_diagonal();
    at::Tensor total = diagonal_sum(0, on);
    if (off_diagonal() > 0) {
      const at::Tensor s = s_.slice(0, on), t = t_.slice(0, on);
      const auto point = interpolate(x1_.slice(0, on), noise_.slice(0, on), s, 1);
      Context context;
      total = total + residual({point.x, point.target, s, t, {}, {}}, context).sum();
    }
    return total / batch();
  }
  at::Tensor diagonal_sum(int64_t begin, int64_t end) {
    const at::Tensor t = t_.slice(0, begin, end);
    const auto point =
        interpolate(x1_.slice(0, begin, end), noise_.slice(0, begin, end), t, 1);
    Context context;
    return distill::diagonal_loss(*model_, point.x, t, point.target, {}, context).sum();
  }

  Config spec_;
  std::shared_ptr<Model> model_;
  at::Tensor x1_, noise_, s_, t_;
};

void Workload::write_reference(const std::filesystem::path& folder) {
  {
    // Layers that start at zero would hide what stands before them.
    const at::NoGradGuard no_grad;
    const Draw draw(2, 0, 1);
    for (auto& item : model_->named_parameters()) {
      at::Tensor& p = item.value();
      const double fan_in = static_cast<double>(p.numel() / p.size(0));
      p.add_(draw.normal(item.key(), p.sizes()).squeeze(0),
             p.dim() > 1 ? 0.7 / std::sqrt(fan_in) : 0.1);
    }
  }
  std::filesystem::create_directories(folder);
  save_snapshot(folder / "network.safetensors", *model_, spec_.resolved_json(),
                {{"images_seen", "0"}, {"ema", "raw"}, {"method", "{}"}});
  const at::Tensor meanflow = meanflow_loss();
  const at::Tensor loss = lsd_loss();
  clear_gradients();
  loss.backward();
  std::map<std::string, at::Tensor> tensors = {
      {"x1", x1_}, {"noise", noise_}, {"s", s_}, {"t", t_},
      {"forward", forward()}, {"lsd_loss", loss.detach()},
      {"meanflow_loss", meanflow.detach()},
      {"flow_matching_loss", flow_matching_loss().detach()}};
  for (auto& item : model_->named_parameters())
    tensors["gradient/" + item.key()] = item.value().grad();
  save_tensors(folder / "step.safetensors", tensors);
}

double seconds_of(const std::function<void()>& run) {
  const auto start = std::chrono::steady_clock::now();
  run();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

constexpr int64_t kGemmSide = 2048;
constexpr double kGemmFlops = 2.0 * kGemmSide * kGemmSide * kGemmSide;

// One run of what a line of --serve names.
double measure(Workload& work, const std::string& what, const std::string& precision) {
  const at::ScalarType type = parse_precision(precision, "precision").type;
  if (what == "sgemm") {
    const at::Tensor a = at::linspace(-1, 1, kGemmSide * kGemmSide)
                             .view({kGemmSide, kGemmSide})
                             .to(type);
    // The same product by the BLAS and, as a 1x1 convolution, by oneDNN: on some
    // processors the BLAS reaches half of what the convolutions do, and is no peak.
    const at::Tensor pixels = a.view({1, kGemmSide, 32, kGemmSide / 32});
    const at::Tensor kernel = a.view({kGemmSide, kGemmSide, 1, 1});
    return std::min(seconds_of([&] { at::mm(a, a); }),
                    seconds_of([&] { at::conv2d(pixels, kernel); }));
  }
  FM_CHECK_USAGE(what == "forward" || what == "forward_backward" || what == "lsd_step" ||
                     what == "meanflow_step",
                 "nothing here is called '", what,
                 "'; known: forward, forward_backward, lsd_step, meanflow_step, sgemm");
  work.clear_gradients();
  return seconds_of([&] {
    at::Tensor loss;
    {
      const AutocastGuard autocast(at::kCPU, type);
      if (what == "forward")
        work.forward();
      else
        loss = what == "lsd_step"        ? work.lsd_loss()
               : what == "meanflow_step" ? work.meanflow_loss()
                                         : work.flow_matching_loss();
    }
    if (loss.defined()) loss.backward();
  });
}

// JSON object of what both programs say about the network.
std::string facts(Workload& work, const Options& o) {
  return format(
      R"("program": "flowmap", "network": "%s", "parameters": %lld, "batch": %lld, )"
      R"("off_diagonal": %lld, "threads": %d, "gflop_per_image": )"
      R"({"forward": %.6g, "forward_backward": %.6g, "lsd_step": %.6g, )"
      R"("meanflow_step": %.6g}, )"
      R"("sgemm_gflop": %.6g)",
      o.network.c_str(), static_cast<long long>(parameter_count(work.model())),
      static_cast<long long>(work.batch()), static_cast<long long>(work.off_diagonal()),
      at::get_num_threads(), work.flops("forward") / 1e9,
      work.flops("forward_backward") / 1e9, work.flops("lsd_step") / 1e9,
      work.flops("meanflow_step") / 1e9,
      kGemmFlops / 1e9);
}

void serve(Workload& work, const Options& o) {
  std::cout << "{" << facts(work, o) << "}" << std::endl;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string what, precision;
    words >> what >> precision;
    std::cout << format("%.9g", measure(work, what, precision)) << std::endl;
  }
}

void measure_all(Workload& work, const Options& o) {
  using Row = std::pair<const char*, const char*>;
  std::vector<Row> rows = {{"forward", "float32"},
                           {"forward_backward", "float32"},
                           {"lsd_step", "float32"},
                           {"meanflow_step", "float32"}};
  if (o.network == "demo")
    rows.insert(rows.end(), {{"forward", "bf16"}, {"forward_backward", "bf16"}});
  std::map<std::string, double> peak;  // FLOP/s
  const auto peak_of = [&](const std::string& precision) {
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 4; ++i)
      least = std::min(least, measure(work, "sgemm", precision));
    return kGemmFlops / least;
  };
  if (!o.json)
    std::printf("%-17s %-8s %10s %9s %12s %8s %13s\n", "what", "", "seconds", "img/s",
                "GFLOP/image", "GFLOP/s", "sgemm GFLOP/s");
  std::string results;
  for (const auto& [what, precision] : rows) {
    if (!peak.contains(precision)) peak[precision] = peak_of(precision);
    measure(work, what, precision);  // warms up
    std::vector<double> seconds;
    for (int64_t i = 0; i < o.repeats; ++i)
      seconds.push_back(measure(work, what, precision));
    std::sort(seconds.begin(), seconds.end());
    const std::size_t n = seconds.size();
    const double median = (seconds[(n - 1) / 2] + seconds[n / 2]) / 2;
    const double rate = static_cast<double>(work.batch()) / median;
    const double gflop = work.flops(what) / 1e9;
    if (!o.json) {
      std::printf("%-17s %-8s %10.4f %9.2f %12.3f %8.1f %13.1f\n", what, precision,
                  median, rate, gflop, gflop * rate, peak[precision] / 1e9);
      continue;
    }
    results += format(
        R"(%s{"what": "%s", "precision": "%s", "seconds": %.6g, "img_per_s": %.6g, )"
        R"("gflop_per_image": %.6g, "gflop_per_s": %.6g, "sgemm_gflop_per_s": %.6g})",
        results.empty() ? "" : ", ", what, precision, median, rate, gflop, gflop * rate,
        peak[precision] / 1e9);
  }
  if (o.json) std::printf("{%s, \"results\": [%s]}\n", facts(work, o).c_str(),
                          results.c_str());
}

int run(int argc, char** argv) {
  Options o;
  if (!read_options(argc, argv, o)) return 0;
  if (o.threads > 0) at::set_num_threads(static_cast<int>(o.threads));
  Workload work(o);
  if (!o.reference.empty())
    work.write_reference(o.reference);
  else if (o.serve)
    serve(work, o);
  else
    measure_all(work, o);
  return 0;
}

}  // namespace
}  // namespace flowmap

int main(int argc, char** argv) {
  return flowmap::bench_main("bench_networks", flowmap::run, argc, argv);
}
