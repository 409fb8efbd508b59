// TorchFile on files that Python wrote, and Python on files that we wrote.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>

#include "flowmap/base/error.h"
#include "flowmap/formats/safetensors.h"
#include "flowmap/formats/torch_file.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using testing::bytes_of;
using ::testing::ElementsAre;
using testing::values_of;

std::vector<std::string> names(const std::vector<TorchEntry>& entries) {
  std::vector<std::string> out;
  for (const auto& entry : entries) out.push_back(entry.name);
  return out;
}

float from_half(std::uint16_t bits) {
  const int exponent = bits >> 10 & 0x1F, mantissa = bits & 0x3FF;
  const float magnitude =
      exponent ? std::ldexp(1024.f + static_cast<float>(mantissa), exponent - 25)
               : std::ldexp(static_cast<float>(mantissa), -24);
  return bits & 0x8000 ? -magnitude : magnitude;
}

// The networks in EDM's snapshots against the same weights in safetensors.
TEST(TorchFilePython, EdmSnapshots) {
  int halves = 0;
  for (const std::string name :
       {"edm_snapshot_ddpmpp", "edm_snapshot_adm", "edm2_snapshot"}) {
    const auto folder = testing::reference_folder() / "networks";
    FM_NEED_FILE(folder / (name + ".pkl"));
    FM_NEED_FILE(folder / (name + ".safetensors"));
    const TorchFile file(folder / (name + ".pkl"));
    EXPECT_EQ(file.format(), TorchFileFormat::pickle);
    const SafetensorsReader expected(folder / (name + ".safetensors"));
    const auto entries = file.flatten({.key = "ema"});
    std::string order;
    for (const auto& entry : entries)
      order += (order.empty() ? "[\"" : ", \"") + entry.name + "\"";
    EXPECT_EQ(order + "]", expected.metadata().at("state_order")) << name;
    for (const auto& entry : entries) {
      const HostTensor same = expected.read(entry.name), got = entry.tensor.read();
      EXPECT_EQ(got.shape, same.shape) << entry.name;
      ASSERT_EQ(same.dtype, DType::F32);
      if (got.dtype == DType::F32) {
        EXPECT_EQ(got.bytes, same.bytes) << entry.name;
      } else {
        ASSERT_EQ(got.dtype, DType::F16) << entry.name;
        ++halves;
        const auto half = values_of<std::uint16_t>(got.bytes);
        const auto full = values_of<float>(same.bytes);
        for (std::size_t i = 0; i < half.size(); ++i)
          EXPECT_EQ(from_half(half[i]), full[i]) << entry.name;
      }
    }
  }
  EXPECT_GT(halves, 20) << "EDM2 keeps weights as float16";
}

TEST(TorchFilePython, EdmTrainingState) {
  const auto path = testing::reference_folder() / "networks" / "edm_training_state.pt";
  FM_NEED_FILE(path);
  const TorchFile file(path);
  EXPECT_EQ(file.format(), TorchFileFormat::zip);
  const auto network = file.flatten({.key = "net"});
  EXPECT_GT(network.size(), 50u);
  for (const auto& entry : network) {
    EXPECT_THAT(entry.name, ::testing::StartsWith("model."));
    EXPECT_EQ(entry.tensor.read().bytes.size(), entry.tensor.storage->bytes().size());
  }
  EXPECT_GT(file.flatten({.key = "optimizer_state"}).size(), network.size());
}

TEST(TorchFilePython, RealCheckpoints) {
  const auto data = testing::data_folder();
  for (const auto& [name, tensors, format] :
       std::vector<std::tuple<std::string, std::size_t, TorchFileFormat>>{
           {"checkpoints/ddpm_mnist_starter.pth", 29, TorchFileFormat::zip},
           {"checkpoints/sdaloglu_ddpm_mnist_all.pth", 29, TorchFileFormat::zip},
           {"lpips/alex.pth", 5, TorchFileFormat::legacy},
           {"lpips/squeeze.pth", 7, TorchFileFormat::legacy},
           {"lpips/vgg.pth", 5, TorchFileFormat::legacy}}) {
    FM_NEED_FILE(data / name);
    const TorchFile file(data / name);
    EXPECT_EQ(file.format(), format) << name;
    const auto entries = file.flatten();
    EXPECT_EQ(entries.size(), tensors) << name;
    for (const auto& entry : entries)
      EXPECT_EQ(entry.tensor.read().bytes.size(),
                static_cast<std::size_t>(entry.tensor.numel()) *
                    dtype_size(entry.tensor.dtype));
  }
}

