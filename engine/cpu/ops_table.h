#pragma once
// Gathers one instruction set's kernels. For the ops_*.cpp translation units only.
#include "engine/cpu/attention_kernels.h"
#include "engine/cpu/draw_kernels.h"
#include "engine/cpu/index_fp4_kernels.h"
#include "engine/cpu/ops_kernels.h"
#include "engine/cpu/rounding_kernels.h"

namespace ds4::cpu {
namespace {

constexpr Ops make_ops() {
  Ops ops{};
  ops.sum_squares = sum_squares;
  ops.rms_norm = rms_norm;
  ops.swiglu = swiglu;
  ops.gather_streams = gather_streams;
  ops.spread_streams = spread_streams;
  ops.weighted_sum = weighted_sum;
  ops.sums_clear = sums_clear;
  ops.sums_add = sums_add;
  ops.sums_finish = sums_finish;
  ops.round_fp8 = round_fp8;
  ops.round_fp4 = round_fp4;
  ops.hadamard = hadamard;
  ops.decode_fp8 = decode_fp8;
  ops.draw_peak = draw_peak;
  ops.draw_weights = draw_weights;
  ops.attention = {attend, finish, index};
  ops.index_fp4 = {code_query, spread, score};
  return ops;
}

}  // namespace
}  // namespace ds4::cpu
