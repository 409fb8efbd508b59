// flowmap convert and inspect on weights of other programs; generate from them.
#include <array>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>

#include "flowmap/base/file.h"
#include "flowmap/formats/torch_file.h"
#include "flowmap/tensor_io.h"
#include "tests/apps/app_fixture.h"
#include "tests/support/reference.h"

namespace flowmap::testing {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Convert : public AppTest {
 protected:
  static fs::path reference(const std::string& name) {
    return fs::absolute(reference_folder() / "networks" / name);
  }
  void converted(const std::string& source, const std::string& dest,
                 const std::string& more = "") const {
    const AppResult result =
        run("convert --source '" + source + "' --dest " + dest + " " + more);
    ASSERT_EQ(result.code, 0) << result.err;
    EXPECT_THAT(result.out + result.err, HasSubstr("-> " + dest));
  }
  void refused(const std::string& arguments, int code, const std::string& what) const {
    const AppResult result = run("convert " + arguments);
    EXPECT_EQ(result.code, code) << arguments << "\n" << result.err;
    EXPECT_THAT(result.err, StartsWith("flowmap convert: "));
    EXPECT_THAT(result.err, HasSubstr(what));
  }
  static void expect_equal(const TensorMap& a, const TensorMap& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, tensor] : a) {
      ASSERT_TRUE(b.contains(name)) << name;
      EXPECT_EQ(tensor.scalar_type(), b.at(name).scalar_type()) << name;
      EXPECT_TRUE(tensor.equal(b.at(name))) << name;
    }
  }
};

const char* const kTinyEdm2 = R"({"network": {"type": "edm2", "model_channels": 64,
  "channel_mult": [1], "num_blocks": 1, "attn_resolutions": [4]},
  "preconditioning": {"type": "edm2", "logvar_channels": 8},
  "sample_shape": [3, 4, 4], "label_dim": 2})";
const char* const kTinyDit = R"({"network": {"type": "dit", "hidden_size": 16, "depth": 2,
  "num_heads": 2, "patch_size": 2}, "preconditioning": {"type": "ddpm"},
  "sample_shape": [3, 8, 8], "label_dim": 4})";
const char* const kTinyEdm = R"({"network": {"type": "ddpmpp", "model_channels": 8,
  "channel_mult": [1, 2], "num_blocks": 1, "attn_resolutions": [4]},
  "preconditioning": {"type": "edm"}, "sample_shape": [1, 8, 8], "label_dim": 0})";

// There and back again, bit by bit, through every kind of file.
TEST_F(Convert, RoundTripsAreExact) {
  save("edm.safetensors", kTinyEdm);
  save("edm2.safetensors", kTinyEdm2);
  save("dit.safetensors", kTinyDit);
  const std::map<std::string, std::string> hints = {
      {"edm", ""}, {"edm2", ""}, {"dit", "--arch dit --arch-options network.num_heads=2"}};
  for (const auto& [name, more] : hints) {
    const TensorMap before = load_tensors(path(name + ".safetensors"));
    converted(name + ".safetensors", name + ".pt");
    converted(name + ".pt", name + "-back.safetensors", more);
    expect_equal(before, load_tensors(path(name + "-back.safetensors")));
  }
  converted("dit.safetensors", "dit-folder");
  converted("dit-folder", "dit-again.safetensors");
  TensorMap before = load_tensors(path("dit.safetensors"));
  before.erase("model.pos_embed");  // diffusers computes it
  expect_equal(before, load_tensors(path("dit-again.safetensors")));
  // What was converted runs, and gives the same bytes.
  for (const char* file : {"dit.safetensors", "dit-again.safetensors"}) {
    const AppResult result = run("generate --network " + std::string(file) +
                                 " --seeds 0-1 --steps 2 --npz " + file + ".npz");
    EXPECT_EQ(result.code, 0) << result.err;
  }
  EXPECT_EQ(content(path("dit.safetensors.npz")), content(path("dit-again.safetensors.npz")));
}

TEST_F(Convert, TorchFilesHaveEdmsNames) {
  save("edm2.safetensors", kTinyEdm2);
  converted("edm2.safetensors", "edm2.pth");
  const TorchFile file(path("edm2.pth"));
  bool unet = false, logvar = false;
  for (const TorchEntry& entry : file.flatten()) {
    unet = unet || entry.name == "unet.enc.4x4_block0.conv_res0.weight";
    logvar = logvar || entry.name == "logvar_linear.weight";
    EXPECT_FALSE(entry.name.starts_with("model.")) << entry.name;
  }
  EXPECT_TRUE(unet);
  EXPECT_TRUE(logvar);
}

TEST_F(Convert, HalfRoundsOnceAndNoMore) {
  save("edm.safetensors", kTinyEdm);
  converted("edm.safetensors", "half.safetensors", "--half");
  for (const auto& [name, tensor] : load_tensors(path("half.safetensors")))
    EXPECT_EQ(tensor.scalar_type(), at::kHalf) << name;
  converted("half.safetensors", "again.safetensors", "--half");
  expect_equal(load_tensors(path("half.safetensors")),
               load_tensors(path("again.safetensors")));
  EXPECT_LT(fs::file_size(path("half.safetensors")),
            fs::file_size(path("edm.safetensors")) * 2 / 3);
}

