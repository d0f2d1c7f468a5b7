/* The C header from C: connects to the socket named on the command line, asks, prints, and exits
 * with 0 if every call did what the header says. Compiled as C11 against the shared library. */
#include <stdio.h>
#include <string.h>

#include "ds4.h"

static int fail(const char* what) {
  fprintf(stderr, "%s: %s\n", what, ds4_last_error());
  return 1;
}

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  if (ds4_api_version() < DS4_API_VERSION) return fail("the library is older than the header");

  ds4_client* client = NULL;
  ds4_connect_options options = DS4_CONNECT_OPTIONS_INIT;
  options.name = "c_abi_test";
  if (ds4_connect(argv[1], &options, &client) != DS4_OK) return fail("connect");

  ds4_info info = DS4_INFO_INIT;
  if (ds4_get_info(client, &info) != DS4_OK) return fail("info");
  printf("model %s, vocabulary %u, route %s\n", info.model, (unsigned)info.vocabulary,
         ds4_route_state_name(info.route_state));

  const ds4_token prompt[] = {1, 2, 3};
  ds4_request request = DS4_REQUEST_INIT;
  request.prompt = prompt;
  request.prompt_tokens = sizeof(prompt) / sizeof(prompt[0]);
  request.max_tokens = 4;
  uint64_t id = 0;
  if (ds4_submit(client, &request, &id) != DS4_OK) return fail("submit");

  unsigned tokens = 0;
  ds4_event event;
  while (ds4_next(client, &event, 20000) == DS4_OK && event.kind != DS4_EVENT_FINAL)
    if (event.kind == DS4_EVENT_TOKEN && event.request == id) ++tokens;
  if (event.kind != DS4_EVENT_FINAL || event.status != DS4_OK_LENGTH) return fail("final");
  if (tokens != 4) return fail("tokens");

  request.temperature = -1.0f;
  if (ds4_submit(client, &request, &id) != DS4_INVALID) return fail("a bad request was taken");
  if (strstr(ds4_last_error(), "temperature") == NULL)
    return fail("the sentence names no temperature");
  ds4_close(client);
  printf("ok\n");
  return 0;
}
