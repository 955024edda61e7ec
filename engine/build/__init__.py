"""Build objects from a checked configuration: the only package that uses both torch and OmegaConf."""
