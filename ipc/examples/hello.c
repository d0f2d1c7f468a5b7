/* cc hello.c $(pkg-config --cflags --libs ds4client) */
#include <ds4.h>
#include <stdio.h>

static int fail(void) {
  fprintf(stderr, "%s\n", ds4_last_error());
  return 1;
}

int main(void) {
  static const char question[] = "What is the capital of France?";
  const ds4_message message = {DS4_USER, question, sizeof(question) - 1};
  ds4_token prompt[64];
  ds4_request request = DS4_REQUEST_INIT;
  request.prompt = prompt;
  request.flags = DS4_STOP_AT_EOS;

  ds4_client* client = NULL;
  ds4_decoder* decoder = NULL;
  uint64_t id = 0;
  if (ds4_connect(NULL, NULL, &client) != DS4_OK) return fail();
  if (ds4_chat(client, &message, 1, 0, prompt, 64, &request.prompt_tokens) != DS4_OK) return fail();
  if (ds4_decoder_new(client, &decoder) != DS4_OK) return fail();
  if (ds4_submit(client, &request, &id) != DS4_OK) return fail();

  ds4_event event;
  do {
    const char* text = "";
    size_t bytes = 0;
    if (ds4_next(client, &event, -1) != DS4_OK) return fail();
    if (event.kind == DS4_EVENT_TOKEN) ds4_decoder_push(decoder, event.token, &text, &bytes);
    fwrite(text, 1, bytes, stdout);
  } while (event.kind != DS4_EVENT_FINAL);
  puts(ds4_is_error(event.status) ? event.sentence : "");

  ds4_decoder_free(decoder);
  ds4_close(client);
  return ds4_is_error(event.status);
}
