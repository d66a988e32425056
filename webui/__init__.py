"""Bark Studio's page: a browser in front of bark_core's engine.

`blocks.py` composes the tabs, `jobs.py` stands between page and engine, `history.py` keeps what
was made, `serving.py` decides who can reach it. Importing this package does nothing.
"""
