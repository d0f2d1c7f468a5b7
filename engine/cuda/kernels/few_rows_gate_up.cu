// Gate and up of few rows' experts, the routed ones in IQ2_XXS.
//
// With so few rows it is unpacking that takes the time, and of that what shared memory gives in a
// cycle: two look-ups for eight weights. So the tables have a copy for each lane, a block is as
// large as a multiprocessor, and there is one for each. A block walks its share of the groups'
// units, four rows of gate and of up each, which a warp computes: eight lanes share a row, and one
// has a segment. What a warp has unpacked meets up to kRows rows of activations.
#include <algorithm>

#include "engine/cuda/kernels/few_rows.h"
#include "engine/cuda/kernels/one_row.cuh"

namespace ds4::cuda {
namespace {

constexpr std::uint32_t kWarps = 16;
constexpr std::uint32_t kRows = 2;  // of activations, at once
using Input = PaddedRow<8, kSegment>;
constexpr std::uint32_t kCols = 8 * kSegment;
constexpr std::uint32_t kRowBytes = kCols / 256 * 66, kMatrixBytes = kUnitRows * kRowBytes;
constexpr std::uint32_t kHalves = kCols / kChunkCols;  // of a row of the shared expert
constexpr std::uint32_t kSharedBytes = 2 * kHalves * kChunkBytes;
constexpr std::uint32_t kSlotBytes = std::max(2 * kMatrixBytes, kSharedBytes);

/// Entry n is two rows of 32 copies: vector n, and (below 128) the pattern n of signs. It lies at
/// an address whose lower 16 bits are n times 256, so that an instruction makes an address.
class VectorTable {
 public:
  static constexpr std::uint32_t kBytes = 256 * kIq2Vectors, kAlign = 1 << 16;

  /// By all threads of a block; they must meet before the table is read. `place`: of kBytes,
  /// aligned to kAlign in shared memory.
  __device__ __forceinline__ VectorTable(std::uint8_t* place, const std::uint16_t* grid)
      : lane_(shared_address(place) | 4 * (threadIdx.x % kWarp)) {
    for (std::uint32_t i = threadIdx.x; i < 2 * kIq2Vectors; i += blockDim.x) {
      const std::uint32_t n = i / 2;
      if (i % 2 != 0 && n >= 128) continue;
      const std::uint32_t entry = i % 2 == 0 ? magnitude_nibbles(grid[n]) : sign_nibbles(n);
      // Lanes begin at different copies, or they would all meet in the same banks.
      for (std::uint32_t c = 0; c < 8; ++c)
        reinterpret_cast<uint4*>(place + 128 * i)[(c + i) % 8] =
            make_uint4(entry, entry, entry, entry);
    }
  }
  /// Vector kVector of a group, `q` being its eight bytes.
  template <std::uint32_t kVector>
  __device__ __forceinline__ uint2 vector(const uint2& q) const {
    constexpr std::uint32_t kNumberAt = 8;
    std::uint32_t at, sign_at = q.y, n, sign;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(at) : "r"(q.x), "r"(lane_), "n"(0x7604 | kVector << 4));
    if constexpr (7 * kVector < kNumberAt)
      sign_at <<= kNumberAt - 7 * kVector;
    else
      sign_at >>= 7 * kVector - kNumberAt;
    sign_at = (sign_at & 127 << kNumberAt) | lane_;
    asm("ld.shared.u32 %0, [%1];" : "=r"(n) : "r"(at));
    asm("ld.shared.u32 %0, [%1+128];" : "=r"(sign) : "r"(sign_at));
    n |= sign;
    // No nibble has its highest bit, which __byte_perm() would clear first.
    uint2 v;
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v.x) : "r"(kIq2Plus), "r"(kIq2Minus), "r"(n));
    asm("prmt.b32 %0, %1, %2, %3;" : "=r"(v.y) : "r"(kIq2Plus), "r"(kIq2Minus), "r"(n >> 16));
    return v;
  }

 private:
  const std::uint32_t lane_;
};

