"""What goes wrong on purpose: kills, full disks, damaged and hostile files, many at once.

One module a subject; `python -m benchmarks.reliability` lists and runs them.
"""
