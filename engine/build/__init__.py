"""From a checked configuration to objects: the only room that knows torch and OmegaConf both."""
