"""The report of evaluate.py: figures, tables, cost, robustness, explanations. It changes no run."""
