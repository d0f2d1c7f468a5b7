#include "tests/engine/model/naive_model.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>

namespace ds4::test {
namespace {

using Row = std::vector<double>;

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

Row times(const std::vector<Row>& m, const Row& x) {
  Row y;
  for (const Row& row : m) y.push_back(std::inner_product(row.begin(), row.end(), x.begin(), 0.0));
  return y;
}

Row rms_norm(const Row& x, const Row* weight, double eps) {
  const double mean = std::inner_product(x.begin(), x.end(), x.begin(), 0.0) / double(x.size());
  Row y = x;
  for (std::size_t i = 0; i < y.size(); ++i)
    y[i] *= (weight != nullptr ? (*weight)[i] : 1.0) / std::sqrt(mean + eps);
  return y;
}

Row part(const Row& x, std::size_t first, std::size_t n) {
  return {x.begin() + std::ptrdiff_t(first), x.begin() + std::ptrdiff_t(first + n)};
}

/// The nearest of `codes` (ascending magnitudes), ties to the even place in the list.
double nearest(double x, const Row& codes) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < codes.size(); ++i) {
    const double now = std::abs(std::abs(x) - codes[i]), then = std::abs(std::abs(x) - codes[best]);
    if (now < then || (now == then && i % 2 == 0)) best = i;
  }
  return std::copysign(codes[best], x);
}

void round_blocks(Row& x, std::size_t n, std::size_t block, double least, const Row& codes) {
  for (std::size_t begin = 0; begin < n; begin += block) {
    const std::size_t end = std::min(n, begin + block);
    double largest = least;
    for (std::size_t i = begin; i < end; ++i) largest = std::max(largest, std::abs(x[i]));
    if (largest == 0) continue;
    const double scale = std::exp2(std::ceil(std::log2(largest / codes.back())));
    for (std::size_t i = begin; i < end; ++i) x[i] = nearest(x[i] / scale, codes) * scale;
  }
}

void round_fp8(Row& x, std::size_t n) {
  Row codes;
  for (int code = 0; code < 127; ++code)
    codes.push_back(code < 8 ? code * std::exp2(-9) : (8 + code % 8) * std::exp2(code / 8 - 10));
  round_blocks(x, n, 64, 1e-4, codes);
}

void hadamard_fp4(Row& x) {
  Row y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i)
    for (std::size_t j = 0; j < x.size(); ++j)
      y[i] += (__builtin_popcountll(i & j) % 2 == 0 ? x[j] : -x[j]) / std::sqrt(double(x.size()));
  x = y;
  round_blocks(x, x.size(), 32, 0, {0, .5, 1, 1.5, 2, 3, 4, 6});
}

}  // namespace

NaiveModel::NaiveModel(std::span<const std::byte> file)
    : bytes_(file),
      file_(GgufFile::parse(file, file.size()).value()),
      hp_(HyperParams::read(file_).value()) {}

NaiveModel::Matrix NaiveModel::matrix(const std::string& name, std::size_t slab) const {
  const TensorInfo& info = *file_.find(name);
  Matrix m(info.dims[1], Row(info.dims[0]));
  const std::byte* at = bytes_.data() + info.offset + slab * info.dims[0] * info.dims[1] * 4;
  for (Row& row : m) {
    for (double& value : row) {
      float f = 0;
      std::memcpy(&f, at, sizeof f);
      value = f;
      at += sizeof f;
    }
  }
  return m;
}

NaiveModel::Row NaiveModel::vector(const std::string& name) const {
  return matrix(name)[0];
}

std::vector<std::int32_t> NaiveModel::numbers(const std::string& name) const {
  const TensorInfo& info = *file_.find(name);
  std::vector<std::int32_t> result(info.bytes / 4);
  std::memcpy(result.data(), bytes_.data() + info.offset, info.bytes);
  return result;
}

struct NaiveModel::Mix {
  Row pre, post;
  Matrix cross;  // [src][dst]
};

