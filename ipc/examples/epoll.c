/* Two answers at once in one epoll loop: where an agent's events are one of many things to wait
 * for.
 *
 * cc epoll.c $(pkg-config --cflags --libs ds4client) */
#include <ds4.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { kQuestions = 2, kMostTokens = 64 };

typedef struct answer {
  const char* question;
  uint64_t request;
  ds4_decoder* decoder;
  char text[512];
} answer;

static int ask(ds4_client* client, answer* a) {
  const ds4_message message = {DS4_USER, a->question, strlen(a->question)};
  ds4_token prompt[kMostTokens];
  ds4_request request = DS4_REQUEST_INIT;
  request.prompt = prompt;
  request.flags = DS4_STOP_AT_EOS;
  return ds4_chat(client, &message, 1, 0, prompt, kMostTokens, &request.prompt_tokens) == DS4_OK &&
         ds4_decoder_new(client, &a->decoder) == DS4_OK &&
         ds4_submit(client, &request, &a->request) == DS4_OK;
}

/* True if that was the answer's end. */
static int take(answer* a, const ds4_event* event) {
  const char* text = NULL;
  size_t bytes = 0;
  if (event->kind == DS4_EVENT_TOKEN &&
      ds4_decoder_push(a->decoder, event->token, &text, &bytes) == DS4_OK &&
      strlen(a->text) + bytes < sizeof(a->text))
    strncat(a->text, text, bytes);
  if (event->kind != DS4_EVENT_FINAL) return 0;
  printf("%s %s\n", a->question, ds4_is_error(event->status) ? event->sentence : a->text);
  ds4_decoder_free(a->decoder);
  return 1;
}

int main(void) {
  answer answers[kQuestions] = {{.question = "What is the capital of France?"},
                                {.question = "What is 37 + 45?"}};
  ds4_client* client = NULL;
  if (ds4_connect(NULL, NULL, &client) != DS4_OK) return puts(ds4_last_error()), 1;
  for (int i = 0; i < kQuestions; ++i)
    if (!ask(client, &answers[i])) return puts(ds4_last_error()), 1;

  const int loop = epoll_create1(EPOLL_CLOEXEC);
  struct epoll_event interest = {.events = EPOLLIN};
  epoll_ctl(loop, EPOLL_CTL_ADD, ds4_event_fd(client), &interest);

  for (int left = kQuestions; left > 0;) {
    /* First take all there is: only a look that found nothing makes the descriptor speak. */
    ds4_event event;
    ds4_status status;
    while ((status = ds4_next(client, &event, 0)) == DS4_OK)
      for (int i = 0; i < kQuestions; ++i)
        if (event.request == answers[i].request) left -= take(&answers[i], &event);
    if (status != DS4_TIMEOUT) return puts(ds4_last_error()), 1;
    if (left > 0) epoll_wait(loop, &interest, 1, -1);
  }
  close(loop);
  ds4_close(client);
  return 0;
}
