"""Where raw code comes from: each source plans pieces of work, and each piece yields documents."""
