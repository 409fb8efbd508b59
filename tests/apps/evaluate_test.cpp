// flowmap evaluate and inspect: against direct calls of the Model in float64.
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/formats/npy.h"
#include "flowmap/tensor_io.h"
#include "tests/apps/app_fixture.h"

namespace flowmap::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

class Evaluate : public AppTest {
 protected:
  static at::Tensor normal(const char* stream, at::IntArrayRef row, int64_t rows = 3) {
    return Draw(9, 0, rows).normal(stream, row).to(at::kDouble);
  }
  // Snapshots hold float32 numbers; both sides compute with these in float64.
  Snapshot doubled(const std::string& name) const {
    Snapshot snapshot = load_snapshot(path(name));
    snapshot.model->to(at::kDouble);
    return snapshot;
  }
  std::map<std::string, at::Tensor> evaluate(
      const std::map<std::string, at::Tensor>& inputs, const std::string& more) const {
    save_tensors(path("in.st"), inputs);
    const AppResult result = run("evaluate --network m.safetensors --inputs in.st --dest "
                                 "out.st --dtype float64 --overwrite " + more);
    EXPECT_EQ(result.code, 0) << result.err;
    return load_tensors(path("out.st"));
  }
  void refused(const std::map<std::string, at::Tensor>& inputs, const std::string& more,
               int code, const std::string& what) const {
    save_tensors(path("in.st"), inputs);
    const AppResult result = run("evaluate --network m.safetensors --inputs in.st --dest "
                                 "no.st " + more);
    EXPECT_EQ(result.code, code) << result.err;
    EXPECT_THAT(result.err, StartsWith("flowmap evaluate: "));
    EXPECT_THAT(result.err, HasSubstr(what));
    EXPECT_FALSE(std::filesystem::exists(path("no.st")));
  }
};

