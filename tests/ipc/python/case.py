"""What the tests of the module share: one agent with the embedded model, and a client of it."""

from __future__ import annotations

import json
import unittest
from typing import Any

import ds4
from agent import Agent, eventually

QUESTION, ANSWER = "What is the capital of France?", "The capital of France is Paris."


def sessions_of(agent: Agent) -> int:
    return int(json.loads(agent.ctl("status", "--json"))["nodes"][0]["sessions"])


def endless(client: ds4.Client | ds4.Session, **options: Any) -> ds4.Answer:
    """An answer that goes on until the context is full."""
    return client.generate([5, 6, 7], stop_at_eos=False, **options)


class Case(unittest.TestCase):
    agent: Agent

    @classmethod
    def setUpClass(cls) -> None:
        cls.agent = Agent()
        cls.addClassCleanup(cls.agent.close)

    def setUp(self) -> None:
        self.client = ds4.connect(self.agent.socket, name="test")
        self.addCleanup(self.client.close)

    def assert_nothing_left(self) -> None:
        self.assertTrue(eventually(lambda: sessions_of(self.agent) == 0))
