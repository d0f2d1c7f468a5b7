// Once warm, a call allocates nothing: counted by this binary's own operator new.
#include <atomic>
#include <cstdlib>
#include <new>

#include "tests/engine/model/model_fixture.h"

namespace {
std::atomic<std::size_t> allocations{0};

void* allocate(std::size_t bytes, std::size_t alignment) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  const std::size_t whole = (bytes + alignment - 1) / alignment * alignment;
  if (void* p = std::aligned_alloc(alignment, whole != 0 ? whole : alignment)) return p;
  throw std::bad_alloc();
}
}  // namespace

void* operator new(std::size_t bytes) {
  return allocate(bytes, __STDCPP_DEFAULT_NEW_ALIGNMENT__);
}
void* operator new[](std::size_t bytes) {
  return operator new(bytes);
}
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void* operator new[](std::size_t bytes, std::align_val_t alignment) {
  return operator new(bytes, alignment);
}
void operator delete(void* p) noexcept {
  std::free(p);
}
void operator delete[](void* p) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::size_t) noexcept {
  std::free(p);
}
void operator delete(void* p, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete(void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}
void operator delete[](void* p, std::size_t, std::align_val_t) noexcept {
  std::free(p);
}

namespace ds4::test {
namespace {

TEST(Allocation, TheCounterCounts) {
  const std::size_t before = allocations.load();
  const auto something = std::make_unique<std::vector<int>>(100);
  EXPECT_GE(allocations.load(), before + 2);
}

TEST(Allocation, AWarmSliceAllocatesNothing) {
  for (const cpu::Precision precision : {cpu::Precision::kFast, cpu::Precision::kExact}) {
    CpuSliceOptions options = fast(Graph::kOfficial);
    options.precision = precision;
    const auto slice = make_slice("q4", "0:output", options);
    ASSERT_TRUE(slice);
    const auto tokens = read_case("q4.plain", "recall1500").tokens;
    std::vector<float> logits(slice->params().n_vocab);
    ASSERT_TRUE(slice->open_session(1, 600));
    std::uint32_t at = 0;
    const auto run = [&](std::uint32_t count) {
      const Segment segment{1, at, std::span(tokens).subspan(at, count), LogitsWanted::kLast};
      at += count;
      return slice->forward({{&segment, 1}, {}}, {{}, logits}).has_value();
    };
    ASSERT_TRUE(run(280));  // far enough for the indexer to search
    const std::size_t before = allocations.load();
    bool ok = true;
    for (int i = 0; i < 20; ++i) ok = ok && run(1);
    ok = ok && run(130) && run(40);
    EXPECT_EQ(allocations.load(), before);
    EXPECT_TRUE(ok);
    SampledToken token;
    const auto sample = [&] {
      const Segment segment{1,
                            at,
                            std::span(tokens).subspan(at, 1),
                            LogitsWanted::kLast,
                            {.temperature = 1, .top_p = 0.9f, .top_k = 100}};
      ++at;
      return slice->forward({{&segment, 1}, {}}, {{}, {}, {&token, 1}}).has_value();
    };
    ok = sample();  // makes the samplers
    const std::size_t with_samplers = allocations.load();
    for (int i = 0; i < 20; ++i) ok = ok && sample();
    EXPECT_EQ(allocations.load(), with_samplers);
    EXPECT_TRUE(ok);
  }
}

}  // namespace
}  // namespace ds4::test
