// Typed access to parsed metadata.
#include <fmt/format.h>

#include <cstring>
#include <limits>
#include <type_traits>

#include "engine/gguf/cursor.h"
#include "engine/gguf/gguf.h"

namespace ds4 {
namespace {

template <typename T>
T load(std::span<const std::byte> payload, std::uint64_t index) {
  T value;
  std::memcpy(&value, payload.subspan(index * sizeof(T), sizeof(T)).data(), sizeof(T));
  return value;
}

/// Name of a type in messages.
std::string_view name_of(MetaType type) {
  constexpr std::string_view kNames[] = {"u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
                                         "bool", "string", "array", "u64", "i64", "f64"};
  return kNames[static_cast<std::uint32_t>(type)];
}

tl::unexpected<Error> wrong_type(std::string_view key, std::string_view wanted, MetaType found) {
  return fail(ErrorCode::kCorrupt,
              fmt::format("key {}: expected {}, found {}", quoted(key), wanted, name_of(found)));
}

/// Element `index` of any integer type, if it is not negative.
Result<std::uint64_t> integer(std::string_view key, const MetaValue& value, std::uint64_t index) {
  const auto widen = [&](auto number) -> Result<std::uint64_t> {
    if constexpr (std::is_signed_v<decltype(number)>) {
      if (number < 0) {
        return fail(ErrorCode::kCorrupt,
                    fmt::format("key {}: {} is negative", quoted(key), number));
      }
    }
    return static_cast<std::uint64_t>(number);
  };
  switch (value.element) {
    case MetaType::kU8:
      return widen(load<std::uint8_t>(value.payload, index));
    case MetaType::kI8:
      return widen(load<std::int8_t>(value.payload, index));
    case MetaType::kU16:
      return widen(load<std::uint16_t>(value.payload, index));
    case MetaType::kI16:
      return widen(load<std::int16_t>(value.payload, index));
    case MetaType::kU32:
      return widen(load<std::uint32_t>(value.payload, index));
    case MetaType::kI32:
      return widen(load<std::int32_t>(value.payload, index));
    case MetaType::kU64:
      return widen(load<std::uint64_t>(value.payload, index));
    case MetaType::kI64:
      return widen(load<std::int64_t>(value.payload, index));
    default:
      return wrong_type(key, "an integer", value.element);
  }
}

Result<std::uint32_t> narrow(std::string_view key, Result<std::uint64_t> wide) {
  if (!wide) return tl::unexpected<Error>(std::move(wide).error());
  if (*wide > std::numeric_limits<std::uint32_t>::max()) {
    return fail(ErrorCode::kCorrupt,
                fmt::format("key {}: {} does not fit into 32 bits", quoted(key), *wide));
  }
  return static_cast<std::uint32_t>(*wide);
}

Result<float> real(std::string_view key, const MetaValue& value, std::uint64_t index) {
  switch (value.element) {
    case MetaType::kF32:
      return load<float>(value.payload, index);
    case MetaType::kF64:
      return static_cast<float>(load<double>(value.payload, index));
    default:
      return wrong_type(key, "a float", value.element);
  }
}

Result<const MetaValue*> lookup(const GgufFile& file, std::string_view key, bool array) {
  const MetaValue* value = file.meta(key);
  if (value == nullptr) {
    return fail(ErrorCode::kNotFound, fmt::format("the model file has no key {}", quoted(key)));
  }
  if (array != (value->type == MetaType::kArray)) {
    return wrong_type(key, array ? "an array" : "a single value", value->type);
  }
  return value;
}

}  // namespace

const TensorInfo* GgufFile::find(std::string_view name) const {
  const auto it = tensor_index_.find(name);
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const MetaValue* GgufFile::meta(std::string_view key) const {
  const auto it = metadata_.find(key);
  return it == metadata_.end() ? nullptr : &it->second;
}

Result<std::uint64_t> GgufFile::u64(std::string_view key) const {
  DS4_ASSIGN(const MetaValue* value, lookup(*this, key, false));
  return integer(key, *value, 0);
}

Result<std::uint32_t> GgufFile::u32(std::string_view key) const {
  return narrow(key, u64(key));
}

Result<float> GgufFile::f32(std::string_view key) const {
  DS4_ASSIGN(const MetaValue* value, lookup(*this, key, false));
  return real(key, *value, 0);
}

Result<bool> GgufFile::boolean(std::string_view key) const {
  DS4_ASSIGN(const MetaValue* value, lookup(*this, key, false));
  if (value->element != MetaType::kBool) return wrong_type(key, "a bool", value->element);
  const auto byte = load<std::uint8_t>(value->payload, 0);
  if (byte > 1) {
    return fail(ErrorCode::kCorrupt, fmt::format("key {}: {} is not a bool", quoted(key), byte));
  }
  return byte == 1;
}

Result<std::string_view> GgufFile::string(std::string_view key) const {
  DS4_ASSIGN(const MetaValue* value, lookup(*this, key, false));
  if (value->element != MetaType::kString) return wrong_type(key, "a string", value->element);
  const auto text = value->payload.subspan(sizeof(std::uint64_t));
  return std::string_view(reinterpret_cast<const char*>(text.data()), text.size());
}

Result<std::vector<std::uint32_t>> GgufFile::u32_array(std::string_view key) const {
  DS4_ASSIGN(const MetaValue* value, lookup(*this, key, true));
  std::vector<std::uint32_t> out;
  out.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    DS4_ASSIGN(const auto number, narrow(key, integer(key, *value, i)));
    out.push_back(number);
  }
  return out;
}

Result<std::vector<float>> GgufFile::f32_array(std::string_view key) const {
  DS4_ASSIGN(const MetaValue* value, lookup(*this, key, true));
  std::vector<float> out;
  out.reserve(value->count);
  for (std::uint64_t i = 0; i < value->count; ++i) {
    DS4_ASSIGN(const auto number, real(key, *value, i));
    out.push_back(number);
  }
  return out;
}

Result<std::vector<std::string_view>> GgufFile::string_array(std::string_view key) const {
  DS4_ASSIGN(const MetaValue* value, lookup(*this, key, true));
  if (value->element != MetaType::kString) return wrong_type(key, "strings", value->element);
  std::vector<std::string_view> out;
  out.reserve(value->count);
  Cursor in(value->payload, value->payload.size());
  for (std::uint64_t i = 0; i < value->count; ++i) {
    DS4_ASSIGN(const auto text, in.string(key));
    out.push_back(text);
  }
  return out;
}

std::string shape_text(const TensorInfo& info) {
  std::string text = fmt::format("{} {{", traits_of(info.type)->name);
  for (std::uint32_t i = 0; i < info.n_dims; ++i)
    text += fmt::format("{}{}", i == 0 ? "" : ",", info.dims[i]);
  return text + "}";
}

}  // namespace ds4
