#include "flowmap/tensor_io.h"

#include <gtest/gtest.h>

#include <ATen/ATen.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "flowmap/base/error.h"

namespace flowmap::testing {
namespace {

const std::vector<at::ScalarType> kTypes = {
    at::kDouble, at::kFloat, at::kHalf, at::kBFloat16, at::kLong,
    at::kInt,    at::kShort, at::kChar, at::kByte,     at::kBool};

std::filesystem::path scratch(const std::string& name) {
  return std::filesystem::path(::testing::TempDir()) / ("flowmap_tensor_io_" + name);
}

at::Tensor counting(at::IntArrayRef shape, at::ScalarType type) {
  int64_t n = 1;
  for (const int64_t size : shape) n *= size;
  return at::arange(n).reshape(shape).to(type);
}

TEST(TensorIo, EveryTypeSurvivesTheRoundTrip) {
  for (const auto type : kTypes) {
    SCOPED_TRACE(at::toString(type));
    EXPECT_EQ(scalar_type(file_dtype(type)), type);
    const at::Tensor x = counting({2, 3}, type);
    const HostTensor host = to_host(x);
    EXPECT_EQ(host.shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ(host.bytes.size(), 6 * dtype_size(host.dtype));
    const at::Tensor back = to_tensor(host);
    EXPECT_EQ(back.scalar_type(), type);
    EXPECT_TRUE(at::equal(back, x));
  }
  EXPECT_THROW(file_dtype(at::kComplexFloat), Error);
}

TEST(TensorIo, StridedScalarAndEmptyTensors) {
  const at::Tensor strided = counting({3, 4}, at::kFloat).t().slice(0, 1, 4, 2);
  EXPECT_TRUE(at::equal(to_tensor(to_host(strided)), strided));
  const at::Tensor scalar = at::full({}, 2.5);
  EXPECT_TRUE(at::equal(to_tensor(to_host(scalar)), scalar));
  const at::Tensor empty = at::empty({0, 4});
  EXPECT_EQ(to_tensor(to_host(empty)).sizes(), empty.sizes());
  EXPECT_TRUE(
      at::equal(to_tensor(to_host(at::ones({2}).requires_grad_())), at::ones({2})));
}

TEST(TensorIo, TheResultOwnsItsMemory) {
  at::Tensor x = at::ones({3});
  HostTensor host = to_host(x);
  x.zero_();
  at::Tensor y = to_tensor(host);
  host.bytes.assign(host.bytes.size(), std::byte{0});
  EXPECT_TRUE(at::equal(y, at::ones({3})));
}

TEST(TensorIo, WrongSizesAndBoolBytesOfAnyValue) {
  HostTensor host{DType::F32, {2}, std::vector<std::byte>(7)};
  EXPECT_THROW(to_tensor(host), Error);
  host.shape = {-2};
  EXPECT_THROW(to_tensor(host), Error);
  const at::Tensor flags =
      to_tensor({DType::BOOL, {3}, {std::byte{0}, std::byte{2}, std::byte{255}}});
  EXPECT_EQ(flags.scalar_type(), at::kBool);
  EXPECT_TRUE(at::equal(flags.view(at::kByte), at::tensor({0, 1, 1}, at::kByte)));
  EXPECT_THROW(to_host(at::Tensor()), Error);
}

TEST(TensorIo, FilesKeepTensorsAndMetadata) {
  const auto path = scratch("file.safetensors");
  std::map<std::string, at::Tensor> tensors;
  for (const auto type : kTypes)
    tensors[std::string("t.") + at::toString(type)] = counting({2, 2}, type);
  tensors["strided"] = counting({3, 2}, at::kFloat).t();
  tensors["scalar"] = at::full({}, 7.0, at::kDouble);
  save_tensors(path, tensors, {{"format", "pt"}});
  const auto back = load_tensors(path);
  ASSERT_EQ(back.size(), tensors.size());
  for (const auto& [name, tensor] : tensors) {
    SCOPED_TRACE(name);
    ASSERT_TRUE(back.contains(name));
    EXPECT_EQ(back.at(name).scalar_type(), tensor.scalar_type());
    EXPECT_TRUE(at::equal(back.at(name), tensor));
  }
  const SafetensorsReader reader(path);
  EXPECT_EQ(reader.metadata().at("format"), "pt");
  EXPECT_TRUE(at::equal(read_tensor(reader, "strided"), tensors["strided"]));
  EXPECT_THROW(read_tensor(reader, "absent"), DataError);
  std::filesystem::remove(path);
}

TEST(TensorIo, UndefinedTensorsAreRefusedByName) {
  try {
    save_tensors(scratch("never.safetensors"), {{"weights.bad", at::Tensor()}});
    FAIL() << "nothing was thrown";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("weights.bad"), std::string::npos);
  }
  EXPECT_FALSE(std::filesystem::exists(scratch("never.safetensors")));
}

}  // namespace
}  // namespace flowmap::testing