/// Of a block, beside the table: before it as many warps' weights as there is room for, behind it
/// this, with the others'.
struct Memory {
  Input x[kRows];
  float sums[kWarps][kHalves][2 * kChunkSegments];
  PhaseBarrier full[kWarps], empty[kWarps];
  alignas(128) std::uint8_t weights[kWarps][kSlotBytes];  // not all of them
};
/// Addresses in shared memory.
constexpr std::uint32_t kTableAt = VectorTable::kAlign;
constexpr std::uint32_t kMemoryAt = kTableAt + VectorTable::kBytes;
/// What the driver keeps at the beginning, at most.
constexpr std::uint32_t kBaseAt = 1024;
constexpr std::uint32_t kSlotsBefore = (kTableAt - kBaseAt) / kSlotBytes;
constexpr std::uint32_t kEnd =
    kMemoryAt + sizeof(Memory) - std::min(kSlotsBefore, kWarps) * kSlotBytes;

/// A unit times kCount rows of activations: acc[row][gate or up] of the lane's segment.
template <std::uint32_t kCount>
__device__ __forceinline__ void multiply_unit(const std::uint8_t* unit, const VectorTable& table,
                                              const Input (&x)[kRows], float (&acc)[kRows][2]) {
  constexpr std::uint32_t kWords = 33, kMatrixWords = kMatrixBytes / 4;
  const std::uint32_t lane = threadIdx.x % kWarp, segment = lane % 8;
  const auto* w = reinterpret_cast<const std::uint32_t*>(unit) + kWords * lane;
  const std::uint32_t column = segment * Input::kPitch;
  const auto group = [&](std::uint32_t g, const uint2(&q)[2], const float(&d)[2]) {
    uint2 v[2][4];
    float scale[2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      v[m][0] = table.vector<0>(q[m]), v[m][1] = table.vector<1>(q[m]);
      v[m][2] = table.vector<2>(q[m]), v[m][3] = table.vector<3>(q[m]);
      scale[m] = w_scale_iq2_xxs(d[m], q[m].y >> 28);
    }
#pragma unroll
    for (std::uint32_t r = 0; r < kCount; ++r) {
      std::uint32_t hi[8], lo[8];
      load_group(x[r].hi + column + 32 * g, hi);
      load_group(x[r].lo + column + 32 * g, lo);
#pragma unroll
      for (int m = 0; m < 2; ++m) {
        int h = 0, l = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          h = multiply_four(v[m][i].y, hi[2 * i + 1], multiply_four(v[m][i].x, hi[2 * i], h));
          l = multiply_four(v[m][i].y, lo[2 * i + 1], multiply_four(v[m][i].x, lo[2 * i], l));
        }
        acc[r][m] = add_block(acc[r][m], plane_sum(h, l), scale[m], x[r].scale[segment][g]);
      }
    }
  };
  // The first block's groups lie between words, behind its scale; the second's in words.
  std::uint32_t before[2] = {w[0], w[kMatrixWords]};
  float d[2] = {half_bits(before[0] & 0xFFFF), half_bits(before[1] & 0xFFFF)};
#pragma unroll 2
  for (std::uint32_t g = 0; g < 8; ++g) {
    uint2 q[2];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const std::uint32_t a = w[m * kMatrixWords + 2 * g + 1], b = w[m * kMatrixWords + 2 * g + 2];
      q[m] = {__funnelshift_r(before[m], a, 16), __funnelshift_r(a, b, 16)};
      before[m] = b;
    }
    group(g, q, d);
  }
  d[0] = half_bits(before[0] >> 16), d[1] = half_bits(before[1] >> 16);
#pragma unroll 2
  for (std::uint32_t g = 0; g < 8; ++g) {
    const std::uint32_t *a = w + 17 + 2 * g, *b = a + kMatrixWords;
    const uint2 q[2] = {{a[0], a[1]}, {b[0], b[1]}};
    group(8 + g, q, d);
  }
}