NaiveModel::Mix NaiveModel::mix(const std::string& name, const Matrix& streams) const {
  Row flat;
  for (const Row& stream : streams) flat.insert(flat.end(), stream.begin(), stream.end());
  const Row m = times(matrix(name + "_fn.weight"), rms_norm(flat, nullptr, hp_.rms_eps));
  const Row base = vector(name + "_base.weight"), scale = vector(name + "_scale.weight");
  const double eps = hp_.hc_eps;
  Mix out;
  for (std::size_t s = 0; s < 4; ++s) out.pre.push_back(sigmoid(m[s] * scale[0] + base[s]) + eps);
  if (m.size() == 4) return out;
  for (std::size_t s = 4; s < 8; ++s) out.post.push_back(2 * sigmoid(m[s] * scale[1] + base[s]));
  out.cross.assign(4, Row(4));
  for (std::size_t src = 0; src < 4; ++src) {
    double sum = 0;
    for (std::size_t dst = 0; dst < 4; ++dst) {
      const std::size_t i = 8 + src * 4 + dst;
      sum += out.cross[src][dst] = std::exp(m[i] * scale[2] + base[i]);
    }
    for (double& c : out.cross[src]) c = c / sum + eps;
  }
  const auto columns = [&] {
    for (std::size_t dst = 0; dst < 4; ++dst) {
      double sum = eps;
      for (const Row& row : out.cross) sum += row[dst];
      for (Row& row : out.cross) row[dst] /= sum;
    }
  };
  columns();
  for (std::uint32_t i = 1; i < hp_.sinkhorn_iterations; ++i) {
    for (Row& row : out.cross) {
      const double sum = std::accumulate(row.begin(), row.end(), eps);
      for (double& c : row) c /= sum;
    }
    columns();
  }
  return out;
}

void NaiveModel::rope(Row& row, std::uint32_t position, std::uint32_t layer, bool back) const {
  const double r = hp_.rope_dim;
  const bool yarn = hp_.compress_ratio[layer] != 0;
  const double base = yarn ? hp_.compress_rope_base : hp_.rope_base;
  const auto edge = [&](double beta) {
    return r * std::log(hp_.yarn_original_context / (beta * 2 * std::numbers::pi)) /
           (2 * std::log(base));
  };
  const double low = std::max(std::floor(edge(hp_.yarn_beta_fast)), 0.0);
  const double high = std::min(std::ceil(edge(hp_.yarn_beta_slow)), r - 1);
  for (std::uint32_t i = 0; i < hp_.rope_dim / 2; ++i) {
    double frequency = std::pow(base, -2.0 * i / r);
    const double ramp = std::clamp((i - low) / std::max(high - low, 0.001), 0.0, 1.0);
    if (yarn) frequency = frequency * (1 - ramp) + frequency / hp_.yarn_factor * ramp;
    const double angle = position * frequency * (back ? -1 : 1);
    double& a = row[row.size() - hp_.rope_dim + 2 * i];
    double& b = row[row.size() - hp_.rope_dim + 2 * i + 1];
    const double turned = a * std::cos(angle) - b * std::sin(angle);
    b = a * std::sin(angle) + b * std::cos(angle);
    a = turned;
  }
}

/// Compressed rows, normed but not turned.
NaiveModel::Matrix NaiveModel::compress(const std::string& name, const Matrix& x, std::uint32_t dim,
                                        std::uint32_t ratio) const {
  const Matrix w_kv = matrix(name + "_kv.weight"), w_gate = matrix(name + "_gate.weight");
  const Matrix ape = matrix(name + "_ape.weight");
  const Row norm = vector(name + "_norm.weight");
  Matrix kv, gate, rows;
  for (std::size_t p = 0; p < x.size(); ++p) {
    kv.push_back(times(w_kv, x[p]));
    gate.push_back(times(w_gate, x[p]));
    for (std::size_t i = 0; i < gate[p].size(); ++i) gate[p][i] += ape[p % ratio][i];
  }
  for (std::size_t b = 0; (b + 1) * ratio <= x.size(); ++b) {
    Row row(dim);
    for (std::size_t i = 0; i < dim; ++i) {
      double sum = 0, weights = 0;
      const auto add = [&](std::size_t p, std::size_t channel) {
        const double w = std::exp(gate[p][channel]);
        sum += w * kv[p][channel];
        weights += w;
      };
      for (std::size_t t = 0; t < ratio; ++t) {
        if (ratio == 4 && b > 0) add((b - 1) * ratio + t, i);
        add(b * ratio + t, ratio == 4 ? dim + i : i);
      }
      row[i] = sum / weights;
    }
    rows.push_back(rms_norm(row, &norm, hp_.rms_eps));
  }
  return rows;
}

