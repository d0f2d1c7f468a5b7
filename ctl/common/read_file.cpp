#include "ctl/common/read_file.h"

#include <algorithm>
#include <cstdio>
#include <memory>

namespace ds4::ctl {

Result<std::string> read_file(const std::string& path, std::size_t most) {
  const auto close = [](std::FILE* file) { std::fclose(file); };
  const std::unique_ptr<std::FILE, decltype(close)> file(std::fopen(path.c_str(), "rb"), close);
  if (!file) return fail_errno(path);
  std::string text;
  char buffer[1 << 16];
  while (text.size() < most) {
    const std::size_t want = std::min(sizeof(buffer), most - text.size());
    const std::size_t got = std::fread(buffer, 1, want, file.get());
    text.append(buffer, got);
    if (got < want) break;
  }
  if (std::ferror(file.get()) != 0) return fail_errno(path);
  return text;
}

}  // namespace ds4::ctl