/// Adds up what the lanes of each row have, segment after segment. Row lane / 8 of the unit.
__device__ __forceinline__ float add_unit(const float (&acc)[2], float limit) {
  float total[2] = {};
#pragma unroll
  for (std::uint32_t s = 0; s < 8; ++s)
#pragma unroll
    for (int m = 0; m < 2; ++m)
      total[m] =
          __fadd_rn(total[m], __shfl_sync(kFullWarp, acc[m], (threadIdx.x % kWarp & 24) | s));
  return gated(total[0], total[1], limit);
}

/// The shared expert of a call's only row: a warp has a row of gate and of up, if there are so
/// many, and has it copied before anything is known of the activations.
struct SharedRow {
  std::uint32_t row;
  bool active;

  __device__ __forceinline__ explicit SharedRow(const ExpertProducts& e)
      : row(threadIdx.x / kWarp * gridDim.x + blockIdx.x),
        active(e.rows == 1 && row < e.shared_gate.rows) {}
  /// By one lane of the warp. Chunks of the first half of the columns come first.
  __device__ __forceinline__ void start(const ExpertProducts& e, std::uint8_t* place,
                                        PhaseBarrier& full) const {
    full.expect_more(kSharedBytes);
    for (std::uint32_t i = 0; i < 2 * kHalves; ++i) {
      const DeviceMatrix& matrix = i % 2 == 0 ? e.shared_gate : e.shared_up;
      full.bulk_copy(place + i * kChunkBytes,
                     matrix.data + row * matrix.row_bytes + i / 2 * kChunkBytes, kChunkBytes);
    }
  }
  __device__ __forceinline__ void multiply(const ExpertProducts& e, std::uint8_t* place,
                                           PhaseBarrier& full,
                                           float (&sums)[kHalves][2 * kChunkSegments]) const {
    const std::uint32_t lane = threadIdx.x % kWarp;
    for (std::uint32_t half = 0; half < kHalves; ++half) {
      Q8Chunks<2> chunks;
      chunks.find(place + half * 2 * kChunkBytes);
      chunks.multiply(full, e.x_integers, half * kChunkCols + 64 * lane, sums[half]);
    }
    __syncwarp();
    if (lane != 0) return;
    float total[2] = {};
    for (std::uint32_t m = 0; m < 2; ++m)
      for (std::uint32_t s = 0; s < kHalves * kChunkSegments; ++s)
        total[m] =
            __fadd_rn(total[m], sums[s / kChunkSegments][m * kChunkSegments + s % kChunkSegments]);
    e.hidden[std::size_t{e.used} * e.gate.first.rows + row] =
        __float2half_rn(gated(total[0], total[1], e.limit));
  }
};

