"""Checkpoints: torch_dist files beside a recipe, a state and a manifest that vouches for all of them."""
