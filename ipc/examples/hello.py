import ds4

for token in ds4.connect().generate("What is the capital of France?"):
    print(token, end="", flush=True)
print()