__global__ void __launch_bounds__(kWarps* kWarp, 1)
    gate_up_kernel(const __grid_constant__ ExpertProducts e, const std::uint16_t* iq2_grid) {
  extern __shared__ __align__(128) std::uint8_t base[];
  let_successor_start();
  const std::uint32_t warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const std::uint32_t base_at = shared_address(base);
  if (base_at > kBaseAt) __trap();  // base_is_known() has looked
  auto& memory = *reinterpret_cast<Memory*>(base + (kMemoryAt - base_at));
  std::uint8_t* place = warp < kSlotsBefore ? base + (kBaseAt - base_at) + warp * kSlotBytes
                                            : memory.weights[warp - kSlotsBefore];
  PhaseBarrier &full = memory.full[warp], &empty = memory.empty[warp];
  const SharedRow shared(e);
  std::uint32_t phases = 0;
  if (lane == 0) {
    full.init(1), empty.init(kWarp);
    PhaseBarrier::show_to_copies();
    if (shared.active) shared.start(e, place, full);
  }
  __syncwarp();
  const VectorTable table(base + (kTableAt - base_at), iq2_grid);
  wait_for_predecessor();
  const auto leave = [&] {
    leave_to_copies();
    empty.arrive();
    ++phases;
  };
  if (shared.active) {
    shared.multiply(e, place, full, memory.sums[warp]);
    leave();
  }
  const std::uint32_t of_group = e.gate.first.rows / kUnitRows;
  const std::uint32_t units = *e.groups.count * of_group;
  const auto share = [&](std::uint32_t block) {
    return static_cast<std::uint32_t>(std::uint64_t{units} * block / gridDim.x);
  };
  const std::uint32_t end = share(blockIdx.x + 1);
  for (std::uint32_t at = share(blockIdx.x), group_end; at < end; at = group_end) {
    const std::uint32_t group = at / of_group;
    group_end = min(end, (group + 1) * of_group);
    const std::uint32_t expert = e.groups.expert[group];
    const std::uint32_t entries_end = e.groups.begin[group + 1];
    for (std::uint32_t entry = e.groups.begin[group]; entry < entries_end; entry += kRows) {
      const std::uint32_t rows = min(entries_end - entry, kRows);
      __syncthreads();  // before the last entries' rows go
      for (std::uint32_t r = 0; r < rows; ++r)
        memory.x[r].fill(e.x_integers.only_row(e.groups.entry_row[entry + r]));
      __syncthreads();
      for (std::uint32_t unit = at + warp; unit < group_end; unit += kWarps) {
        const std::uint32_t first = (unit - group * of_group) * kUnitRows;
        if (lane == 0) {
          if (phases > 0) empty.wait(phases - 1);
          full.expect_more(2 * kMatrixBytes);
          full.bulk_copy(
              place, e.gate.first.data + expert * e.gate.stride + std::size_t{first} * kRowBytes,
              kMatrixBytes);
          full.bulk_copy(place + kMatrixBytes,
                         e.up.first.data + expert * e.up.stride + std::size_t{first} * kRowBytes,
                         kMatrixBytes);
        }
        wait_for_bytes(full, phases);
        float acc[kRows][2] = {};
        if (rows == 1)
          multiply_unit<1>(place, table, memory.x, acc);
        else
          multiply_unit<kRows>(place, table, memory.x, acc);
        leave();
#pragma unroll
        for (std::uint32_t r = 0; r < kRows; ++r) {
          const float value = add_unit(acc[r], e.limit);
          if (lane % 8 == 0 && r < rows)
            e.hidden[std::size_t{entry + r} * e.gate.first.rows + first + lane / 8] =
                __float2half_rn(value);
        }
      }
    }
  }
}

bool base_is_known() {
  int device = 0, kept = 0;
  cudaGetDevice(&device);
  return cudaDeviceGetAttribute(&kept, cudaDevAttrReservedSharedMemoryPerBlock, device) ==
             cudaSuccess &&
         kept >= 0 && static_cast<std::uint32_t>(kept) <= kBaseAt;
}

}  // namespace

bool few_rows_supports_gate_up(const Launcher& launcher, const ExpertProducts& e) {
  const DeviceMatrix& like = e.gate.first;
  const bool shared = e.rows > 1 || (one_row_reads(e.shared_gate, TensorType::kQ8_0) &&
                                     one_row_reads(e.shared_up, TensorType::kQ8_0) &&
                                     e.shared_gate.rows <= kWarps * multiprocessors());
  return shared && has_few_entries(e) && one_row_reads(like, TensorType::kIQ2_XXS) &&
         one_row_reads(e.up.first, TensorType::kIQ2_XXS) && like.cols == kCols &&
         like.rows % kUnitRows == 0 && e.gate.stride % 16 == 0 && e.up.stride % 16 == 0 &&
         one_row_has_room(launcher, kEnd) && base_is_known();
}

void run_few_rows_gate_up(Launcher& launcher, const ExpertProducts& e,
                          const std::uint16_t* iq2_grid) {
  launch(launcher, gate_up_kernel, dim3(multiprocessors()), kWarps * kWarp, kEnd, 1, e, iq2_grid);
}

}  // namespace ds4::cuda
