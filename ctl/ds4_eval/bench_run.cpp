#include "ctl/ds4_eval/bench_run.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace ds4::eval {
namespace {

using Clock = std::chrono::steady_clock;

double per_second(std::uint64_t count, Clock::duration time) {
  return static_cast<double>(count) / std::max(1e-9, std::chrono::duration<double>(time).count());
}

/// Arbitrary ids, the same in every run, others for every session; what they say does not change
/// how long they take, except that sessions which say the same share their experts.
std::vector<std::int32_t> prompt_tokens(std::uint32_t count, std::uint32_t vocabulary,
                                        SessionId session) {
  std::vector<std::int32_t> tokens;
  for (std::uint64_t i = 0; i < count; ++i) {
    const std::uint64_t id = 10 + (i * 37 + (session - 1) * 613) % 4000;
    tokens.push_back(static_cast<std::int32_t>(id % vocabulary));
  }
  return tokens;
}

Result<void> talk(SliceChain& chain, const Conversations& what,
                  const std::function<void()>& prefilled, Times& times) {
  std::vector<std::int32_t> inputs(what.sessions);
  std::vector<SampledToken> sampled(what.sessions);
  auto last = Clock::now();
  const auto lap = [&] {
    const auto now = Clock::now();
    return now - std::exchange(last, now);
  };
  for (std::uint32_t i = 0; i < what.sessions; ++i) {
    const auto prompt = prompt_tokens(what.prompt, chain.params().n_vocab, i + 1);
    DS4_ASSIGN(sampled[i], chain.sample_after(i + 1, 0, prompt, {}));
  }
  times.prefill = lap();
  if (prefilled) prefilled();
  times.passes.reserve(what.generate);
  std::vector<Segment> segments(what.sessions);
  for (std::uint32_t made = 0; made < what.generate; ++made) {
    for (std::uint32_t i = 0; i < what.sessions; ++i) {
      inputs[i] = sampled[i].token;
      segments[i] = {i + 1, what.prompt + made, {&inputs[i], 1}, LogitsWanted::kLast};
    }
    DS4_TRY(chain.forward(segments, {{}, {}, sampled}));
    times.passes.push_back(lap());
  }
  return {};
}

}  // namespace

double Times::prefill_tps(const Conversations& what) const {
  return per_second(std::uint64_t{what.prompt} * what.sessions, prefill);
}

double Times::decode_tps(const Conversations& what) const {
  return per_second(std::uint64_t{what.generate} * what.sessions,
                    std::accumulate(passes.begin(), passes.end(), Duration{}));
}

double Times::ms_per_pass() const {
  std::vector<Duration> sorted = passes;
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return std::chrono::duration<double, std::milli>(*middle).count();
}

Result<Times> measure(SliceChain& chain, const Conversations& what,
                      const std::function<void()>& prefilled) {
  Times times;
  Result<void> done;
  std::uint32_t opened = 0;
  while (opened < what.sessions && done) {
    done = chain.open_session(opened + 1, what.prompt + what.generate);
    opened += done.has_value();
  }
  if (done) done = talk(chain, what, prefilled, times);
  while (opened > 0) chain.close_session(opened--);
  DS4_TRY(done);
  return times;
}

}  // namespace ds4::eval
