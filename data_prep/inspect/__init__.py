"""What a model sees: documents of builds, decoded, with their borders and parts."""
