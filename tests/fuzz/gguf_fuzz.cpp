// Parses arbitrary bytes as a GGUF file: whole, as the beginning of a larger file, and cut short.
// What parses must keep its promises: views inside the bytes, tensors inside the file and apart,
// every accessor an answer or an error.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <span>

#include "engine/base/checked.h"
#include "engine/gguf/gguf.h"
#include "engine/residency/span_cover.h"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void use_every_accessor(const ds4::GgufFile& file, std::string_view key) {
  static_cast<void>(file.u64(key));
  static_cast<void>(file.u32(key));
  static_cast<void>(file.f32(key));
  static_cast<void>(file.boolean(key));
  static_cast<void>(file.u32_array(key));
  static_cast<void>(file.f32_array(key));
  if (const auto text = file.string(key)) require(text->size() <= file.metadata_end());
  if (const auto texts = file.string_array(key)) {
    for (const auto text : *texts) require(text.size() <= file.metadata_end());
  }
}

void check(const ds4::GgufFile& file, std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  require(file.metadata_end() <= file.table_end() && file.table_end() <= bytes.size());
  require(file.table_end() <= file.data_offset());
  for (const ds4::TensorInfo& tensor : file.tensors()) {
    const auto* name = reinterpret_cast<const std::byte*>(tensor.name.data());
    require(name >= bytes.data() && name + tensor.name.size() <= bytes.data() + bytes.size());
    require(tensor.offset >= file.data_offset());
    require(ds4::fits(tensor.offset, tensor.bytes, file_bytes));
    require(file.find(tensor.name) == &tensor);
  }
  for (const auto* key : {"general.alignment", "general.architecture", "a", "list", "texts"}) {
    use_every_accessor(file, key);
  }
  const auto cover = ds4::SpanCover::of(file, ds4::LayerRange{1, 3, true}, 4096);
  require(cover.has_value() && cover->cover_bytes() <= file_bytes);
}

void parse(std::span<const std::byte> bytes, std::uint64_t file_bytes) {
  const auto file = ds4::GgufFile::parse(bytes, file_bytes);
  if (file) return check(*file, bytes, file_bytes);
  require(!file.error().message.empty());
  // "Give me more" must be possible to grant.
  if (file.error().code == ds4::ErrorCode::kOutOfRange) require(bytes.size() < file_bytes);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  parse(bytes, size);
  parse(bytes, std::uint64_t{1} << 40);
  parse(bytes, UINT64_MAX);
  parse(bytes.first(size / 2), size);
  return 0;
}
