"""The ground: errors, console, signals, a run's directory, this process among several. It knows no torch."""
