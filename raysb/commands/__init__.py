"""One file per command: `HELP`, its text, and `run(words)`, which returns the exit code."""

COMMANDS = {
    "train": "train a model; without arguments on 5,000 real digits (needs the extra `demo`)",
    "eval": "evaluate a finished run again, or on other rows",
    "score": "loss, margin, entropy and prediction of every row, without training",
    "history": "what a run learned about every sample: wrong labels, hard and forgotten ones",
    "tsne": "a map of a run's rows, by t-SNE of its last layer",
    "prune": "remove the channels of a run's model that matter least, and load it smaller",
    "export": "write a run's model as one file that torch.export loads without raysb",
    "plan": "does selecting pay here? measures costs, predicts every selector, recommends",
    "config": "print the configuration that file and flags come to",
    "doctor": "what would not work here, and which flag mends it",
    "data": "convert pictures and CSV to parquet, and look into parquet",
}