double gap(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

TEST_F(Evaluate, FlowMapViewsAndTangents) {
  save("m.safetensors", kTinyFlowMap);
  const Snapshot snapshot = doubled("m.safetensors");
  Model& model = *snapshot.model;
  const at::NoGradGuard no_grad;
  Context ctx;
  const at::Tensor x = normal("x", {1, 8, 8}), dx = normal("dx", {1, 8, 8});
  const at::Tensor s = at::tensor({.1, .2, .5}, at::kDouble);
  const at::Tensor t = at::tensor({.4, .9, .6}, at::kDouble);
  const at::Tensor ds = at::tensor({1., -.5, 2.}, at::kDouble);
  const at::Tensor dt = at::tensor({.3, 1., -1.}, at::kDouble);

  // The native view is v_{s,t}; its tangent against central differences.
  const auto native = evaluate({{"x", x}, {"s", s}, {"t", t}, {"x_tangent", dx},
                                {"s_tangent", ds}, {"t_tangent", dt}}, "");
  EXPECT_EQ(native.at("output").scalar_type(), at::kDouble);
  EXPECT_LT(gap(native.at("output"), model.average_velocity(x, s, t, {}, ctx).value), 1e-12);
  const double h = 1e-6;
  const auto at_step = [&](double k) {
    return model.average_velocity(x + k * dx, s + k * ds, t + k * dt, {}, ctx).value;
  };
  const at::Tensor difference = (at_step(h) - at_step(-h)) / (2 * h);
  EXPECT_LT(gap(native.at("output_tangent"), difference),
            1e-7 * difference.abs().max().item<double>());

  const auto map = evaluate({{"x", x}, {"s", s}, {"t", t}, {"t_tangent", dt}}, "--view map");
  EXPECT_LT(gap(map.at("output"), model.map(x, s, t, {}, ctx).value), 1e-12);
  const at::Tensor by_t = (model.map(x, s, t + h * dt, {}, ctx).value -
                           model.map(x, s, t - h * dt, {}, ctx).value) / (2 * h);
  EXPECT_LT(gap(map.at("output_tangent"), by_t), 1e-7 * by_t.abs().max().item<double>());

  const auto diagonal = evaluate({{"x", x}, {"t", t}}, "--view velocity");
  EXPECT_EQ(diagonal.count("output_tangent"), 0u);
  EXPECT_LT(gap(diagonal.at("output"), model.velocity(x, t, {}, ctx).value), 1e-12);
  const auto raw = evaluate({{"x", x}, {"s", s}, {"t", t}}, "--view raw");
  EXPECT_LT(gap(raw.at("output"), model.raw(x, s, t, {}, ctx).value), 1e-12);
}

TEST_F(Evaluate, DenoiserAndALoneNumber) {
  save("m.safetensors", kTinyDenoiser);
  const Snapshot snapshot = doubled("m.safetensors");
  const at::NoGradGuard no_grad;
  Context ctx;
  const at::Tensor x = normal("x", {1, 4, 4}), sigma = at::full({3}, 1.7, at::kDouble);
  const auto out = evaluate({{"x", x}, {"sigma", at::full({}, 1.7, at::kDouble)},
                             {"sigma_tangent", at::ones({}, at::kDouble)}}, "");
  EXPECT_LT(gap(out.at("output"), snapshot.model->denoise(x, sigma, {}, ctx).value), 1e-12);
  const at::Tensor difference =
      (snapshot.model->denoise(x, sigma + 1e-5, {}, ctx).value -
       snapshot.model->denoise(x, sigma - 1e-5, {}, ctx).value) / 2e-5;
  EXPECT_LT(gap(out.at("output_tangent"), difference), 1e-7);
  // A velocity out of a denoiser is exact algebra of it.
  const at::Tensor t = at::full({3}, 0.4, at::kDouble);
  const auto velocity = evaluate({{"x", x}, {"t", t}}, "--view velocity");
  EXPECT_LT(gap(velocity.at("output"), snapshot.model->velocity(x, t, {}, ctx).value),
            1e-12);
}

TEST_F(Evaluate, ClassLabels) {
  save("m.safetensors", kTinyConditional);
  const Snapshot snapshot = doubled("m.safetensors");
  const at::NoGradGuard no_grad;
  Context ctx;
  const at::Tensor x = normal("x", {3, 4, 4}), t = at::full({3}, 0.4, at::kDouble);
  Condition condition;
  condition.class_labels = at::eye(3, at::kDouble);
  const auto out =
      evaluate({{"x", x}, {"t", t}, {"class_labels", condition.class_labels}}, "");
  EXPECT_LT(gap(out.at("output"), snapshot.model->velocity(x, t, condition, ctx).value),
            1e-12);
  EXPECT_GT(gap(out.at("output"), snapshot.model->velocity(x, t, {}, ctx).value), 1e-3);
}

TEST_F(Evaluate, SaysWhatIsWrong) {
  save("m.safetensors", kTinyFlowMap);
  const at::Tensor x = at::zeros({2, 1, 8, 8}), t = at::full({2}, 0.5);
  refused({{"t", t}}, "", 2, "no tensor 'x'");
  refused({{"x", x}}, "", 2, "'t' is missing");
  refused({{"x", x}, {"t", t}, {"sigma", t}}, "", 2, "'sigma' is too much");
  refused({{"x", x}, {"t", t}}, "--view denoised", 2, "'sigma' is missing");
  refused({{"x", x}, {"t", t}}, "--view map", 2, "'s' is missing");
  refused({{"x", at::zeros({2, 1, 4, 4})}, {"t", t}}, "", 2, "[B, 1, 8, 8]");
  refused({{"x", x}, {"t", at::zeros({3})}}, "", 2, "[2] or one number");
  refused({{"x", x}, {"t", t}, {"x_tangnet", x}}, "", 2, "x_tangent");
  refused({{"x", x}, {"t", t}, {"s_tangent", t}}, "", 2, "without 's'");
  refused({{"x", x}, {"t", t}, {"t_tangent", at::zeros({1})}}, "", 2, "'t_tangent'");
  refused({{"x", x}, {"t", t}, {"class_labels", t}}, "", 2, "without classes");
  refused({{"x", x}, {"t", t}}, "--view speed", 2, "--view: unknown view 'speed'");
  refused({{"x", x}, {"t", t}}, "--view mpa", 2, "did you mean 'map'");
  // Times outside [0, 1], by the tensor's name.
  refused({{"x", x}, {"t", at::full({2}, 1.5)}}, "", 2, "'t' holds 1.5; expected times");
  refused({{"x", x}, {"s", at::full({2}, -0.5)}, {"t", t}}, "", 2, "'s' holds -0.5");
  refused({{"x", x}, {"t", at::full({}, NAN)}}, "", 2, "'t' holds nan");
  refused({{"x", at::zeros({0, 1, 8, 8})}, {"t", t}}, "", 2, "holds no samples");
  save("m.safetensors", kTinyDenoiser);
  const at::Tensor y = at::zeros({2, 1, 4, 4});
  refused({{"x", y}, {"sigma", at::tensor({1., -2.})}}, "", 2, "'sigma' holds -2");
  // A network alone takes any number.
  save_tensors(path("in.st"), {{"x", y}, {"sigma", at::full({2}, -2.)}});
  EXPECT_EQ(run("evaluate --network m.safetensors --inputs in.st --dest raw.st --view raw")
                .code, 0);
}

TEST_F(Evaluate, MissingFilesAreNamedByTheirFlag) {
  save("m.safetensors", kTinyFlowMap);
  const auto said = [&](const std::string& arguments) {
    const AppResult result = run("evaluate " + arguments + " --dest no.st");
    EXPECT_EQ(result.code, 2) << result.err;
    return result.err;
  };
  EXPECT_EQ(said("--network no.safetensors --inputs in.st"),
            "flowmap evaluate: --network: no.safetensors does not exist\n");
  EXPECT_EQ(said("--network m.safetensors --inputs in.st"),
            "flowmap evaluate: --inputs: in.st does not exist\n");
  EXPECT_THAT(said("--network m.safetensors --inputs ''"), HasSubstr("--inputs: the name"));
}

TEST_F(Evaluate, InspectSaysWhatAFileHolds) {
  save("m.safetensors", kTinyFlowMap,
       {{"method", R"({"method": "lsd", "default_steps": 1})"}, {"images_seen", "1234"},
        {"scores", R"({"fd_fmnist64_10k": 3.5})"}});
  const AppResult text = run("inspect m.safetensors");
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* what : {"flowmap snapshot", "images_seen: 1234", "ddpmpp", "lsd",
                           "fd_fmnist64_10k: 3.5", "model.map_layer0.weight"})
    EXPECT_THAT(text.out, HasSubstr(what));
  const auto root = nlohmann::json::parse(run("inspect m.safetensors --json").out);
  EXPECT_EQ(root["parameters"], parameter_count(*random_model(kTinyFlowMap)));
  EXPECT_EQ(root["metadata"]["spec"]["network"]["type"], "ddpmpp");
  const AppResult none = run("inspect none.safetensors");
  EXPECT_EQ(none.code, 2);
  EXPECT_THAT(none.err, HasSubstr("none.safetensors does not exist"));
  EXPECT_EQ(run("inspect").code, 2);
}

TEST_F(Evaluate, InspectReadsPlainTensorsAndNpz) {
  save_tensors(path("t.safetensors"), {{"a", at::zeros({2, 3})}}, {{"note", "mine"}});
  const AppResult text = run("inspect t.safetensors");
  ASSERT_EQ(text.code, 0) << text.err;
  for (const char* what : {"6 parameters in 1 tensors", "note: mine", "F32", "[2, 3]"})
    EXPECT_THAT(text.out, HasSubstr(what));
  write_npz(path("t.npz"), {{"b", to_host(at::zeros({4}, at::kLong))}});
  const auto root = nlohmann::json::parse(run("inspect t.npz --json").out);
  EXPECT_EQ(root["kind"], "npz");
  EXPECT_EQ(root["tensors"][0]["name"], "b");
  EXPECT_EQ(root["tensors"][0]["shape"][0], 4);
  std::ofstream(path("broken.safetensors")) << "nothing of the kind";
  EXPECT_EQ(run("inspect broken.safetensors").code, 1);
}

}  // namespace
}  // namespace flowmap::testing
