"""Evaluates a model: greedy answers to a suite's questions, lm-eval's benchmarks, perplexity, loss of right answers."""
