"""Parse and check the command line: schema, options, combinations, resume. It does not import torch."""