// Against Python: FLOWMAP_PEERS_PYTHON names an interpreter with torch.
TEST(TorchFilePython, PythonReadsAndWrites) {
  const char* python = std::getenv("FLOWMAP_PEERS_PYTHON");
  if (!python) GTEST_SKIP() << "FLOWMAP_PEERS_PYTHON names no Python with torch";
  const testing::ScratchFolder folder;
  const testing::Bytes six = bytes_of(std::vector<float>{0, 1, 2, 3, 4, 5});
  const std::vector<TorchItem> items{{"a", DType::F32, {2, 3}, six},
                                     {"tied", DType::F32, {6}, six},
                                     {"half", DType::F16, {12}, six},
                                     {"empty", DType::I64, {0, 2}, {}},
                                     {"scalar", DType::F64, {}, std::span(six).first(8)}};
  write_torch_file(folder / "ours.pt", std::vector<TorchSection>{{"ema", items}});
  testing::put_file(folder / "check.py", R"(import sys, torch
folder = sys.argv[1]
for mmap in (False, True):
    ema = torch.load(folder + '/ours.pt', weights_only=True, mmap=mmap)['ema']
    assert list(ema) == ['a', 'tied', 'half', 'empty', 'scalar'], list(ema)
    assert torch.equal(ema['a'], torch.arange(6.).reshape(2, 3))
    assert ema['a'].data_ptr() == ema['tied'].data_ptr()
    assert ema['half'].dtype == torch.float16 and ema['half'].shape == (12,)
    assert ema['empty'].shape == (0, 2) and ema['empty'].dtype == torch.int64
    assert ema['scalar'].shape == () and ema['scalar'].dtype == torch.float64
x = torch.arange(24.).reshape(2, 3, 4)
state = {'model': {'x': x, 'turned': x.permute(2, 0, 1), 'part': x[1, :, 1::2],
                   'p': torch.nn.Parameter(x.bfloat16()), 'flag': x > 3,
                   'buffer': torch.nn.Buffer(x.long())},
         'linear': torch.nn.Linear(2, 3), 'step': 5}
torch.save(state, folder + '/new.pt')
torch.save({k: v for k, v in state.items() if k != 'linear'}, folder + '/old.pt',
           _use_new_zipfile_serialization=False)
torch.save({'x': x.to(torch.uint16)}, folder + '/u16.pt')
)");
  const std::string command = std::string(python) + " " + (folder / "check.py").string() +
                              " " + folder.path().string();
  ASSERT_EQ(std::system(command.c_str()), 0) << command;
  for (const char* name : {"new.pt", "old.pt"}) {
    const TorchFile file(folder / name);
    const auto entries = file.flatten({.key = "model"});
    EXPECT_THAT(names(entries),
                ElementsAre("x", "turned", "part", "p", "flag", "buffer"));
    std::vector<float> turned, part;
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 6; ++i) turned.push_back(static_cast<float>(i * 4 + k));
    for (int j = 0; j < 3; ++j)
      for (const int k : {1, 3}) part.push_back(static_cast<float>(12 + j * 4 + k));
    EXPECT_EQ(values_of<float>(entries[1].tensor.read().bytes), turned);
    EXPECT_EQ(values_of<float>(entries[2].tensor.read().bytes), part);
    EXPECT_EQ(entries[0].tensor.storage, entries[2].tensor.storage);
    EXPECT_TRUE(entries[3].tensor.is_parameter);
    EXPECT_EQ(entries[3].tensor.dtype, DType::BF16);
    EXPECT_EQ(entries[4].tensor.dtype, DType::BOOL);
    EXPECT_EQ(file.at("step").as_int("step"), 5);
  }
  EXPECT_THAT(names(TorchFile(folder / "new.pt").flatten({.key = "linear"})),
              ElementsAre("weight", "bias"));
  EXPECT_THROW(TorchFile(folder / "u16.pt").flatten(), DataError);
}

}  // namespace
}  // namespace flowmap
