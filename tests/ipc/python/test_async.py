"""Answers in event loops."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any, Coroutine

import ds4
from agent import PATIENCE_S
from case import ANSWER, QUESTION, Case, endless


async def answer_text(answer: ds4.Answer) -> str:
    return await answer


def answers_text(answers: list[ds4.Answer]) -> list[Coroutine[Any, Any, str]]:
    return [answer_text(answer) for answer in answers]


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
            self.agent.signal(signal.SIGSTOP)
            waiting = asyncio.ensure_future(answer_text(self.client.generate(QUESTION)))
            for _ in range(5):
                await asyncio.sleep(0.01)
            self.assertFalse(waiting.done())
            self.agent.signal(signal.SIGCONT)
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
            self.agent.signal(signal.SIGSTOP)
            try:
                with self.assertRaises(ds4.TimeoutError):
                    await self.client.generate(QUESTION, timeout=0.05)
            finally:
                self.agent.signal(signal.SIGCONT)
            self.assertEqual(await self.client.generate(QUESTION), ANSWER)

        self.run_async(main())

    def test_closing_wakes_who_waits(self) -> None:
        async def main() -> None:
            self.agent.signal(signal.SIGSTOP)
            try:
                waiting = asyncio.ensure_future(answer_text(self.client.generate(QUESTION)))
                await asyncio.sleep(0.05)
                self.client.close()
                with self.assertRaisesRegex(ds4.InvalidError, "closed"):
                    await waiting
            finally:
                self.agent.signal(signal.SIGCONT)

        self.run_async(main())

    def test_a_second_task_may_not_wait_for_the_same_answer(self) -> None:
        async def main() -> None:
            self.agent.signal(signal.SIGSTOP)
            answer = self.client.generate(QUESTION)
            first = asyncio.ensure_future(answer_text(answer))
            await asyncio.sleep(0.01)
            try:
                with self.assertRaisesRegex(ds4.InvalidError, "another task"):
                    await answer
            finally:
                self.agent.signal(signal.SIGCONT)
            await first

        self.run_async(main())

    def test_another_loop_may_take_over_once_the_first_is_done(self) -> None:
        async def main() -> None:
            self.assertEqual(await self.client.generate(QUESTION), ANSWER)

        self.run_async(main())
        self.run_async(main())
