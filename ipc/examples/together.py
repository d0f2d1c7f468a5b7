"""Several answers at once in one event loop, over one connection."""

import asyncio

import ds4

QUESTIONS = ["What is the capital of France?", "What is 37 + 45?", "Which continent is Kenya in?"]


async def ask(agent: ds4.Client, question: str) -> None:
    answer = agent.generate(question)
    async for token in answer:
        await asyncio.sleep(0)  # whatever else the program does
    print(question, answer.text)


async def main() -> None:
    with ds4.connect() as agent:
        await asyncio.gather(*(ask(agent, question) for question in QUESTIONS))


asyncio.run(main())
