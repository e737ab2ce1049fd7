"""Needle in the code: prompts that ask for a value which stands somewhere in a long context of real code."""
