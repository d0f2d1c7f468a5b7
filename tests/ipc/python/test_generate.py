"""Answers in for loops, and every way to leave them."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref

import ds4
from case import ANSWER, QUESTION, Case, endless


class Generate(Case):
    def test_yields_the_answer_piece_by_piece(self) -> None:
        pieces = list(self.client.generate(QUESTION))
        self.assertEqual("".join(pieces), ANSWER)
        self.assertGreater(len(pieces), 3)

    def test_works_on_a_connection_that_nobody_else_holds(self) -> None:
        self.assertEqual("".join(ds4.connect(self.agent.socket).generate(QUESTION)), ANSWER)

    def test_finds_the_socket_in_the_environment(self) -> None:
        os.environ["DS4_SOCKET"] = str(self.agent.socket)
        self.addCleanup(os.environ.pop, "DS4_SOCKET")
        self.assertEqual(ds4.connect().generate(QUESTION).read(), ANSWER)

    def test_tokens_know_their_facts(self) -> None:
        answer = self.client.generate(QUESTION, logprobs=True)
        tokens = list(answer)
        prompt = self.client.chat([("user", QUESTION)])
        self.assertEqual(self.client.detokenize([token.id for token in tokens]), ANSWER)
        self.assertEqual(
            [token.position for token in tokens],
            list(range(len(prompt), len(prompt) + len(tokens))),
        )
        self.assertTrue(all(token.logprob < 0 for token in tokens))
        assert answer.final is not None
        self.assertEqual(answer.final.status, "ok_stop")
        self.assertEqual(answer.final.stop_token, self.client.info().eos)
        self.assertEqual(answer.final.prompt_tokens, len(prompt))
        self.assertEqual(answer.final.generated_tokens, len(tokens))

    def test_takes_messages_and_token_ids_as_well(self) -> None:
        self.assertEqual(self.client.generate([("user", QUESTION)]).read(), ANSWER)
        prompt = self.client.chat([ds4.Message("user", QUESTION)])
        self.assertEqual(self.client.generate(prompt).read(), ANSWER)

    def test_read_is_the_whole_text_also_after_a_part_was_taken(self) -> None:
        answer = self.client.generate(QUESTION)
        loop = iter(answer)
        first = next(loop)
        self.assertEqual(answer.text, first)
        self.assertEqual(answer.read(), ANSWER)

    def test_max_tokens_and_stop_tokens_end_it(self) -> None:
        answer = self.client.generate(QUESTION, max_tokens=3)
        self.assertEqual(len(list(answer)), 3)
        assert answer.final is not None
        self.assertEqual((answer.final.status, answer.final.stop_token), ("ok_length", None))
        third = list(self.client.generate(QUESTION))[2].id
        stopped = self.client.generate(QUESTION, stop=[third])
        self.assertEqual(len(list(stopped)), 2)
        assert stopped.final is not None
        self.assertEqual(stopped.final.stop_token, third)

    def test_the_seed_decides_the_answer(self) -> None:
        def sample(seed: int) -> list[int]:
            answer = self.client.generate(
                QUESTION, seed=seed, temperature=1.5, max_tokens=40, stop_at_eos=False
            )
            return [token.id for token in answer]

        self.assertEqual(sample(7), sample(7))
        self.assertNotEqual(sample(7), sample(8))

    def test_two_answers_may_be_taken_alternately(self) -> None:
        both = zip(self.client.generate(QUESTION), self.client.generate(QUESTION))
        self.assertEqual("".join(a for a, b in both if a == b), ANSWER)

    def test_a_character_of_several_tokens_comes_whole(self) -> None:
        text = "日本語 🐋"
        self.assertEqual(self.client.detokenize(self.client.tokenize(text)), text)
        for token in endless(self.client, temperature=2.0, seed=3, max_tokens=200):
            token.encode()  # would fail on a half of a character

    def test_tells_the_progress_of_the_prompt(self) -> None:
        seen: list[tuple[int, int]] = []
        prompt = self.client.tokenize("ocean " * 1200)
        self.client.generate(
            prompt, max_tokens=1, progress=lambda done, total: seen.append((done, total))
        ).read()
        self.assertTrue(all(0 < done <= total == len(prompt) for done, total in seen))
        self.assertGreater(len(seen), 0)


class Ending(Case):
    def test_leaving_the_loop_cancels_the_request(self) -> None:
        answer = endless(self.client)
        for _ in answer:
            break
        self.assert_nothing_left()
        answer.read()
        assert answer.final is not None
        self.assertEqual(answer.final.status, "cancelled")

    def test_an_error_in_the_loop_cancels_the_request(self) -> None:
        with self.assertRaises(ZeroDivisionError):
            for _ in endless(self.client):
                1 // 0
        self.assert_nothing_left()

    def test_cancel_ends_the_loop_without_an_error(self) -> None:
        answer = endless(self.client)
        for count, _ in enumerate(answer):
            if count == 2:
                answer.cancel()
        assert answer.final is not None
        self.assertEqual(answer.final.status, "cancelled")

    def test_the_end_of_a_with_block_cancels(self) -> None:
        with endless(self.client) as answer:
            pass
        answer.read()
        assert answer.final is not None
        self.assertEqual(answer.final.status, "cancelled")

    def test_a_dropped_answer_is_cancelled(self) -> None:
        endless(self.client)
        self.assert_nothing_left()

    def test_nothing_waits_for_the_garbage_collector(self) -> None:
        gc.disable()
        self.addCleanup(gc.enable)
        client = ds4.connect(self.agent.socket)
        answer = client.generate(QUESTION)
        answer.read()
        gone: list[str] = []
        weakref.finalize(answer, gone.append, "answer")
        weakref.finalize(client._connection, gone.append, "connection")
        del answer, client
        self.assertEqual(gone, ["answer", "connection"])

    def test_a_dropped_client_leaves_no_descriptor_and_no_session(self) -> None:
        self.client.close()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            client = ds4.connect(self.agent.socket)
            for _ in endless(client.session()):
                break
        del client
        gc.collect()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assert_nothing_left()

    def test_ctrl_c_ends_the_wait_and_the_request(self) -> None:
        answer = endless(self.client)
        with self.assertRaises(KeyboardInterrupt):
            for count, _ in enumerate(answer):
                if count == 0:
                    os.kill(os.getpid(), signal.SIGINT)
        self.assert_nothing_left()
        self.assertEqual(self.client.generate(QUESTION).read(), ANSWER)

    def test_ctrl_c_reaches_a_loop_that_waits_for_a_token(self) -> None:
        self.agent.signal(signal.SIGSTOP)
        self.addCleanup(self.agent.signal, signal.SIGCONT)
        answer = self.client.generate(QUESTION)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with self.assertRaises(KeyboardInterrupt):
            answer.read()

    def test_a_late_token_is_a_timeout_error_that_may_be_tried_again(self) -> None:
        self.agent.signal(signal.SIGSTOP)
        try:
            with self.assertRaises(TimeoutError) as caught:
                self.client.generate(QUESTION, timeout=0.05).read()
        finally:
            self.agent.signal(signal.SIGCONT)
        assert isinstance(caught.exception, ds4.TimeoutError)
        self.assertTrue(caught.exception.retryable)
        self.assertEqual(self.client.generate(QUESTION).read(), ANSWER)
