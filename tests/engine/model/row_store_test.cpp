#include "engine/model/row_store.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

namespace ds4 {
namespace {

using Floats = std::vector<float>;

const cpu::Ops& ops() {
  return cpu::ops_for(cpu::Isa::kScalar);
}

Floats random_row(std::size_t n, float spread, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> value(0, spread);
  Floats row(n);
  for (float& one : row) one = value(random);
  return row;
}

/// Puts the row into the middle of three, and `read` gets it from there.
template <typename Read>
Floats stored(const RowFormat& format, const Floats& row, const Read& read) {
  std::vector<std::byte> bytes(3 * format.row_bytes(), std::byte{0xAA});
  RowStore store(bytes.data(), format, ops());
  store.put(1, row.data());
  for (std::size_t i = 0; i < format.row_bytes(); ++i) {
    EXPECT_EQ(bytes[i], std::byte{0xAA});
    EXPECT_EQ(bytes[2 * format.row_bytes() + i], std::byte{0xAA});
  }
  return read(store);
}

Floats stored(const RowFormat& format, const Floats& row) {
  return stored(format, row, [&](const RowStore& store) {
    Floats scratch(row.size());
    const float* found = store.get(1, scratch.data());
    return Floats(found, found + row.size());
  });
}

/// As spread out for scoring.
Floats stored_fp4(const Floats& row) {
  const std::size_t n = row.size();
  return stored(RowFormat::fp4(static_cast<std::uint32_t>(n)), row, [&](const RowStore& store) {
    Floats memory(cpu::kKeyTile * n), values(n);
    const auto keys = cpu::Fp4Keys::in(memory.data(), n);
    ops().index_fp4.spread(store.fp4(1), 1, keys);
    for (std::size_t i = 0; i < n; ++i) {
      const int biased = keys.values[i / 4 * cpu::kKeyTile * 4 + i % 4];
      values[i] = static_cast<float>(biased - 12) * keys.scales[i / cpu::kFp4Block * cpu::kKeyTile];
    }
    return values;
  });
}

TEST(RowFormat, TakesTheBytesItsCodingNeeds) {
  EXPECT_EQ(RowFormat::floats(512).row_bytes(), 2048u);
  // 448 codes, 7 exponents and a byte of padding, 64 floats.
  EXPECT_EQ(RowFormat::fp8(512, 448).row_bytes(), 448u + 8 + 256);
  EXPECT_EQ(RowFormat::fp8(64, 48).row_bytes(), 48u + 4 + 64);
  EXPECT_EQ(RowFormat::fp4(128).row_bytes(), 64u + 4);
}

TEST(RowStore, FloatsComeBackAsTheyAre) {
  const Floats row = random_row(48, 1e10f, 1);
  EXPECT_EQ(stored(RowFormat::floats(48), row), row);
}

TEST(RowStore, Fp8LosesNothingOfARoundedRow) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const float spread = std::exp2f(static_cast<float>(seed % 50) - 30);
    Floats row = random_row(512, spread, seed);
    ops().round_fp8(row.data(), 448);
    EXPECT_EQ(stored(RowFormat::fp8(512, 448), row), row) << "spread " << spread;
  }
}

TEST(RowStore, Fp8HoldsShortBlocksAndNoCodesAtAll) {
  Floats row = random_row(64, 1, 2);
  EXPECT_EQ(stored(RowFormat::fp8(64, 0), row), row);
  ops().round_fp8(row.data(), 48);
  EXPECT_EQ(stored(RowFormat::fp8(64, 48), row), row);
}

TEST(RowStore, Fp4LosesNothingOfARoundedRow) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    const float spread = std::exp2f(static_cast<float>(seed) - 100);
    Floats row = random_row(128, spread, seed);
    ops().hadamard(row.data(), 128);
    ops().round_fp4(row.data(), 128);
    EXPECT_EQ(stored_fp4(row), row) << "spread " << spread;
  }
}

TEST(RowStore, ZerosAreZeros) {
  const Floats row(128, 0.0f);
  EXPECT_EQ(stored(RowFormat::fp8(128, 64), row), row);
  EXPECT_EQ(stored_fp4(row), row);
}

}  // namespace
}  // namespace ds4
