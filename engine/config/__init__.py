"""From words typed to a checked configuration: schema, options, combinations, resume. It knows no torch."""
