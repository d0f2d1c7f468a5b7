#include "tests/ctl/subprocess.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

namespace ds4::ctl {

Subprocess::Subprocess(const std::string& program, const std::vector<std::string>& arguments) {
  std::vector<std::string> words = {DS4_BINARY_DIR "/bin/" + program};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);

  int out[2] = {-1, -1};
  int err[2] = {-1, -1};
  EXPECT_EQ(::pipe2(out, O_CLOEXEC), 0);
  EXPECT_EQ(::pipe2(err, O_CLOEXEC), 0);
  pid_ = ::fork();
  if (pid_ == 0) {
    ::dup2(::open("/dev/null", O_RDONLY | O_CLOEXEC), STDIN_FILENO);
    ::dup2(out[1], STDOUT_FILENO);
    ::dup2(err[1], STDERR_FILENO);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(out[1]);
  ::close(err[1]);
  out_.reset(out[0]);
  err_.reset(err[0]);
}

Subprocess::~Subprocess() {
  if (pid_ <= 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Subprocess::signal(int number) const {
  ::kill(pid_, number);
}

bool Subprocess::read_some() {
  pollfd fds[2] = {{out_.get(), POLLIN, 0}, {err_.get(), POLLIN, 0}};  // poll skips closed ones
  if (!out_ && !err_) return false;
  if (::poll(fds, 2, -1) < 0) return true;
  char buffer[4096];
  for (const bool is_out : {true, false}) {
    UniqueFd& fd = is_out ? out_ : err_;
    if (fds[is_out ? 0 : 1].revents == 0) continue;
    const ssize_t got = ::read(fd.get(), buffer, sizeof(buffer));
    if (got <= 0) {
      fd.reset();
    } else {
      (is_out ? result_.out : result_.err).append(buffer, static_cast<std::size_t>(got));
    }
  }
  return true;
}

bool Subprocess::wait_for(const std::string& text) {
  for (;;) {
    if (result_.out.find(text) != std::string::npos) return true;
    if (result_.err.find(text) != std::string::npos) return true;
    if (!read_some()) return false;
  }
}

Finished Subprocess::finish() {
  while (read_some()) {
  }
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  result_.exit_code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  return result_;
}

Finished run_program(const std::string& program, const std::vector<std::string>& arguments) {
  return Subprocess(program, arguments).finish();
}

std::string temp_file(const std::string& name, const std::string& content) {
  // One folder for each test process: CTest may run several at once.
  const std::string path = testing::TempDir() + std::to_string(::getpid()) + "-" + name;
  std::ofstream(path, std::ios::binary) << content;
  return path;
}

std::string source_path(const std::string& path) {
  return DS4_SOURCE_DIR "/" + path;
}

}  // namespace ds4::ctl
