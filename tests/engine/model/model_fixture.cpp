#include "tests/engine/model/model_fixture.h"

#include <algorithm>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

namespace ds4::test {
namespace {

std::string model_path(const std::string& model) {
  const std::string folder = model == "q4" ? "/packaging/models/" : "/tests/models/";
  return DS4_SOURCE_DIR + folder + "tiny-v4-" + model + ".gguf";
}

template <typename T>
std::vector<T> list(const nlohmann::json& object, const char* key) {
  return object.contains(key) ? object[key].get<std::vector<T>>() : std::vector<T>{};
}

}  // namespace

std::shared_ptr<const ResidentSlice> resident(const std::string& model, const std::string& range) {
  static std::map<std::pair<std::string, std::string>, std::shared_ptr<const ResidentSlice>> loaded;
  auto& slice = loaded[{model, range}];
  if (slice) return slice;
  auto file = ModelFile::open(model_path(model));
  if (!file) {
    ADD_FAILURE() << file.error().message;
    return nullptr;
  }
  const auto layers = LayerRange::parse(range, kLayers);
  if (!layers) {
    ADD_FAILURE() << layers.error().message;
    return nullptr;
  }
  LoadOptions options;
  options.lock = false;
  auto result = ResidentSlice::load(*file, *layers, options);
  if (!result) {
    ADD_FAILURE() << result.error().message;
    return nullptr;
  }
  return slice = *result;
}

std::unique_ptr<Slice> make_slice(const std::string& model, const std::string& range,
                                  const CpuSliceOptions& options) {
  auto slice = make_cpu_slice(resident(model, range), options);
  if (!slice) {
    ADD_FAILURE() << slice.error().message;
    return nullptr;
  }
  return std::move(*slice);
}

std::vector<Case> read_vectors(const std::string& name) {
  std::ifstream file(DS4_SOURCE_DIR "/tests/vectors/tiny-v4-" + name + ".json");
  const nlohmann::json document = nlohmann::json::parse(file);
  std::vector<Case> cases;
  for (const auto& [key, value] : document["cases"].items()) {
    cases.push_back({key, list<std::int32_t>(value, "tokens"), list<std::int32_t>(value, "greedy"),
                     list<float>(value, "last_logits"), list<std::int32_t>(value, "top_ids"),
                     list<std::vector<float>>(value, "streams_before_layer")});
  }
  return cases;
}

Case read_case(const std::string& vectors, const std::string& name) {
  for (Case& one : read_vectors(vectors))
    if (one.name == name) return std::move(one);
  ADD_FAILURE() << "no case " << name << " in " << vectors;
  return {};
}

std::vector<float> run_tokens(std::span<const std::unique_ptr<Slice>> stages,
                              std::span<const std::int32_t> tokens, std::uint32_t chunk,
                              SessionId session) {
  const HyperParams& hp = stages.front()->params();
  const std::size_t row = std::size_t{hp.n_streams} * hp.n_embd;
  std::vector<float> logits(tokens.size() * hp.n_vocab), in, out;
  for (const auto& stage : stages) {
    const auto opened = stage->open_session(session, static_cast<std::uint32_t>(tokens.size()));
    EXPECT_TRUE(opened) << opened.error().message;
  }
  for (std::size_t at = 0; at < tokens.size(); at += chunk) {
    const std::size_t n = std::min<std::size_t>(chunk, tokens.size() - at);
    const Segment segment{session, static_cast<std::uint32_t>(at), tokens.subspan(at, n),
                          LogitsWanted::kAll};
    in.clear();
    for (const auto& stage : stages) {
      const bool head = stage->range().output;
      out.resize(head ? 0 : n * row);
      const std::span here = std::span(logits).subspan(at * hp.n_vocab, n * hp.n_vocab);
      const auto done =
          stage->forward({{&segment, 1}, in}, {out, head ? here : std::span<float>{}});
      EXPECT_TRUE(done) << done.error().message;
      if (!done) return {};
      in.swap(out);
    }
  }
  for (const auto& stage : stages) stage->close_session(session);
  return logits;
}

std::vector<float> run_tokens(const std::unique_ptr<Slice>& whole,
                              std::span<const std::int32_t> tokens, std::uint32_t chunk,
                              SessionId session) {
  return run_tokens({&whole, 1}, tokens, chunk, session);
}

double relative_l2(std::span<const float> a, std::span<const float> b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    const double d = double{a[i]} - double{b[i]};
    difference += d * d;
    size += double{b[i]} * double{b[i]};
  }
  return std::sqrt(difference / size);
}

}  // namespace ds4::test
