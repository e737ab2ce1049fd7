"""Reading `.bin/.idx` builds: which tokens make up sample number n is a pure function, decided here."""
