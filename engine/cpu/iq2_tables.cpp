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
    tables.first_codes[v] = static_cast<std::uint8_t>(quant::kIq2XxsGrid[v] & 255);
    tables.last_codes[v] = static_cast<std::uint8_t>(quant::kIq2XxsGrid[v] >> 8);
  }
  for (std::uint32_t pattern = 0; pattern < 128; ++pattern) {
    const std::uint8_t signs = quant::iq2_signs(pattern);
    tables.eight_signs[pattern] = signs;
    for (std::uint32_t i = 0; i < 8; ++i) {
      if ((signs >> i) & 1) tables.sign_bytes[pattern] |= std::uint64_t{0xFF} << (8 * i);
    }
  }
  for (std::uint32_t byte = 0; byte < 64; ++byte) {
    const std::uint32_t code = (byte >> 2) & 3;
    const int magnitude = code < 3 ? quant::kIq2Magnitudes[code] : 0;  // the grid has no code 3
    for (std::uint32_t half = 0; half < 2; ++half) {
      const bool is_negative = (byte >> (half == 0 ? 1 : 5)) & 1;
      tables.values[half][byte] =
          static_cast<std::uint8_t>(kIq2Bias + (is_negative ? -magnitude : magnitude));
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
