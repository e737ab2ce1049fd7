"""The whole pretraining part of the report in miniature, on what is installed on this machine."""
