#include "ctl/ds4_eval/perplexity.h"

#include <algorithm>
#include <cmath>

namespace ds4::eval {

double Perplexity::mean_nll() const {
  return scored > 0 ? nll_sum / static_cast<double>(scored) : 0;
}

double Perplexity::value() const {
  return std::exp(mean_nll());
}

double negative_log_likelihood(std::span<const float> logits, std::int32_t token) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit) - highest);
  return highest + std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(token)]);
}

Result<Perplexity> score(SliceChain& chain, std::span<const std::int32_t> tokens) {
  constexpr SessionId kSession = 1;
  const std::size_t n_vocab = chain.params().n_vocab;
  Perplexity out;
  const auto sink = [&](std::uint32_t first, std::span<const float> rows) -> Result<void> {
    for (std::size_t row = 0; row * n_vocab < rows.size(); ++row) {
      const std::size_t next = first + row + 1;
      if (next == tokens.size()) break;  // nothing to compare the last row with
      out.nll_sum += negative_log_likelihood(rows.subspan(row * n_vocab, n_vocab), tokens[next]);
      ++out.scored;
    }
    return {};
  };
  DS4_TRY(chain.open_session(kSession, static_cast<std::uint32_t>(tokens.size())));
  const Result<void> appended = chain.append(kSession, 0, tokens, LogitsWanted::kAll, sink);
  chain.close_session(kSession);
  DS4_TRY(appended);
  return out;
}

}  // namespace ds4::eval
