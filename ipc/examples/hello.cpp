// c++ -std=c++20 hello.cpp $(pkg-config --cflags --libs ds4client)
#include <ds4.hpp>
#include <iostream>

using namespace ds4::client;

int main() {
  Connection agent;
  Decoder decoder = agent.decoder();
  const auto prompt = agent.chat("What is the capital of France?");
  agent.submit({.prompt = prompt});
  for (const Event& event : agent.events()) {
    if (is_token(event)) std::cout << decoder.push(event.token) << std::flush;
    if (is_error(event)) std::cerr << event.sentence;
  }
  std::cout << decoder.finish() << '\n';
}
