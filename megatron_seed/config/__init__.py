"""Recipes as typed, frozen values: schema, presets, loading and layout checks. Stands on nothing of ours."""