/// Blocks that a query at `position` sees, `keys` being the layer's index rows.
std::vector<std::uint32_t> NaiveModel::visible(std::uint32_t layer, const Row& x, const Row& qr,
                                               std::uint32_t position, const Matrix& keys,
                                               Graph graph) const {
  const std::uint32_t ratio = hp_.compress_ratio[layer];
  std::vector<std::uint32_t> blocks(ratio == 0 ? 0 : (position + 1) / ratio);
  std::iota(blocks.begin(), blocks.end(), 0u);
  if (ratio != 4 || blocks.size() <= hp_.index_top_k) return blocks;
  const std::string name = "blk." + std::to_string(layer) + ".indexer.";
  const Row q = times(matrix(name + "attn_q_b.weight"), qr);
  const Row w = times(matrix(name + "proj.weight"), x);
  Row score(blocks.size());
  for (std::uint32_t h = 0; h < hp_.index_heads; ++h) {
    Row head = part(q, std::size_t{h} * hp_.index_dim, hp_.index_dim);
    rope(head, position, layer);
    if (graph == Graph::kOfficial) hadamard_fp4(head);
    for (const std::uint32_t b : blocks) {
      const double dot = std::inner_product(head.begin(), head.end(), keys[b].begin(), 0.0);
      score[b] += std::max(dot, 0.0) / std::sqrt(double(hp_.index_dim)) * w[h] /
                  std::sqrt(double(hp_.index_heads));
    }
  }
  std::stable_sort(blocks.begin(), blocks.end(),
                   [&](std::uint32_t a, std::uint32_t b) { return score[a] > score[b]; });
  blocks.resize(hp_.index_top_k);
  return blocks;
}

NaiveModel::Matrix NaiveModel::attention(std::uint32_t layer, const Matrix& x, Graph graph) const {
  const std::string blk = "blk." + std::to_string(layer) + ".";
  const std::uint32_t ratio = hp_.compress_ratio[layer], dim = hp_.head_dim;
  const bool official = graph == Graph::kOfficial;
  const Row q_norm = vector(blk + "attn_q_a_norm.weight");
  const Row kv_norm = vector(blk + "attn_kv_a_norm.weight");
  const Row sinks = vector(blk + "attn_sinks.weight");
  const Matrix w_q_a = matrix(blk + "attn_q_a.weight"), w_q_b = matrix(blk + "attn_q_b.weight");
  const Matrix w_kv = matrix(blk + "attn_kv.weight");
  const Matrix w_a = matrix(blk + "attn_output_a.weight"),
               w_b = matrix(blk + "attn_output_b.weight");

  Matrix raw, compressed, keys;
  for (std::uint32_t p = 0; p < x.size(); ++p) {
    raw.push_back(rms_norm(times(w_kv, x[p]), &kv_norm, hp_.rms_eps));
    rope(raw[p], p, layer);
    if (official) round_fp8(raw[p], dim - hp_.rope_dim);
  }
  if (ratio != 0) compressed = compress(blk + "attn_compressor", x, dim, ratio);
  if (ratio == 4) keys = compress(blk + "indexer_compressor", x, hp_.index_dim, ratio);
  for (std::uint32_t b = 0; b < compressed.size(); ++b) {
    rope(compressed[b], b * ratio, layer);
    if (official) round_fp8(compressed[b], dim - hp_.rope_dim);
    if (ratio != 4) continue;
    rope(keys[b], b * ratio, layer);
    if (official) hadamard_fp4(keys[b]);
  }

  Matrix out;
  for (std::uint32_t p = 0; p < x.size(); ++p) {
    const Row qr = rms_norm(times(w_q_a, x[p]), &q_norm, hp_.rms_eps);
    const Row q = times(w_q_b, qr);
    std::vector<const Row*> seen;
    for (std::uint32_t i = p + 1 - std::min(p + 1, hp_.window); i <= p; ++i)
      seen.push_back(&raw[i]);
    for (const std::uint32_t b : visible(layer, x[p], qr, p, keys, graph))
      seen.push_back(&compressed[b]);
    Row heads;
    for (std::uint32_t h = 0; h < hp_.n_head; ++h) {
      Row head = rms_norm(part(q, std::size_t{h} * dim, dim), nullptr, hp_.rms_eps);
      rope(head, p, layer);
      double weights = std::exp(sinks[h]);
      Row value(dim);
      for (const Row* key : seen) {
        const double w = std::exp(std::inner_product(head.begin(), head.end(), key->begin(), 0.0) /
                                  std::sqrt(double(dim)));
        weights += w;
        for (std::uint32_t i = 0; i < dim; ++i) value[i] += w * (*key)[i];
      }
      for (double& v : value) v /= weights;
      rope(value, p, layer, true);
      heads.insert(heads.end(), value.begin(), value.end());
    }
    Row grouped;
    const std::size_t width = heads.size() / hp_.n_group;
    for (std::uint32_t g = 0; g < hp_.n_group; ++g) {
      const Row input = part(heads, g * width, width);
      for (std::uint32_t i = 0; i < hp_.o_rank; ++i) {
        const Row& row = w_a[std::size_t{g} * hp_.o_rank + i];
        grouped.push_back(std::inner_product(row.begin(), row.end(), input.begin(), 0.0));
      }
    }
    out.push_back(times(w_b, grouped));
  }
  return out;
}

