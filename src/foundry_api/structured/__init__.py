"""Answers that a program can use: schemas, choices and grammars, checked and asked for again."""
