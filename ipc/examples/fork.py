"""One document, several questions: it is read once, and every question gets a fork of that session."""

import ds4

document = "What is the capital of France?"
questions = ["What is 37 + 45?", "Which continent is Kenya in?"]

with ds4.connect() as agent, agent.session() as reader:
    print(reader.generate(document).read())
    for question in questions:
        with reader.fork() as branch:
            print(question, branch.generate(question).read())
