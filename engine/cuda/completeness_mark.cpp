#include "engine/cuda/completeness_mark.h"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>
#include <cstring>
#include <type_traits>

namespace ds4::cuda {
namespace {

constexpr std::uint64_t kMagic = 0x6b72614d34736444;  // "Dds4Mark"
constexpr std::uint64_t kMaxSamples = 32;  // of each part: read back in less than a millisecond

/// The mark as it stands in memory, in the machine's byte order: it never leaves the machine.
struct Stored {
  std::uint64_t magic;
  std::uint32_t layout;
  std::uint32_t reserved;
  std::array<char, 32> fingerprint;
  std::array<char, 16> part;
  std::uint64_t payload_bytes, geometry_hash, samples_hash;
  std::uint64_t check;  // of everything before it
};
static_assert(std::is_trivially_copyable_v<Stored> && sizeof(Stored) <= kMarkBytes);
static_assert(std::has_unique_object_representations_v<Stored>);

std::uint64_t check_of(const Stored& stored) {
  return XXH3_64bits(&stored, offsetof(Stored, check));
}

/// Padded with zeros; what does not fit is cut off.
template <std::size_t kSize>
void put(std::string_view text, std::array<char, kSize>& field) {
  text.copy(field.data(), field.size());
}

template <std::size_t kSize>
std::string get(const std::array<char, kSize>& field) {
  return {field.begin(), std::ranges::find(field, '\0')};
}

}  // namespace

std::uint64_t hash_bytes(std::span<const std::byte> bytes) {
  return XXH3_64bits(bytes.data(), bytes.size());
}

std::uint64_t hash_geometry(const DevicePlan& plan) {
  static_assert(std::has_unique_object_representations_v<Extent>);
  return hash_bytes(std::as_bytes(plan.extents()));
}

std::vector<std::uint64_t> sample_places(const DevicePlan& plan) {
  const std::uint64_t pages = (plan.payload_bytes() + kSampleBytes - 1) / kSampleBytes;
  const std::uint64_t count = std::min(pages, kMaxSamples);
  std::vector<std::uint64_t> places;
  for (std::uint64_t i = 0; i < count; ++i) {
    // Exact for the first and the last page; `i * pages` stays far from overflow.
    const std::uint64_t page = count == 1 ? 0 : i * (pages - 1) / (count - 1);
    places.push_back(page * kSampleBytes);
  }
  return places;
}

MarkBytes encode(const CompletenessMark& mark) {
  Stored stored{};
  stored.magic = kMagic;
  stored.layout = kWeightLayout;
  put(mark.fingerprint, stored.fingerprint);
  put(mark.part, stored.part);
  stored.payload_bytes = mark.payload_bytes;
  stored.geometry_hash = mark.geometry_hash;
  stored.samples_hash = mark.samples_hash;
  stored.check = check_of(stored);
  MarkBytes bytes{};
  std::memcpy(bytes.data(), &stored, sizeof stored);
  return bytes;
}

Result<CompletenessMark> decode(std::span<const std::byte, kMarkBytes> bytes) {
  Stored stored;
  std::memcpy(&stored, bytes.data(), sizeof stored);
  if (stored.magic != kMagic || stored.check != check_of(stored)) {
    return fail(ErrorCode::kCorrupt,
                "there is no completeness mark: the load that filled this "
                "memory did not end");
  }
  if (stored.layout != kWeightLayout) {
    return fail(ErrorCode::kMismatch,
                fmt::format("its weights are in layout {}, and this engine reads layout {}",
                            stored.layout, kWeightLayout));
  }
  CompletenessMark mark;
  mark.fingerprint = get(stored.fingerprint);
  mark.part = get(stored.part);
  mark.payload_bytes = stored.payload_bytes;
  mark.geometry_hash = stored.geometry_hash;
  mark.samples_hash = stored.samples_hash;
  return mark;
}

Result<void> check_same(const CompletenessMark& found, const CompletenessMark& wanted) {
  const auto differs = [](std::string what) { return fail(ErrorCode::kMismatch, std::move(what)); };
  if (found.fingerprint != wanted.fingerprint) {
    return differs(fmt::format("it holds weights of the model {}, and the file is {}",
                               found.fingerprint, wanted.fingerprint));
  }
  if (found.part != wanted.part) {
    return differs(fmt::format("it holds part {}, and {} is wanted", found.part, wanted.part));
  }
  if (found.payload_bytes != wanted.payload_bytes || found.geometry_hash != wanted.geometry_hash) {
    return differs("its weights are arranged otherwise");
  }
  if (found.samples_hash != wanted.samples_hash) {
    return differs("its bytes have changed since it was filled");
  }
  return {};
}

}  // namespace ds4::cuda
