"""Oracle scoring: a large model rates a sample of the corpus (Seed-Coder report, section 2.2.1 and appendix A.1)."""
