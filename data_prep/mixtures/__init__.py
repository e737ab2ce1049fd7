"""Mixtures: the `blend:` of each phase, computed from token counts, wanted epochs and shares."""
