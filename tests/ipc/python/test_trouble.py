"""Agents that are not there, not ready, or go away."""

from __future__ import annotations

import asyncio
import unittest

import ds4
from agent import PATIENCE_S, Agent
from case import QUESTION, endless


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
