// The commented ds4d.toml and its man page: every key, with the default that the code has.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <regex>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "agent/config/config.h"

namespace ds4::agent {
namespace {

using ::testing::ContainerEq;
using ::testing::HasSubstr;

/// Keys whose default is found out at run time: the file shows an example. And those that the file
/// sets.
const std::set<std::string> kExamples = {"name", "client.group", "kv.directory"};
const std::set<std::string> kSet = {"model", "standalone"};

std::string read(const std::string& path) {
  std::ifstream file(std::string(DS4_SOURCE_DIR) + path);
  EXPECT_TRUE(file.is_open()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string example() {
  return read("/packaging/etc/ds4d.toml");
}

std::string key_of(const std::string& line) {
  return line.substr(0, line.find(" = "));
}

/// "table.key = value" of every line of the file that gives a value, in a comment or not.
std::vector<std::string> shown_lines(const std::string& text) {
  static const std::regex kTable(R"(\[([a-z_.]+)\])");
  static const std::regex kKey(R"(#?([a-z_]+ = .*))");
  std::vector<std::string> lines;
  std::string table;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) {
    std::smatch match;
    if (std::regex_match(line, match, kTable)) table = match[1].str() + ".";
    if (std::regex_match(line, match, kKey)) lines.push_back(table + match[1].str());
  }
  return lines;
}

std::vector<std::string> without(std::vector<std::string> lines,
                                 const std::set<std::string>& keys) {
  std::erase_if(lines, [&](const std::string& line) { return keys.contains(key_of(line)); });
  return lines;
}

TEST(ExampleConfig, ShowsEveryKeyOnceInTheCodesOrderWithItsDefault) {
  const auto shown = shown_lines(example());
  const auto known = config_lines(Config{});
  std::vector<std::string> shown_keys;
  std::vector<std::string> known_keys;
  std::transform(shown.begin(), shown.end(), std::back_inserter(shown_keys), key_of);
  std::transform(known.begin(), known.end(), std::back_inserter(known_keys), key_of);
  EXPECT_THAT(shown_keys, ContainerEq(known_keys));

  std::set<std::string> special = kExamples;
  special.insert(kSet.begin(), kSet.end());
  EXPECT_THAT(without(shown, special), ContainerEq(without(known, special)));
}

TEST(ExampleConfig, SetsOnlyTheModelAndThatItIsServed) {
  const auto config = parse_config(example(), "ds4d.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_TRUE(config->standalone);
  EXPECT_EQ(config->model, "/usr/share/ds4d/tiny-v4-q4.gguf");
  EXPECT_THAT(without(config_lines(*config), kSet),
              ContainerEq(without(config_lines(Config{}), kSet)));
}

TEST(ExampleConfig, IsGoodWithEveryLineUncommented) {
  std::string text;
  for (const std::string& line : shown_lines(example())) text += line + "\n";
  const auto config = parse_config(text, "ds4d.toml");
  ASSERT_TRUE(config) << config.error().message;
  EXPECT_TRUE(check_config(*config));
}

TEST(ManualOfTheConfig, HasEveryKeyWithItsDefault) {
  const std::string manual = read("/packaging/man/ds4d.toml.5");
  for (const std::string& line : config_lines(Config{})) {
    const bool fixed = !kExamples.contains(key_of(line)) && !kSet.contains(key_of(line));
    EXPECT_THAT(manual, HasSubstr(".It Li " + (fixed ? line : key_of(line) + "\n")));
  }
}

}  // namespace
}  // namespace ds4::agent
