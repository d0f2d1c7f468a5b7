#include "engine/gguf/gguf.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "engine/base/checked.h"
#include "engine/gguf/cursor.h"

namespace ds4 {
namespace {

// Far above any model, far below what would let a hostile header make us allocate for long.
constexpr std::uint64_t kMaxPairs = 1u << 16;
constexpr std::uint64_t kMaxTensors = 1u << 17;
constexpr std::uint64_t kMaxKeyBytes = 65535;
constexpr std::uint64_t kMaxNameBytes = 255;
// The smallest possible entries: a count that could not fit into the file is a lie.
constexpr std::uint64_t kMinPairBytes = 8 + 4 + 1;
constexpr std::uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
constexpr std::uint64_t kDefaultAlignment = 32;

struct Preamble {
  std::uint32_t version = 0;
  std::uint64_t tensors = 0;
  std::uint64_t pairs = 0;
};

Result<void> check_magic(std::span<const std::byte> magic) {
  if (std::memcmp(magic.data(), "GGUF", 4) == 0) return {};
  if (std::memcmp(magic.data(), "FUGG", 4) == 0) {
    return fail(ErrorCode::kUnsupported,
                "a big-endian GGUF file: not supported, convert it to little-endian first");
  }
  return fail(ErrorCode::kCorrupt,
              fmt::format("not a GGUF file: it begins with {} instead of 'GGUF'",
                          quoted({reinterpret_cast<const char*>(magic.data()), magic.size()})));
}

Result<void> check_version(std::uint32_t version) {
  if (version == 2 || version == 3) return {};
  // Writers of big-endian files keep the magic and swap every number behind it.
  if (version != 0 && (version & 0xffffu) == 0) {
    return fail(ErrorCode::kUnsupported,
                "a big-endian GGUF file: not supported, convert it to little-endian first");
  }
  return fail(ErrorCode::kUnsupported,
              fmt::format("GGUF version {} is not supported, only 2 and 3 are", version));
}

Result<void> check_count(std::string_view what, std::uint64_t count, std::uint64_t limit,
                         std::uint64_t entry_bytes, std::uint64_t left_bytes) {
  if (count > left_bytes / entry_bytes) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("{} {} cannot fit into the {} bytes that are left of the file: it is "
                            "truncated or damaged",
                            count, what, left_bytes));
  }
  if (count > limit) {
    return fail(ErrorCode::kUnsupported,
                fmt::format("{} {}: more than {} are not supported", count, what, limit));
  }
  return {};
}

Result<Preamble> read_preamble(Cursor& in) {
  DS4_ASSIGN(const auto magic, in.take(4, "the magic 'GGUF'"));
  DS4_TRY(check_magic(magic));
  Preamble out;
  DS4_ASSIGN(out.version, in.number<std::uint32_t>("the version"));
  DS4_TRY(check_version(out.version));
  DS4_ASSIGN(out.tensors, in.number<std::uint64_t>("the tensor count"));
  DS4_ASSIGN(out.pairs, in.number<std::uint64_t>("the metadata count"));
  DS4_TRY(check_count("metadata pairs", out.pairs, kMaxPairs, kMinPairBytes, in.left_in_file()));
  DS4_TRY(check_count("tensors", out.tensors, kMaxTensors, kMinTensorBytes, in.left_in_file()));
  return out;
}

/// Bytes of a scalar; 0 for strings and arrays, nothing for an unknown type.
std::optional<std::uint32_t> scalar_bytes(MetaType type) {
  switch (type) {
    case MetaType::kU8:
    case MetaType::kI8:
    case MetaType::kBool:
      return 1;
    case MetaType::kU16:
    case MetaType::kI16:
      return 2;
    case MetaType::kU32:
    case MetaType::kI32:
    case MetaType::kF32:
      return 4;
    case MetaType::kU64:
    case MetaType::kI64:
    case MetaType::kF64:
      return 8;
    case MetaType::kString:
    case MetaType::kArray:
      return 0;
  }
  return std::nullopt;
}

Result<MetaType> read_type(Cursor& in, std::string_view what) {
  DS4_ASSIGN(const auto number, in.number<std::uint32_t>(what));
  const auto type = static_cast<MetaType>(number);
  if (!scalar_bytes(type)) {
    return fail(ErrorCode::kCorrupt, fmt::format("{}: unknown value type {}", what, number));
  }
  return type;
}

