"""How fast the library and the lectures are: ratios to plain PyTorch, seconds, memory.

    make bench

prints a table and writes _build/bench/<date>-<host>.json with a description of the machine. What is
compared runs interleaved in one process, so that a slow moment of the machine slows both sides alike.
"""
