"""Evaluation: asks a model a suite's questions by greedy generation and scores the answers."""
