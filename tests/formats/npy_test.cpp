// .npy and .npz: numpy's own headers to the byte, every element type, both orders.
#include "flowmap/formats/npy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "flowmap/base/error.h"
#include "flowmap/formats/zip.h"
#include "tests/support/reference.h"
#include "tests/support/scratch.h"

namespace flowmap {
namespace {

using testing::Bytes;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using testing::little;

Bytes with_header(const std::string& header, const std::string& data, int version = 1) {
  return testing::to_bytes("\x93NUMPY" + std::string(1, static_cast<char>(version)) +
                           std::string(1, '\0') +
                           little(header.size(), version == 1 ? 2 : 4) + header + data);
}

std::string header_of(const std::string& descr, const std::string& shape,
                      const std::string& fortran = "False") {
  return "{'descr': '" + descr + "', 'fortran_order': " + fortran +
         ", 'shape': " + shape + ", }\n";
}

std::string refusal(const Bytes& bytes) {
  try {
    parse_npy(bytes, "test.npy");
  } catch (const DataError& error) {
    EXPECT_EQ(error.path(), "test.npy");
    return error.what();
  }
  ADD_FAILURE() << "was read: " << testing::to_text(bytes);
  return "";
}

TEST(Npy, HeaderAsNumpyWritesIt) {
  // np.save of float64 zeros(3): 118 bytes of header, data at 128.
  const HostTensor tensor{DType::F64, {3}, Bytes(24)};
  const std::string text = testing::to_text(format_npy(tensor));
  const std::string dict = "{'descr': '<f8', 'fortran_order': False, 'shape': (3,), }";
  ASSERT_EQ(text.size(), 128u + 24u);
  EXPECT_EQ(text.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_EQ(text.substr(10, 118), dict + std::string(117 - dict.size(), ' ') + "\n");
}

// numpy leaves room for 21 digits of the first size: this header would else fit in 128.
TEST(Npy, HeaderLeavesRoomToGrow) {
  const std::vector<std::int64_t> shape(18, 1);
  EXPECT_EQ(format_npy({DType::F64, shape, Bytes(8)}).size(), 192u + 8u);
  EXPECT_EQ(format_npy({DType::F64, {}, Bytes(8)}).size(), 128u + 8u);
}

TEST(Npy, RoundTripOfEveryType) {
  for (const DType dtype : {DType::F64, DType::F32, DType::F16, DType::I64, DType::I32,
                            DType::I16, DType::I8, DType::U8, DType::BOOL})
    for (const std::vector<std::int64_t>& shape :
         {std::vector<std::int64_t>{}, {1}, {0}, {2, 3}, {2, 0, 5}, {2, 3, 4, 5, 1}}) {
      HostTensor tensor{dtype, shape, {}};
      tensor.bytes.resize(
          static_cast<std::size_t>(checked_byte_size(shape, dtype, "test")));
      for (std::size_t i = 0; i < tensor.bytes.size(); ++i)
        tensor.bytes[i] =
            static_cast<std::byte>(dtype == DType::BOOL ? i % 2 : 255 - i * 37);
      const Bytes file = format_npy(tensor);
      EXPECT_EQ((file.size() - tensor.bytes.size()) % 64, 0u);
      const HostTensor read = parse_npy(file, "x");
      EXPECT_EQ(read.dtype, dtype);
      EXPECT_EQ(read.shape, shape);
      EXPECT_EQ(read.bytes, tensor.bytes);
    }
  EXPECT_THROW(format_npy({DType::BF16, {1}, Bytes(2)}), Error);
  EXPECT_THROW(format_npy({DType::F32, {1}, Bytes(2)}), Error);
}

TEST(Npy, ByteOrders) {
  const HostTensor f8 = parse_npy(
      with_header(header_of(">f8", "(1,)"), std::string("\x3F\xF8\0\0\0\0\0\0", 8)), "x");
  EXPECT_EQ(testing::values_of<double>(f8.bytes)[0], 1.5);
  const HostTensor i2 = parse_npy(
      with_header(header_of(">i2", "(2,)"), std::string("\x01\x02\xFF\xFE", 4)), "x");
  EXPECT_THAT(testing::values_of<std::int16_t>(i2.bytes), ElementsAre(258, -2));
  const HostTensor native =
      parse_npy(with_header(header_of("=i2", "(1,)"), std::string("\x01\x02", 2)), "x");
  EXPECT_THAT(testing::values_of<std::int16_t>(native.bytes), ElementsAre(513));
}

TEST(Npy, FortranOrder) {
  // Element (i, j, k) is 100 i + 10 j + k; the file runs fastest over i.
  std::vector<std::int16_t> file, expected;
  for (int k = 0; k < 4; ++k)
    for (int j = 0; j < 3; ++j)
      for (int i = 0; i < 2; ++i)
        file.push_back(static_cast<std::int16_t>(100 * i + 10 * j + k));
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j)
      for (int k = 0; k < 4; ++k)
        expected.push_back(static_cast<std::int16_t>(100 * i + 10 * j + k));
  const HostTensor read =
      parse_npy(with_header(header_of("<i2", "(2, 3, 4)", "True"),
                            testing::to_text(testing::bytes_of(file))),
                "x");
  EXPECT_EQ(testing::values_of<std::int16_t>(read.bytes), expected);
  const HostTensor empty =
      parse_npy(with_header(header_of("<i2", "(2, 0)", "True"), ""), "x");
  EXPECT_THAT(empty.shape, ElementsAre(2, 0));
}

TEST(Npy, UnsignedNumbersWiden) {
  const auto read = [](const char* descr, const Bytes& data) {
    return parse_npy(with_header(header_of(descr, "(2,)"), testing::to_text(data)), "x");
  };
  const HostTensor u2 = read("<u2", testing::bytes_of<std::uint16_t>({1, 65535}));
  EXPECT_EQ(u2.dtype, DType::I32);
  EXPECT_THAT(testing::values_of<std::int32_t>(u2.bytes), ElementsAre(1, 65535));
  const HostTensor u4 = read(">u4", testing::bytes_of<std::uint32_t>({1u << 24, ~0u}));
  EXPECT_EQ(u4.dtype, DType::I64);
  EXPECT_THAT(testing::values_of<std::int64_t>(u4.bytes), ElementsAre(1, 4294967295));
  const HostTensor u8 =
      read("<u8", testing::bytes_of<std::uint64_t>({1, (1ull << 63) - 1}));
  EXPECT_THAT(testing::values_of<std::int64_t>(u8.bytes),
              ElementsAre(1, std::numeric_limits<std::int64_t>::max()));
  EXPECT_THAT(refusal(with_header(header_of("<u8", "(1,)"), little(1ull << 63, 8))),
              HasSubstr("9223372036854775808"));
}

TEST(Npy, Texts) {
  for (const std::string& text :
       {std::string("clean"), std::string(""),
        std::string("gr\xC3\xB6\xC3\x9F"
                    "e"),
        std::string("\xE2\x82\xAC"), std::string("\xF0\x9F\x98\x80!")}) {
    const HostTensor read = parse_npy(format_npy_text(text), "x");
    EXPECT_EQ(read.dtype, DType::U8);
    EXPECT_EQ(testing::to_text(read.bytes), text);
    EXPECT_THAT(read.shape, ElementsAre(static_cast<std::int64_t>(text.size())));
  }
  const std::string file = testing::to_text(format_npy_text("abcde"));
  EXPECT_THAT(file, HasSubstr("{'descr': '<U5', 'fortran_order': False, 'shape': (), }"));
  EXPECT_EQ(testing::to_text(parse_npy(with_header(header_of(">U2", "()"),
                                                   std::string("\0\0\0a\0\0 \xAC", 8)),
                                       "x")
                                 .bytes),
            "a\xE2\x82\xAC");
  for (const char* bad : {"\xFF", "\xC3", "\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                          "\xE0\x80\x80", "\x80", "\xC3z"})
    EXPECT_THROW(format_npy_text(bad), Error) << bad;
  EXPECT_THAT(refusal(with_header(header_of("<U1", "()"), little(0xD800, 4))),
              HasSubstr("Unicode"));
  EXPECT_THAT(refusal(with_header(header_of("<U1", "()"), little(0x110000, 4))),
              HasSubstr("Unicode"));
  EXPECT_THAT(refusal(with_header(header_of("<U1", "(2,)"), little(0, 8))),
              HasSubstr("a single text"));
}

TEST(Npy, VersionsAndSpellings) {
  for (const int version : {1, 2, 3})
    EXPECT_EQ(
        parse_npy(with_header(header_of("|u1", "(2,)"), "ab", version), "x").bytes.size(),
        2u);
  for (const std::string& header :
       {std::string("{\"shape\":(2L,),\"descr\":\"u1\",\"fortran_order\":False}"),
        std::string(
            " { 'shape' : ( 2 , ) ,\n'fortran_order' : True , 'descr' : '|u1' } \n"),
        header_of("|b1", "(1, 2,)"), header_of("|i1", "(2, 1)"), header_of("?", "(2,)")})
    EXPECT_EQ(
        parse_npy(with_header(header, std::string("\x01\x00", 2)), "x").bytes.size(), 2u)
        << header;
}

TEST(Npy, RefusesHeaders) {
  EXPECT_THAT(refusal(testing::to_bytes("PK\x03\x04")), HasSubstr("signature"));
  EXPECT_THAT(refusal(with_header(header_of("|u1", "(1,)"), "a", 4)), HasSubstr("4.0"));
  EXPECT_THAT(refusal(with_header(header_of("|u1", "(1,)"), "a", 0)), HasSubstr("0.0"));
  EXPECT_THAT(refusal(with_header(header_of("|O", "(1,)"), "a")), HasSubstr("pickle"));
  EXPECT_THAT(refusal(with_header("{'descr': [('a', '<f4')], 'fortran_order': False, "
                                  "'shape': (1,), }",
                                  "aaaa")),
              HasSubstr("structured"));
  for (const char* descr : {"",      "<",    "f",   "<f",      "<f3",
                            "<f16",  "<c8",  "|S5", "<M8[ns]", "|V4",
                            "<i3",   "<u16", "|b2", "|f4",     "<f-4",
                            "<f+4",  "<f 4", "<x4", "<U",      "<U9999999999999999999",
                            "f4,f4", "<<f4"})
    refusal(with_header(header_of(descr, "(1,)"), "aaaa"));
  for (const char* shape :
       {"", "1", "(1)", "(-1,)", "(+1,)", "(1.0,)", "(1,,)", "(,)", "[1]", "(1,", "None",
        "(1 1)", "(1,)(", "('1',)", "(0x1,)", "(1LL,)", "(9223372036854775808,)",
        "(99999999999999999999999999,)"})
    refusal(with_header(header_of("|u1", shape), "a"));
  for (const char* fortran : {"", "0", "false", "Falsey", "'False'", "None"})
    refusal(with_header(header_of("|u1", "(1,)", fortran), "a"));
  for (const char* header :
       {"", "{", "{}", "{'descr': '|u1'}", "'descr'", "{'descr': '|u1', 'shape': (1,)}",
        "{'descr': '|u1', 'descr': '|u1', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), 'x': 1}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1,), }}",
        "{'descr' '|u1', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '|u1' 'fortran_order': False, 'shape': (1,), }"})
    refusal(with_header(header, "a"));
}

TEST(Npy, RefusesSizes) {
  EXPECT_THAT(refusal(with_header(header_of("<f4", "(2,)"), "aaaa")),
              HasSubstr("8 bytes for shape [2]"));
  EXPECT_THAT(refusal(with_header(header_of("<f4", "(1,)"), "aaaaa")),
              HasSubstr("got 5"));
  // Products that wrap to 0 or overflow, also beside a zero.
  for (const char* shape :
       {"(4294967296, 4294967296)", "(9223372036854775807, 2)", "(4611686018427387904,)",
        "(0, 4294967296, 4294967296)", "(4294967296, 4294967296, 0)"})
    EXPECT_THAT(refusal(with_header(header_of("<f4", shape), "")), HasSubstr("2^63"))
        << shape;
  std::string shape = "(";
  for (int i = 0; i < 65; ++i) shape += "1, ";
  EXPECT_THAT(refusal(with_header(header_of("|u1", shape + ")"), "a")), HasSubstr("64"));
  EXPECT_THAT(refusal(with_header(header_of("|b1", "(3,)"), "\x01\x01\x02")),
              HasSubstr("truth"));
}

TEST(Npz, RoundTrip) {
  const testing::ScratchFolder folder;
  const std::map<std::string, HostTensor> arrays = {
      {"mu", {DType::F64, {2}, testing::bytes_of<double>({1.25, -3})}},
      {"num_images", {DType::I64, {}, testing::bytes_of<std::int64_t>({50000})}}};
  const std::map<std::string, std::string> texts = {{"mode", "clean"}};
  write_npz(folder / "a.npz", arrays, texts);
  write_npz(folder / "b.npz", arrays, texts);
  EXPECT_EQ(testing::file_bytes(folder / "a.npz"), testing::file_bytes(folder / "b.npz"));
  const auto read = read_npz(folder / "a.npz");
  ASSERT_EQ(read.size(), 3u);
  EXPECT_EQ(read.at("mu").bytes, arrays.at("mu").bytes);
  EXPECT_TRUE(read.at("num_images").shape.empty());
  EXPECT_EQ(testing::to_text(read.at("mode").bytes), "clean");
  EXPECT_THROW(write_npz(folder / "c.npz", arrays, {{"mu", "x"}}), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "c.npz"));
  write_npy(folder / "x.npy", arrays.at("mu"));
  EXPECT_EQ(read_npy(folder / "x.npy").bytes, arrays.at("mu").bytes);
}

TEST(Npz, ErrorsNameTheEntry) {
  const testing::ScratchFolder folder;
  ZipWriter writer(folder / "x.npz");
  writer.add("readme.txt", "not an array, passed over");
  writer.add("bad.npy", "nonsense");
  writer.commit();
  try {
    read_npz(folder / "x.npz");
    FAIL();
  } catch (const DataError& error) {
    EXPECT_THAT(error.what(), HasSubstr("x.npz:bad.npy"));
  }
}

// Statistics files that numpy, pytorch-fid, clean-fid and others wrote.
class NpzReference : public ::testing::Test {
 protected:
  std::filesystem::path folder = testing::reference_folder() / "metrics" / "stats_files";
};

TEST_F(NpzReference, OddFilesAgree) {
  FM_NEED_FILE(folder / "odd_big_endian.npz");
  const auto plain = read_npz(folder / "pytorch_fid_dims64.npz");
  const auto mu = testing::values_of<double>(plain.at("mu").bytes);
  const auto sigma = testing::values_of<double>(plain.at("sigma").bytes);
  EXPECT_DOUBLE_EQ(mu[0], 1.5286600172519684);
  double trace = 0;
  for (int i = 0; i < 64; ++i) trace += sigma[65 * i];
  EXPECT_NEAR(trace, 3.6055160429512494, 1e-12);
  for (const char* name : {"odd_big_endian.npz", "odd_npy_version_2.npz"}) {
    const auto odd = read_npz(folder / name);
    for (const char* key : {"mu", "sigma"}) {
      EXPECT_EQ(odd.at(key).dtype, DType::F64);
      EXPECT_EQ(odd.at(key).shape, plain.at(key).shape);
      EXPECT_EQ(odd.at(key).bytes, plain.at(key).bytes) << name;
    }
  }
  const auto fortran = read_npz(folder / "odd_fortran_float32_extra_keys.npz");
  const auto sigma32 = testing::values_of<float>(fortran.at("sigma").bytes);
  ASSERT_EQ(sigma32.size(), sigma.size());
  for (std::size_t i = 0; i < sigma.size(); ++i)
    ASSERT_EQ(sigma32[i], static_cast<float>(sigma[i])) << i;
  EXPECT_EQ(fortran.at("note").shape.size(), 1u);
  EXPECT_EQ(fortran.at("num_images").dtype, DType::I64);
}

TEST_F(NpzReference, WritesWhatNumpyWrites) {
  FM_NEED_FILE(folder / "edm.npz");
  for (const char* name : {"edm.npz", "adm_reference.npz", "pytorch_fid_dims64.npz",
                           "cleanfid_example_clean_custom_na_kid.npz"}) {
    const ZipReader archive(folder / name);
    for (std::size_t i = 0; i < archive.size(); ++i) {
      const Bytes bytes = archive.read(i);
      EXPECT_EQ(format_npy(parse_npy(bytes, name)), bytes)
          << name << " " << archive.name(i);
    }
  }
  const ZipReader archive(folder / "odd_fortran_float32_extra_keys.npz");
  const Bytes note = archive.read("note.npy");
  EXPECT_EQ(format_npy_text(testing::to_text(parse_npy(note, "note").bytes)), note);
}

TEST_F(NpzReference, TruncatedFileIsRefused) {
  FM_NEED_FILE(folder / "bad_truncated.npz");
  EXPECT_THROW(read_npz(folder / "bad_truncated.npz"), DataError);
  // Wrong in what they mean, not in how they are stored: whoever reads statistics refuses
  // these.
  EXPECT_EQ(read_npz(folder / "bad_missing_sigma.npz").size(), 1u);
  EXPECT_EQ(read_npz(folder / "bad_shape.npz").at("mu").shape[0], 63);
  EXPECT_EQ(read_npz(folder / "bad_nan.npz").size(), 2u);
}

}  // namespace
}  // namespace flowmap
