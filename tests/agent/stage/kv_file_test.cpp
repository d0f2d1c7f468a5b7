#include "agent/stage/kv_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <numeric>

namespace ds4::agent {
namespace {

using ::testing::HasSubstr;

constexpr KvPlace kPlace{.session = 7, .prefix_hash = 99, .context = 1000, .position = 12};
constexpr std::uint64_t kMaker = 5;

std::vector<std::byte> counting(std::size_t bytes) {
  std::vector<std::byte> all(bytes);
  for (std::size_t i = 0; i < bytes; ++i) all[i] = static_cast<std::byte>(i * 7);
  return all;
}

UniqueFd empty_file() {
  return UniqueFd(::memfd_create("saved", MFD_CLOEXEC));
}

UniqueFd file_of(std::span<const std::byte> bytes) {
  UniqueFd file = empty_file();
  EXPECT_EQ(::pwrite(file.get(), bytes.data(), bytes.size(), 0),
            static_cast<ssize_t>(bytes.size()));
  return file;
}

/// A file as write_kv_file() makes it, of `payload` in two pieces.
std::vector<std::byte> saved(std::span<const std::byte> payload) {
  const UniqueFd file = empty_file();
  const KvPieces pieces = {payload.first(payload.size() / 3), payload.subspan(payload.size() / 3)};
  EXPECT_TRUE(write_kv_file(file.get(), kPlace, kMaker, pieces, [] { return true; }));
  std::vector<std::byte> bytes(kKvHeaderBytes + payload.size());
  EXPECT_EQ(::pread(file.get(), bytes.data(), bytes.size(), 0), static_cast<ssize_t>(bytes.size()));
  return bytes;
}

/// All the payload, or the first error on the way to it.
Result<std::vector<std::byte>> load(std::span<const std::byte> bytes) {
  DS4_ASSIGN(KvFileReader reader, KvFileReader::open(file_of(bytes), "the file"));
  EXPECT_EQ(reader.header().place, kPlace);
  EXPECT_EQ(reader.header().maker, kMaker);
  std::vector<std::byte> payload(reader.header().payload_bytes);
  DS4_TRY(reader.read(payload));
  DS4_TRY(reader.finish());
  return payload;
}

TEST(KvFile, GivesBackWhatWasWritten) {
  for (const std::size_t size : {0, 1, 1000, 9'000'000}) {
    const auto payload = counting(size);
    const auto loaded = load(saved(payload));
    ASSERT_TRUE(loaded) << loaded.error().message;
    EXPECT_EQ(*loaded, payload);
  }
}

TEST(KvFile, AnyDamagedByteIsNoticed) {
  const auto good = saved(counting(50));
  for (std::size_t i = 0; i < good.size(); ++i) {
    auto bad = good;
    bad[i] ^= std::byte{0x10};
    const auto loaded = load(bad);
    ASSERT_FALSE(loaded) << "byte " << i;
    EXPECT_TRUE(loaded.error().code == ErrorCode::kCorrupt ||
                loaded.error().code == ErrorCode::kUnsupported);
    EXPECT_THAT(loaded.error().message, HasSubstr("the file"));
  }
}

TEST(KvFile, AnyShorterAndAnyLongerFileIsNoticed) {
  auto bytes = saved(counting(50));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_FALSE(load(std::span(bytes).first(size))) << size;
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(load(bytes));
}

TEST(KvFile, AReaderThatWantsMoreOrLessThanThereIsIsToldSo) {
  const auto bytes = saved(counting(50));
  std::vector<std::byte> payload(51);
  auto reader = KvFileReader::open(file_of(bytes), "the file");
  ASSERT_TRUE(reader);
  EXPECT_THAT(reader->read(payload).error().message, HasSubstr("less than"));
  ASSERT_TRUE(reader->read(std::span(payload).first(49)));
  EXPECT_THAT(reader->finish().error().message, HasSubstr("more than"));
}

TEST(KvFile, APlaceThatNoSessionHasIsRefused) {
  for (const KvPlace& place : {KvPlace{7, 99, 1000, 0}, KvPlace{7, 99, 1000, 1001}}) {
    const std::string header = encode(KvFileHeader{place, kMaker, 0, 0});
    ASSERT_EQ(header.size(), kKvHeaderBytes);
    const auto decoded = decode_kv_header(std::as_bytes(std::span(header)));
    ASSERT_FALSE(decoded);
    EXPECT_EQ(decoded.error().code, ErrorCode::kCorrupt);
  }
}

TEST(KvFile, AWriteThatNobodyWantsAnyMoreEndsWhereverItIs) {
  const auto payload = counting(20U << 20);
  const KvPieces pieces = {std::span(payload)};
  int steps = 0;
  ASSERT_TRUE(write_kv_file(empty_file().get(), kPlace, kMaker, pieces, [&] { return ++steps; }));
  ASSERT_EQ(steps, 2 * 5) << "each byte is hashed and written";
  for (int last = 1; last <= steps; ++last) {
    const UniqueFd file = empty_file();
    int asked = 0;
    const auto written =
        write_kv_file(file.get(), kPlace, kMaker, pieces, [&] { return ++asked < last; });
    ASSERT_FALSE(written) << last;
    EXPECT_EQ(written.error().code, ErrorCode::kCancelled);
    EXPECT_EQ(asked, last);
    // Nothing is written while it is hashed, and then no more than was asked for.
    const ::off_t most = last <= 5 ? 0 : kKvHeaderBytes + (::off_t{last - 6} << 22);
    EXPECT_EQ(::lseek(file.get(), 0, SEEK_END), most) << last;
  }
}

}  // namespace
}  // namespace ds4::agent
