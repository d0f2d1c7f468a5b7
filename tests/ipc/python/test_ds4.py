"""The module ds4 against a real agent with the embedded model."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import unittest
from typing import Any, Coroutine

import ds4
from agent import PATIENCE_S, Agent, eventually

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."
agent: Agent


def setUpModule() -> None:
    global agent
    agent = Agent()


def tearDownModule() -> None:
    agent.close()


def sessions_of(an_agent: Agent) -> int:
    return int(json.loads(an_agent.ctl("status", "--json"))["nodes"][0]["sessions"])


def endless(client: ds4.Client | ds4.Session, **options: Any) -> ds4.Answer:
    """An answer that goes on until the context is full."""
    tokens = client.tokenize("The ocean") if isinstance(client, ds4.Client) else [5, 6, 7]
    return client.generate(tokens, stop_at_eos=False, **options)


class Case(unittest.TestCase):
    def setUp(self) -> None:
        self.client = ds4.connect(agent.socket, name="test_ds4")
        self.addCleanup(self.client.close)

    def assert_nothing_left(self) -> None:
        self.assertTrue(eventually(lambda: sessions_of(agent) == 0))


class Generate(Case):
    def test_yields_the_answer_piece_by_piece(self) -> None:
        pieces = list(self.client.generate(QUESTION))
        self.assertEqual("".join(pieces), ANSWER)
        self.assertGreater(len(pieces), 3)

    def test_works_on_a_connection_that_nobody_else_holds(self) -> None:
        self.assertEqual("".join(ds4.connect(agent.socket).generate(QUESTION)), ANSWER)

    def test_finds_the_socket_in_the_environment(self) -> None:
        os.environ["DS4_SOCKET"] = str(agent.socket)
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

    def test_a_dropped_client_leaves_no_descriptor_and_no_session(self) -> None:
        self.client.close()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            client = ds4.connect(agent.socket)
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
        agent.signal(signal.SIGSTOP)
        self.addCleanup(agent.signal, signal.SIGCONT)
        answer = self.client.generate(QUESTION)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with self.assertRaises(KeyboardInterrupt):
            answer.read()

    def test_a_late_token_is_a_timeout_error_that_may_be_tried_again(self) -> None:
        agent.signal(signal.SIGSTOP)
        try:
            with self.assertRaises(TimeoutError) as caught:
                self.client.generate(QUESTION, timeout=0.05).read()
        finally:
            agent.signal(signal.SIGCONT)
        assert isinstance(caught.exception, ds4.TimeoutError)
        self.assertTrue(caught.exception.retryable)
        self.assertEqual(self.client.generate(QUESTION).read(), ANSWER)


class Async(Case):
    def run_async(self, main: Coroutine[Any, Any, None]) -> None:
        asyncio.run(asyncio.wait_for(main, PATIENCE_S))

    def test_async_for_yields_the_answer(self) -> None:
        async def main() -> None:
            self.assertEqual(
                "".join([token async for token in self.client.generate(QUESTION)]), ANSWER
            )

        self.run_async(main())

    def test_many_answers_share_one_loop_and_one_connection(self) -> None:
        async def main() -> None:
            many = min(16, self.client.info().max_requests)
            answers = [self.client.generate(QUESTION) for _ in range(many)]
            self.assertEqual(await asyncio.gather(*answers_text(answers)), [ANSWER] * many)

        self.run_async(main())

    def test_the_loop_is_free_while_an_answer_is_awaited(self) -> None:
        async def main() -> None:
            agent.signal(signal.SIGSTOP)
            waiting = asyncio.ensure_future(answer_text(self.client.generate(QUESTION)))
            for _ in range(5):
                await asyncio.sleep(0.01)
            self.assertFalse(waiting.done())
            agent.signal(signal.SIGCONT)
            self.assertEqual(await waiting, ANSWER)

        self.run_async(main())

    def test_a_cancelled_task_cancels_its_request(self) -> None:
        async def take() -> None:
            async for _ in endless(self.client):
                pass

        async def main() -> None:
            task = asyncio.ensure_future(take())
            await asyncio.sleep(0.05)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            self.assertEqual(await self.client.generate(QUESTION), ANSWER)

        self.run_async(main())
        self.assert_nothing_left()

    def test_leaving_the_loop_cancels_the_request(self) -> None:
        async def main() -> None:
            async for _ in endless(self.client):
                break
            self.assertEqual(await self.client.generate(QUESTION), ANSWER)

        self.run_async(main())
        self.assert_nothing_left()

    def test_a_late_token_is_a_timeout_error(self) -> None:
        async def main() -> None:
            agent.signal(signal.SIGSTOP)
            try:
                with self.assertRaises(ds4.TimeoutError):
                    await self.client.generate(QUESTION, timeout=0.05)
            finally:
                agent.signal(signal.SIGCONT)
            self.assertEqual(await self.client.generate(QUESTION), ANSWER)

        self.run_async(main())

    def test_closing_wakes_who_waits(self) -> None:
        async def main() -> None:
            agent.signal(signal.SIGSTOP)
            try:
                waiting = asyncio.ensure_future(answer_text(self.client.generate(QUESTION)))
                await asyncio.sleep(0.05)
                self.client.close()
                with self.assertRaisesRegex(ds4.InvalidError, "closed"):
                    await waiting
            finally:
                agent.signal(signal.SIGCONT)

        self.run_async(main())


async def answer_text(answer: ds4.Answer) -> str:
    return await answer


def answers_text(answers: list[ds4.Answer]) -> list[Coroutine[Any, Any, str]]:
    return [answer_text(answer) for answer in answers]


class Sessions(Case):
    def test_a_second_turn_equals_the_whole_conversation_at_once(self) -> None:
        follow_up = "Which continent is Kenya in?"
        with self.client.session() as session:
            first = session.generate(QUESTION).read()
            second = session.generate(follow_up)
            text = second.read()
        at_once = self.client.generate(
            [("user", QUESTION), ("assistant", first), ("user", follow_up)]
        )
        self.assertEqual(text, at_once.read())
        assert second.final is not None and at_once.final is not None
        self.assertLess(second.final.prompt_tokens, at_once.final.prompt_tokens)
        self.assert_nothing_left()

    def test_an_answer_that_was_left_is_waited_for(self) -> None:
        with self.client.session() as session:
            for _ in endless(session):
                break
            self.assertIsInstance(session.generate(QUESTION, max_tokens=8).read(), str)
        self.assert_nothing_left()

    def test_a_fork_goes_on_apart(self) -> None:
        with self.client.session() as session:
            session.generate(QUESTION).read()
            with session.fork() as copy:
                self.assertEqual(
                    copy.generate("What is 37 + 45?").read(),
                    session.generate("What is 37 + 45?").read(),
                )
            self.assertIsInstance(session.generate(QUESTION).read(), str)
        self.assert_nothing_left()

    def test_a_fork_of_nothing_is_a_new_session(self) -> None:
        with self.client.session() as session, session.fork() as copy:
            self.assertEqual(copy.generate(QUESTION).read(), ANSWER)
            self.assertEqual(session.generate(QUESTION).read(), ANSWER)

    def test_a_dropped_session_is_forgotten(self) -> None:
        session = self.client.session()
        session.generate(QUESTION).read()
        self.assertEqual(sessions_of(agent), 1)
        del session
        self.assert_nothing_left()

    def test_a_session_dropped_before_its_answer_is_forgotten_at_its_end(self) -> None:
        self.assertEqual(self.client.session().generate(QUESTION).read(), ANSWER)
        self.client.info()  # any call does what is left to do
        self.assert_nothing_left()

    def test_a_closed_session_says_so(self) -> None:
        session = self.client.session()
        session.generate(QUESTION).read()
        session.close()
        session.close()
        with self.assertRaisesRegex(ds4.UnknownSessionError, "closed"):
            session.generate(QUESTION)
        self.assert_nothing_left()


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
        agent.signal(signal.SIGSTOP)
        self.addCleanup(agent.signal, signal.SIGCONT)
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
        agent.signal(signal.SIGCONT)
        reader.join()
        self.assertEqual(answer.text, ANSWER)


class Information(Case):
    def test_info_says_what_the_agent_serves(self) -> None:
        info = self.client.info()
        self.assertEqual(info.route_state, "ready")
        self.assertTrue(info.has_text and info.connected)
        self.assertGreater(info.context, 0)
        self.assertEqual(info.requests, 0)

    def test_the_library_is_found_where_the_environment_says(self) -> None:
        done = run_python("import ds4", DS4_CLIENT_LIBRARY="/nowhere/libds4client.so.1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("ImportError", done.stderr)
        self.assertIn("DS4_CLIENT_LIBRARY", done.stderr)

    def test_the_end_of_the_program_is_quiet_in_the_middle_of_an_answer(self) -> None:
        done = run_python(
            "import ds4, threading\n"
            f"client = ds4.connect({str(agent.socket)!r})\n"
            "answer = client.generate(client.tokenize('a'), stop_at_eos=False)\n"
            "threading.Thread(target=answer.read, daemon=True).start()\n"
            "session = ds4.connect(client_socket := " + repr(str(agent.socket)) + ").session()\n"
            "kept = iter(session.generate('Hello'))\n"
            "next(kept)\n"
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


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )


class Trouble(unittest.TestCase):
    """Agents that are not there, not ready, or go away."""

    def test_no_agent_is_an_error_that_may_be_tried_again(self) -> None:
        with self.assertRaisesRegex(ds4.NoAgentError, "/nowhere/ds4.sock") as caught:
            ds4.connect("/nowhere/ds4.sock")
        self.assertTrue(caught.exception.retryable)
        self.assertEqual(caught.exception.name, "no_agent")
        self.assertIsInstance(caught.exception, ConnectionError)

    def test_an_agent_without_layers_says_that_it_is_not_ready(self) -> None:
        with Agent(assigned=False) as idle, ds4.connect(idle.socket) as client:
            self.assertNotEqual(client.info().route_state, "ready")
            with self.assertRaises(ds4.RouteNotReadyError) as caught:
                client.generate(QUESTION).read()
            self.assertTrue(caught.exception.retryable)

    def test_a_killed_agent_ends_the_answer_with_an_error_that_may_be_tried_again(self) -> None:
        with Agent() as doomed, ds4.connect(doomed.socket, reconnect=0) as client:
            with self.assertRaises(ds4.AgentShutdownError) as caught:
                for _ in endless(client, resume=False):
                    doomed.kill()
            self.assertTrue(caught.exception.retryable)

    def test_a_killed_agent_ends_a_task_with_an_error(self) -> None:
        async def main(doomed: Agent, client: ds4.Client) -> None:
            async for _ in endless(client, resume=False):
                doomed.kill()

        with Agent() as doomed, ds4.connect(doomed.socket, reconnect=0) as client:
            with self.assertRaises(ds4.AgentShutdownError):
                asyncio.run(asyncio.wait_for(main(doomed, client), PATIENCE_S))

    def test_a_stopping_agent_says_goodbye(self) -> None:
        with Agent() as leaving, ds4.connect(leaving.socket, reconnect=0) as client:
            with self.assertRaisesRegex(ds4.AgentShutdownError, "shutting down"):
                for _ in endless(client, resume=False):
                    if leaving.is_running():
                        self.assertEqual(leaving.stop(), 0)


if __name__ == "__main__":
    unittest.main()
