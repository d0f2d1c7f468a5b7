"""Conversations that go on, and their forks."""

from __future__ import annotations

import ds4
from agent import eventually
from case import ANSWER, QUESTION, Case, endless, sessions_of


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
        self.assertEqual(sessions_of(self.agent), 1)
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
