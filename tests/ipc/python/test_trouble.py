"""Agents that are not there, not ready, or go away."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import unittest

import ds4
from agent import PATIENCE_S, Agent
from case import ANSWER, QUESTION, endless


class Trouble(unittest.TestCase):
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


class Restart(unittest.TestCase):
    """Agents that go away and come back."""

    def setUp(self) -> None:
        self.agent = Agent()
        self.addCleanup(self.agent.close)
        self.client = ds4.connect(self.agent.socket, reconnect=PATIENCE_S)
        self.addCleanup(self.client.close)

    def restart(self) -> None:
        self.agent.kill()
        self.agent.start()

    def sample(self) -> ds4.Answer:
        return endless(self.client, temperature=1.0, seed=4, max_tokens=200, resume=True)

    def test_an_answer_goes_on_at_the_very_next_token(self) -> None:
        undisturbed = [(token.id, token.position) for token in self.sample()]
        disturbed = []
        for token in self.sample():
            disturbed.append((token.id, token.position))
            if len(disturbed) == 3:
                self.restart()
        self.assertEqual(disturbed, undisturbed)
        self.assertEqual(self.client.info().reconnects, 1)

    def test_an_answer_in_an_event_loop_goes_on_as_well(self) -> None:
        async def main() -> None:
            undisturbed = await self.sample()
            disturbed = self.sample()
            taken = 0
            async for _ in disturbed:
                taken += 1
                if taken == 3:
                    self.restart()
            self.assertEqual(disturbed.text, undisturbed)

        asyncio.run(asyncio.wait_for(main(), 2 * PATIENCE_S))

    def test_what_was_not_to_be_resumed_fails_and_the_client_goes_on(self) -> None:
        with self.assertRaises(ds4.AgentShutdownError) as caught:
            for _ in endless(self.client, resume=False):
                self.restart()
        self.assertTrue(caught.exception.retryable)
        self.assertEqual(self.client.generate(QUESTION, resume=True).read(), ANSWER)

    def test_a_session_is_not_forgotten(self) -> None:
        with self.client.session() as session, session.fork() as other:
            for one in (session, other):
                one.generate(QUESTION).read()
            undisturbed = other.generate("What is 37 + 45?").read()
            self.restart()
            answer = session.generate("What is 37 + 45?", resume=True)
            self.assertEqual(answer.read(), undisturbed)

    def test_ctrl_c_reaches_the_search_for_an_agent(self) -> None:
        self.agent.kill()
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with self.assertRaises(KeyboardInterrupt):
            self.client.generate(QUESTION)
        self.agent.start()
        self.assertEqual(self.client.generate(QUESTION, resume=True).read(), ANSWER)

    def test_a_session_of_a_dead_agent_is_closed_without_waiting_for_another(self) -> None:
        session = self.client.session()
        session.generate(QUESTION).read()
        self.agent.kill()
        closing = threading.Thread(target=session.close)
        closing.start()
        closing.join(PATIENCE_S / 2)  # less than the search for an agent takes
        self.assertFalse(closing.is_alive())
