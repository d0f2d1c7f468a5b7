"""What a client says of itself, and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from typing import Any

import ds4
from agent import PATIENCE_S, eventually
from case import ANSWER, QUESTION, Case


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


class Arguments(Case):
    def test_what_breaks_its_bounds_is_a_value_error_that_names_it(self) -> None:
        wrong: dict[str, Any] = {
            "temperature": -1.0,
            "top_p": 0.0,
            "min_p": 1.0,
            "top_k": -1,
            "max_tokens": -1,
            "seed": 1 << 64,
        }
        for name, value in wrong.items():
            with self.subTest(name), self.assertRaisesRegex(ValueError, name) as caught:
                self.client.generate(QUESTION, **{name: value})
            assert isinstance(caught.exception, ds4.InvalidError)
            self.assertFalse(caught.exception.retryable)
        self.assertEqual(self.client.info().requests, 0)

    def test_tokens_outside_the_vocabulary_are_out_of_range(self) -> None:
        for token in (-1, self.client.info().vocabulary, 1 << 40):
            with self.subTest(token), self.assertRaises(ds4.OutOfRangeError):
                self.client.generate([token])

    def test_prompts_beyond_the_context_are_out_of_range(self) -> None:
        with self.assertRaises(ds4.OutOfRangeError):
            self.client.generate([5] * (self.client.info().context + 1))

    def test_an_empty_prompt_needs_a_session(self) -> None:
        with self.assertRaises(ds4.InvalidError):
            self.client.generate([])

    def test_chats_in_a_wrong_order_or_with_a_wrong_role_are_refused(self) -> None:
        with self.assertRaises(ds4.InvalidError):
            self.client.chat([("user", "a"), ("user", "b")])
        with self.assertRaisesRegex(ds4.InvalidError, "narrator"):
            self.client.chat([("narrator", "a")])

    def test_control_tokens_in_a_text_need_permission(self) -> None:
        eos = self.client.info().eos
        assert eos is not None
        text = self.client.detokenize([eos], control=True)
        self.assertEqual(self.client.tokenize(text, control=True), [eos])
        self.assertNotIn(eos, self.client.tokenize(text))

    def test_long_texts_and_odd_ones_survive(self) -> None:
        for text in ("", "a\0b", "word " * 5000):
            self.assertEqual(self.client.detokenize(self.client.tokenize(text)), text)

    def test_a_closed_client_says_so(self) -> None:
        self.client.close()
        self.client.close()
        with self.assertRaisesRegex(ds4.InvalidError, "closed"):
            self.client.info()
        with self.assertRaisesRegex(ds4.InvalidError, "closed"):
            self.client.generate(QUESTION)

    def test_a_second_thread_is_refused_while_the_first_waits(self) -> None:
        self.agent.signal(signal.SIGSTOP)
        self.addCleanup(self.agent.signal, signal.SIGCONT)
        answer = self.client.generate(QUESTION)
        reader = threading.Thread(target=answer.read)
        reader.start()

        def refused() -> bool:
            try:
                self.client.info()
            except ds4.InvalidError as why:
                return "thread" in str(why)
            return False

        self.assertTrue(eventually(refused))
        self.agent.signal(signal.SIGCONT)
        reader.join()
        self.assertEqual(answer.text, ANSWER)


class Information(Case):
    def test_info_says_what_the_agent_serves(self) -> None:
        info = self.client.info()
        self.assertEqual(info.route_state, "ready")
        self.assertTrue(info.has_text and info.connected)
        self.assertGreater(info.context, 0)
        self.assertEqual(info.requests, 0)

    def test_errors_are_named_as_their_statuses(self) -> None:
        classes = ds4.Error.__subclasses__()
        self.assertGreater(len(classes), 10)
        for error in classes:
            words = re.findall("[A-Z][a-z]*", error.__name__.removesuffix("Error"))
            self.assertEqual(error("a sentence").name, "_".join(words).lower())

    def test_the_library_is_found_where_the_environment_says(self) -> None:
        done = run_python("import ds4", DS4_CLIENT_LIBRARY="/nowhere/libds4client.so.1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("ImportError", done.stderr)
        self.assertIn("DS4_CLIENT_LIBRARY", done.stderr)

    def test_the_end_of_the_program_is_quiet_in_the_middle_of_an_answer(self) -> None:
        done = run_python(
            "import ds4, threading\n"
            "client = ds4.connect()\n"
            "answer = client.generate(client.tokenize('a'), stop_at_eos=False)\n"
            "threading.Thread(target=answer.read, daemon=True).start()\n"
            "session = ds4.connect().session()\n"
            "kept = iter(session.generate('Hello'))\n"
            "next(kept)\n",
            DS4_SOCKET=str(self.agent.socket),
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assert_nothing_left()

    def test_a_forked_child_is_told_to_connect_again(self) -> None:
        pid = os.fork()
        if pid == 0:
            try:
                self.client.info()
            except ds4.InvalidError as why:
                os._exit(0 if "fork" in str(why) else 1)
            os._exit(2)
        self.assertEqual(os.waitpid(pid, 0)[1], 0)
        self.assertEqual(self.client.generate(QUESTION).read(), ANSWER)