/// `count` values of one non-array type.
Result<std::span<const std::byte>> read_payload(Cursor& in, std::span<const std::byte> header,
                                                MetaType type, std::uint64_t count,
                                                std::string_view what) {
  const std::uint64_t start = in.position();
  if (type != MetaType::kString) {
    const auto bytes = checked_mul<std::uint64_t>(count, *scalar_bytes(type));
    if (!bytes) {
      return fail(ErrorCode::kCorrupt, fmt::format("{}: {} elements overflow", what, count));
    }
    return in.take(*bytes, what);
  }
  // Each step consumes at least eight bytes, so a hostile count ends with the bytes, not later.
  for (std::uint64_t i = 0; i < count; ++i) DS4_TRY(in.string(what));
  return header.subspan(start, in.position() - start);
}

Result<MetaValue> read_value(Cursor& in, std::span<const std::byte> header, std::string_view what) {
  MetaValue value;
  DS4_ASSIGN(value.type, read_type(in, what));
  value.element = value.type;
  if (value.type == MetaType::kArray) {
    DS4_ASSIGN(value.element, read_type(in, what));
    if (value.element == MetaType::kArray) {
      return fail(ErrorCode::kUnsupported,
                  fmt::format("{}: arrays of arrays are not supported", what));
    }
    DS4_ASSIGN(value.count, in.number<std::uint64_t>(what));
  }
  DS4_ASSIGN(value.payload, read_payload(in, header, value.element, value.count, what));
  return value;
}

/// Bytes of a tensor from its dimensions; errors without the tensor's name, which the caller adds.
Result<std::uint64_t> tensor_bytes(const TensorInfo& tensor) {
  const auto traits = traits_of(tensor.type);
  if (!traits) {
    return fail(
        ErrorCode::kUnsupported,
        fmt::format("tensor type {} is not supported; use F32, F16, BF16, Q8_0, Q4_K, Q2_K, "
                    "IQ2_XXS, MXFP4 or I32",
                    static_cast<std::uint32_t>(tensor.type)));
  }
  std::uint64_t values = 1;
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) {
    if (tensor.dims[i] == 0) {
      return fail(ErrorCode::kCorrupt, fmt::format("dimension {} is zero", i));
    }
    const auto product = checked_mul(values, tensor.dims[i]);
    if (!product) return fail(ErrorCode::kCorrupt, "the product of its dimensions overflows");
    values = *product;
  }
  if (tensor.dims[0] % traits->block_values != 0) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("rows of {} values do not divide into {} blocks of {}", tensor.dims[0],
                            traits->name, traits->block_values));
  }
  const auto bytes = checked_mul<std::uint64_t>(values / traits->block_values, traits->block_bytes);
  if (!bytes) return fail(ErrorCode::kCorrupt, "its size in bytes overflows");
  return *bytes;
}

/// One row of the table; `offset` still counts from the start of the tensor data.
Result<TensorInfo> read_tensor(Cursor& in, std::uint64_t index) {
  TensorInfo tensor;
  const std::string position = fmt::format("name of tensor {}", index);
  DS4_ASSIGN(tensor.name, in.string(position));
  if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes) {
    return fail(ErrorCode::kCorrupt, fmt::format("{}: {} bytes long, must be 1 to {}", position,
                                                 tensor.name.size(), kMaxNameBytes));
  }
  const std::string what = fmt::format("tensor {}", quoted(tensor.name));
  DS4_ASSIGN(tensor.n_dims, in.number<std::uint32_t>(what));
  if (tensor.n_dims < 1 || tensor.n_dims > tensor.dims.size()) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("{}: {} dimensions, must be 1 to 4", what, tensor.n_dims));
  }
  for (std::uint32_t i = 0; i < tensor.n_dims; ++i) {
    DS4_ASSIGN(tensor.dims[i], in.number<std::uint64_t>(what));
  }
  DS4_ASSIGN(const auto type, in.number<std::uint32_t>(what));
  tensor.type = static_cast<TensorType>(type);
  DS4_ASSIGN(tensor.offset, in.number<std::uint64_t>(what));
  auto bytes = tensor_bytes(tensor);
  if (!bytes) return fail(std::move(bytes).error(), what);
  tensor.bytes = *bytes;
  return tensor;
}

/// Moves a tensor from the start of the data to its place in the file.
Result<void> place_tensor(TensorInfo& tensor, std::uint64_t data_offset, std::uint64_t alignment) {
  if (tensor.offset % alignment != 0) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("tensor {}: offset {} is not a multiple of the alignment {}",
                            quoted(tensor.name), tensor.offset, alignment));
  }
  const auto begin = checked_add(data_offset, tensor.offset);
  if (!begin || !checked_add(*begin, tensor.bytes)) {
    return fail(ErrorCode::kCorrupt, fmt::format("tensor {}: offset {} plus {} bytes overflows",
                                                 quoted(tensor.name), tensor.offset, tensor.bytes));
  }
  tensor.offset = *begin;
  return {};
}