TEST_F(Convert, PicklesOfEdmBecomeSnapshots) {
  for (const char* name : {"edm_snapshot_ddpmpp", "edm_snapshot_adm", "edm2_snapshot"}) {
    FM_NEED_FILE(reference(std::string(name) + ".pkl"));
    converted(reference(std::string(name) + ".pkl").string(),
              std::string(name) + ".safetensors");
    const AppResult made = run("generate --network " + std::string(name) +
                               ".safetensors --seeds 0,1 --steps 2 --npz " + name + ".npz");
    EXPECT_EQ(made.code, 0) << made.err;
    const AppResult direct =
        run("generate --network '" + reference(std::string(name) + ".pkl").string() +
            "' --seeds 0,1 --steps 2 --npz direct.npz --overwrite");
    EXPECT_EQ(direct.code, 0) << direct.err;
    EXPECT_EQ(content(path(std::string(name) + ".npz")), content(path("direct.npz")));
  }
}

TEST_F(Convert, InspectListsWhatItDoesNotKnow) {
  save_tensors(path("u.safetensors"), {{"a.b", at::zeros({2, 3})}});
  const AppResult result = run("inspect u.safetensors --json");
  EXPECT_EQ(result.code, 0) << result.err;
  const auto root = nlohmann::json::parse(result.out);
  EXPECT_EQ(root["parameters"], 6);
  EXPECT_EQ(root["tensors"][0]["name"], "a.b");
  EXPECT_THAT(root["unknown"].get<std::string>(), HasSubstr("a known program"));
  save("dit.safetensors", kTinyDit);
  converted("dit.safetensors", "dit.pt");
  const AppResult known = run("inspect dit.pt --arch dit --json");
  EXPECT_EQ(known.code, 0) << known.err;
  const auto dit = nlohmann::json::parse(known.out);
  EXPECT_THAT(dit["unknown"].get<std::string>(), HasSubstr("network.num_heads=N"));
  const AppResult told =
      run("inspect dit.pt --arch dit --arch-options network.num_heads=2 --json");
  EXPECT_EQ(nlohmann::json::parse(told.out)["layout"], "dit");
}

TEST_F(Convert, WrongInputIsRefusedInOneLine) {
  save("edm.safetensors", kTinyEdm);
  save("dit.safetensors", kTinyDit);
  // posix.system("true") in protocol 4.
  write_file_atomic(path("evil.pkl"),
                    "\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.");
  refused("--source evil.pkl --dest x.safetensors", 1, "posix.system");
  refused("--source missing.pkl --dest x.safetensors", 2, "missing.pkl does not exist");
  refused("--source edm.safetensors --dest x.gguf", 2, "neither .safetensors");
  refused("--source edm.safetensors --dest folder", 2, "folder of diffusers");
  refused("--source edm.safetensors --dest x.pt --layout dit", 2, "known: edm");
  refused("--source edm.safetensors --dest edm.safetensors", 2, "--overwrite");
  refused("--source edm.safetensors --dest x.safetensors --arch-options depth", 2,
          "--arch-options");
  refused("--source edm.safetensors --dest x.safetensors --arch-options "
          "network.num_blocks=2", 1, "missing");
  EXPECT_EQ(run("convert --source dit.safetensors --dest dit.pt").code, 0);
  refused("--source dit.pt --dest x.safetensors", 2, "--arch dit");
  refused("--source dit.pt --dest x.safetensors --key ema", 2, "one network at the top");
  for (const char* name : {"x.safetensors", "x.pt", "folder"})
    EXPECT_FALSE(fs::exists(path(name))) << name;
}

// A file cut anywhere is an error, never half a network.
TEST_F(Convert, TruncatedFilesAreRefused) {
  save("edm.safetensors", kTinyEdm);
  converted("edm.safetensors", "edm.pt");
  const std::string whole = read_file(path("edm.pt"));
  for (const std::size_t kept : {std::size_t{0}, std::size_t{7}, whole.size() / 2,
                                 whole.size() - 1}) {
    write_file_atomic(path("cut.pt"), whole.substr(0, kept));
    refused("--source cut.pt --dest cut.safetensors", 1, "cut.pt");
  }
}

// Python's own reader takes what we write.
TEST_F(Convert, TorchLoadReadsOurFiles) {
  const char* python = std::getenv("FLOWMAP_PEERS_PYTHON");
  if (!python) GTEST_SKIP() << "FLOWMAP_PEERS_PYTHON names no Python with torch";
  save("edm.safetensors", kTinyEdm);
  converted("edm.safetensors", "edm.pt");
  const std::string script =
      "import torch,sys; d=torch.load(sys.argv[1],weights_only=True); "
      "print(len(d), d['model.map_layer0.weight'].double().sum().item())";
  const std::string command = "'" + std::string(python) + "' -c \"" + script + "\" '" +
                              path("edm.pt") + "' > '" + path("py.txt") + "'";
  ASSERT_EQ(std::system(command.c_str()), 0);
  const TensorMap tensors = load_tensors(path("edm.safetensors"));
  std::ifstream in(path("py.txt"));
  std::size_t count = 0;
  double sum = 0;
  in >> count >> sum;
  EXPECT_EQ(count, tensors.size());
  EXPECT_NEAR(sum, tensors.at("model.map_layer0.weight").to(at::kDouble).sum().item<double>(),
              1e-9);
}

}  // namespace
}  // namespace flowmap::testing
