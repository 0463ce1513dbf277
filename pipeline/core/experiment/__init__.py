"""Honest tests: who meets which variant (`assign`), and what came of it (`analysis`). Pure."""