/// No two tensors share a byte, and the file has them all.
Result<void> check_placement(std::span<const TensorInfo> tensors, std::uint64_t file_bytes) {
  std::vector<const TensorInfo*> order;
  order.reserve(tensors.size());
  for (const TensorInfo& tensor : tensors) order.push_back(&tensor);
  std::ranges::sort(order, {}, &TensorInfo::offset);
  for (std::size_t i = 1; i < order.size(); ++i) {
    const TensorInfo& before = *order[i - 1];
    if (before.offset + before.bytes > order[i]->offset) {
      return fail(ErrorCode::kCorrupt,
                  fmt::format("tensors {} and {} overlap at offset {}", quoted(before.name),
                              quoted(order[i]->name), order[i]->offset));
    }
  }
  if (order.empty()) return {};
  const TensorInfo& last = *order.back();  // without overlaps the last to begin is the last to end
  const std::uint64_t end = last.offset + last.bytes;
  if (end > file_bytes) {
    return fail(
        ErrorCode::kCorrupt,
        fmt::format("the file is truncated: tensor {} ends at {}, but the file has {} bytes "
                    "({} bytes are missing); copy it again",
                    quoted(last.name), end, file_bytes, end - file_bytes));
  }
  return {};
}

Result<std::uint64_t> alignment_of(const GgufFile& file) {
  if (!file.has("general.alignment")) return kDefaultAlignment;
  DS4_ASSIGN(const auto alignment, file.u32("general.alignment"));
  if (!std::has_single_bit(alignment)) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("general.alignment is {}, not a power of two", alignment));
  }
  return alignment;
}

Result<void> refuse_split(const GgufFile& file) {
  if (!file.has("split.count")) return {};
  DS4_ASSIGN(const auto count, file.u64("split.count"));
  if (count <= 1) return {};
  return fail(ErrorCode::kUnsupported,
              fmt::format("one of {} parts of a split model (split.count): split files are not "
                          "supported yet: merge it first (llama-gguf-split --merge)",
                          count));
}

}  // namespace

Result<GgufFile> GgufFile::parse(std::span<const std::byte> header, std::uint64_t file_bytes) {
  if (file_bytes == 0) return fail(ErrorCode::kCorrupt, "the file is empty, not a GGUF model");
  Cursor in(header, file_bytes);
  DS4_ASSIGN(const auto preamble, read_preamble(in));

  GgufFile file;
  file.version_ = preamble.version;
  file.file_bytes_ = file_bytes;
  for (std::uint64_t i = 0; i < preamble.pairs; ++i) {
    const std::string position = fmt::format("key of metadata pair {}", i);
    DS4_ASSIGN(const auto key, in.string(position));
    if (key.empty() || key.size() > kMaxKeyBytes) {
      return fail(ErrorCode::kCorrupt, fmt::format("{}: {} bytes long, must be 1 to {}", position,
                                                   key.size(), kMaxKeyBytes));
    }
    DS4_ASSIGN(const auto value, read_value(in, header, fmt::format("key {}", quoted(key))));
    if (!file.metadata_.emplace(key, value).second) {
      return fail(ErrorCode::kCorrupt, fmt::format("key {} stands twice", quoted(key)));
    }
  }
  file.metadata_end_ = in.position();
  DS4_TRY(refuse_split(file));
  DS4_ASSIGN(const auto alignment, alignment_of(file));

  for (std::uint64_t i = 0; i < preamble.tensors; ++i) {
    DS4_ASSIGN(const auto tensor, read_tensor(in, i));
    if (!file.tensor_index_.emplace(tensor.name, file.tensors_.size()).second) {
      return fail(ErrorCode::kCorrupt, fmt::format("tensor {} stands twice", quoted(tensor.name)));
    }
    file.tensors_.push_back(tensor);
  }
  file.table_end_ = in.position();
  const auto padded = checked_add(file.table_end_, alignment - 1);
  if (!padded) return fail(ErrorCode::kCorrupt, "the start of the tensor data overflows");
  file.data_offset_ = *padded & ~(alignment - 1);
  for (TensorInfo& tensor : file.tensors_) {
    DS4_TRY(place_tensor(tensor, file.data_offset_, alignment));
  }
  DS4_TRY(check_placement(file.tensors_, file_bytes));
  return file;
}

}  // namespace ds4
