"""Text classifiers over a corpus: fastText, trained on labelled documents, measured on sites that it has not seen."""
