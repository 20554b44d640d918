"""Answers from a trained model: greedy decoding, exact match on a file of questions, pictures of both."""
