// Control groups laid out in a directory, as each version of the kernel's interface shows them.
#include "agent/loader/cgroup_memory.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace ds4::agent {
namespace {

namespace fs = std::filesystem;

class CgroupMemoryTest : public ::testing::Test {
 protected:
  CgroupMemoryTest() {
    std::string pattern = (fs::temp_directory_path() / "ds4-cgroup-XXXXXX").string();
    mount_ = ::mkdtemp(pattern.data());
  }
  ~CgroupMemoryTest() override { fs::remove_all(mount_); }
  void write(const std::string& path, const std::string& text) {
    fs::create_directories((mount_ / path).parent_path());
    std::ofstream(mount_ / path) << text;
  }
  CgroupMemory read(const std::string& proc_cgroup) {
    return read_cgroup_memory(proc_cgroup, mount_.string());
  }
  fs::path mount_;
};

TEST_F(CgroupMemoryTest, TheTightestGroupUpTheHierarchyCounts) {
  write("memory.stat", "");
  write("a/memory.max", "1000\n");
  write("a/memory.current", "700\n");
  write("a/memory.stat", "anon 100\ninactive_file 150\nactive_file 50\n");
  write("a/b/memory.max", "max\n");
  write("a/b/memory.current", "600\n");
  write("a/b/memory.peak", "654\n");
  const auto memory = read("0::/a/b\n");
  EXPECT_EQ(memory.left_bytes, 500u);  // 1000 - (700 - 200)
  EXPECT_EQ(memory.peak_bytes, 654u);
  write("a/b/memory.max", "610\n");
  EXPECT_EQ(read("0::/a/b\n").left_bytes, 10u);
}

TEST_F(CgroupMemoryTest, AGroupOverItsLimitLeavesNothing) {
  write("a/memory.max", "100");
  write("a/memory.current", "170");
  EXPECT_EQ(read("0::/a\n").left_bytes, 0u);
}

TEST_F(CgroupMemoryTest, NoLimitIsNoNumber) {
  write("a/memory.max", "max");
  write("a/memory.current", "170");
  EXPECT_EQ(read("0::/a\n").left_bytes, std::nullopt);
  EXPECT_EQ(read("").left_bytes, std::nullopt);
  EXPECT_EQ(read("nonsense").left_bytes, std::nullopt);
  EXPECT_EQ(read("0::/elsewhere/not/there\n").left_bytes, std::nullopt);
}

TEST_F(CgroupMemoryTest, KnowsVersionOne) {
  write("memory/x/memory.limit_in_bytes", "5000\n");
  write("memory/x/memory.usage_in_bytes", "3000\n");
  write("memory/x/memory.max_usage_in_bytes", "4000\n");
  write("memory/x/memory.stat", "active_file 7\ntotal_inactive_file 400\ntotal_active_file 100\n");
  write("memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("memory/memory.usage_in_bytes", "1\n");
  const auto memory = read("9:name=systemd:/\n4:cpu,memory:/x\n0::/\n");
  EXPECT_EQ(memory.left_bytes, 2500u);
  EXPECT_EQ(memory.peak_bytes, 4000u);
}

TEST_F(CgroupMemoryTest, InAContainerTheMountIsTheGroup) {
  write("memory.max", "900");
  write("memory.current", "100");
  EXPECT_EQ(read("0::/not/visible/in/here\n").left_bytes, 800u);
}

TEST(CgroupMemory, CanBeReadHere) {
  (void)read_cgroup_memory();  // whatever this machine has, it is not a crash
}

}  // namespace
}  // namespace ds4::agent
