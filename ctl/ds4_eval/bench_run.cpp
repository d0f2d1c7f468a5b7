#include "ctl/ds4_eval/bench_run.h"

#include <algorithm>
#include <chrono>
#include <utility>
#include <vector>

#include "engine/text/sampler.h"

namespace ds4::eval {
namespace {

using Clock = std::chrono::steady_clock;

double per_second(std::uint32_t count, Clock::duration time) {
  return count / std::max(1e-9, std::chrono::duration<double>(time).count());
}

/// Arbitrary ids, the same in every run; what they say does not change how long they take.
std::vector<std::int32_t> prompt_tokens(std::uint32_t count, std::uint32_t vocabulary) {
  std::vector<std::int32_t> tokens;
  for (std::uint32_t i = 0; i < count; ++i) {
    tokens.push_back(static_cast<std::int32_t>((10 + std::uint64_t{i} * 37 % 4000) % vocabulary));
  }
  return tokens;
}

struct Times {
  Clock::duration prefill{};
  std::vector<Clock::duration> tokens;
};

Result<void> talk(SliceChain& chain, SessionId session, std::uint32_t prompt,
                  std::uint32_t generate, Times& times) {
  const std::vector<std::int32_t> ids = prompt_tokens(prompt, chain.params().n_vocab);
  Sampler sampler(chain.params().n_vocab);
  std::int32_t token = 0;
  const auto sample = [&](std::uint32_t at, std::span<const float> logits) -> Result<void> {
    token = sampler.sample(logits, SamplingParams{}, at + 1).token;
    return {};
  };
  times.tokens.reserve(generate);
  auto last = Clock::now();
  const auto lap = [&] {
    const auto now = Clock::now();
    return now - std::exchange(last, now);
  };
  DS4_TRY(chain.append(session, 0, ids, LogitsWanted::kLast, sample));
  times.prefill = lap();
  for (std::uint32_t i = 0; i < generate; ++i) {
    const std::int32_t input = token;
    DS4_TRY(chain.append(session, prompt + i, std::span(&input, 1), LogitsWanted::kLast, sample));
    times.tokens.push_back(lap());
  }
  return {};
}

Result<Times> conversation(SliceChain& chain, std::uint32_t prompt, std::uint32_t generate) {
  constexpr SessionId kSession = 1;
  Times times;
  DS4_TRY(chain.open_session(kSession, prompt + generate));
  const Result<void> done = talk(chain, kSession, prompt, generate, times);
  chain.close_session(kSession);
  DS4_TRY(done);
  return times;
}

}  // namespace

Result<Speeds> measure_speeds(SliceChain& chain, std::uint32_t prompt, std::uint32_t generate) {
  DS4_ASSIGN(const Times times, conversation(chain, prompt, generate));
  Clock::duration decode{};
  for (const Clock::duration token : times.tokens) decode += token;
  return Speeds{per_second(prompt, times.prefill), per_second(generate, decode)};
}

Result<ContextSpeed> measure_context(SliceChain& chain, std::uint32_t context,
                                     std::uint32_t generate) {
  DS4_ASSIGN(Times times, conversation(chain, context, generate));
  const auto middle = times.tokens.begin() + static_cast<std::ptrdiff_t>(times.tokens.size() / 2);
  std::nth_element(times.tokens.begin(), middle, times.tokens.end());
  return ContextSpeed{context, per_second(context, times.prefill),
                      std::chrono::duration<double, std::milli>(*middle).count()};
}

}  // namespace ds4::eval
