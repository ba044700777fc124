"""Plain Python: the words of the program, bytes, orderings, budgets, configs, the disk cache.

Nothing here imports torch or gradio (tests/core/test_rooms.py proves it).
"""