NaiveModel::Row NaiveModel::experts(std::uint32_t layer, const Row& x, std::int32_t token) const {
  const std::string blk = "blk." + std::to_string(layer) + ".";
  Row p = times(matrix(blk + "ffn_gate_inp.weight"), x);
  for (double& value : p) value = std::sqrt(std::log1p(std::exp(value)));
  std::vector<std::uint32_t> chosen(hp_.n_expert);
  std::iota(chosen.begin(), chosen.end(), 0u);
  if (hp_.is_hash_layer(layer)) {
    const auto table = numbers(blk + "ffn_gate_tid2eid.weight");
    for (std::uint32_t i = 0; i < hp_.n_expert_used; ++i)
      chosen[i] = std::uint32_t(table[std::size_t(token) * hp_.n_expert_used + i]);
  } else {
    const Row bias = vector(blk + "exp_probs_b.bias");
    std::stable_sort(chosen.begin(), chosen.end(), [&](std::uint32_t a, std::uint32_t b) {
      return p[a] + bias[a] > p[b] + bias[b];
    });
  }
  chosen.resize(hp_.n_expert_used);
  double sum = 0;
  for (const std::uint32_t e : chosen) sum += p[e];
  Row y(hp_.n_embd);
  const auto add = [&](const std::string& kind, std::size_t slab, double weight) {
    const double limit = hp_.swiglu_clamp[layer];
    Row gate = times(matrix(blk + "ffn_gate_" + kind, slab), x);
    const Row up = times(matrix(blk + "ffn_up_" + kind, slab), x);
    for (std::size_t i = 0; i < gate.size(); ++i) {
      const double g = std::min(gate[i], limit);
      gate[i] = g * sigmoid(g) * std::clamp(up[i], -limit, limit);
    }
    const Row down = times(matrix(blk + "ffn_down_" + kind, slab), gate);
    for (std::size_t i = 0; i < y.size(); ++i) y[i] += weight * down[i];
  };
  for (const std::uint32_t e : chosen) add("exps.weight", e, p[e] / sum * hp_.expert_weights_scale);
  add("shexp.weight", 0, 1);
  return y;
}

std::vector<float> NaiveModel::logits(std::span<const std::int32_t> tokens, Graph graph) const {
  const Matrix embedding = matrix("token_embd.weight"), output = matrix("output.weight");
  std::vector<Matrix> streams;  // [position][stream]
  for (const std::int32_t token : tokens)
    streams.emplace_back(4, embedding[static_cast<std::size_t>(token)]);

  const auto through = [&](const std::string& hc, const Row& norm, const auto& block) {
    std::vector<Mix> mixes;
    Matrix x;
    for (const Matrix& four : streams) {
      mixes.push_back(mix(hc, four));
      Row sum(hp_.n_embd);
      for (std::size_t s = 0; s < 4; ++s)
        for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += mixes.back().pre[s] * four[s][i];
      x.push_back(rms_norm(sum, &norm, hp_.rms_eps));
    }
    const Matrix y = block(x);
    for (std::size_t p = 0; p < streams.size(); ++p) {
      Matrix next(4, Row(hp_.n_embd));
      for (std::size_t d = 0; d < 4; ++d)
        for (std::size_t i = 0; i < hp_.n_embd; ++i) {
          next[d][i] = mixes[p].post[d] * y[p][i];
          for (std::size_t s = 0; s < 4; ++s) next[d][i] += mixes[p].cross[s][d] * streams[p][s][i];
        }
      streams[p] = next;
    }
  };
  for (std::uint32_t layer = 0; layer < hp_.n_layer; ++layer) {
    const std::string blk = "blk." + std::to_string(layer) + ".";
    through(blk + "hc_attn", vector(blk + "attn_norm.weight"),
            [&](const Matrix& x) { return attention(layer, x, graph); });
    through(blk + "hc_ffn", vector(blk + "ffn_norm.weight"), [&](const Matrix& x) {
      Matrix y;
      for (std::size_t p = 0; p < x.size(); ++p) y.push_back(experts(layer, x[p], tokens[p]));
      return y;
    });
  }

  const Row norm = vector("output_norm.weight");
  std::vector<float> result;
  for (const Matrix& four : streams) {
    const Mix weights = mix("output_hc", four);
    Row sum(hp_.n_embd);
    for (std::size_t s = 0; s < 4; ++s)
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += weights.pre[s] * four[s][i];
    for (const double logit : times(output, rms_norm(sum, &norm, hp_.rms_eps)))
      result.push_back(static_cast<float>(logit));
  }
  return result;
}

}  // namespace ds4::test
