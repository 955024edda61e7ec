"""From a configuration to a trained network: compose, build, fit, evaluate, save, log."""
