#include "engine/cpu/iq2_tables.h"

#include "engine/quant/iq2_xxs.h"

namespace ds4::cpu {
namespace {

Iq2Tables make_tables() {
  Iq2Tables tables{};
  for (std::uint32_t v = 0; v < 256; ++v) {
    for (std::uint32_t i = 0; i < 8; ++i) {
      const std::uint64_t magnitude = quant::kIq2Magnitudes[(quant::kIq2XxsGrid[v] >> (2 * i)) & 3];
      tables.biased_grid[v] |= (magnitude + kIq2Bias) << (8 * i);
    }
  }
  for (std::uint32_t pattern = 0; pattern < 128; ++pattern) {
    const std::uint8_t signs = quant::iq2_signs(pattern);
    for (std::uint32_t i = 0; i < 8; ++i) {
      if ((signs >> i) & 1) tables.sign_bytes[pattern] |= std::uint64_t{0xFF} << (8 * i);
    }
  }
  return tables;
}

}  // namespace

const Iq2Tables& iq2_tables() {
  static const Iq2Tables tables = make_tables();
  return tables;
}

}  // namespace ds4::cpu
