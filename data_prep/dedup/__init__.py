"""Duplicates of files and of repositories, found by group-bys that do not need to fit into memory."""
