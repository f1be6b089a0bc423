"""One file per command: `HELP`, its text, and `run(words)`, which returns the exit code."""

COMMANDS = {
    "train": "train a model; without arguments on 5,000 real digits (needs the extra `demo`)",
}
