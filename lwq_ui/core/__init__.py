"""Plain Python: the words of the program, bytes, orderings, budgets, the disk cache, exports.

Nothing here imports torch or gradio (tests/core/test_rooms.py proves it).
"""
