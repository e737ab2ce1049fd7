"""Pages of web archives as documents: WARC files in, text with its code as it was laid out, and facts about each page.

As section 2.2.3 of the Seed-Coder report has it. `run.py` is the stage on a page.
"""
