"""Figures, image grids and tables, one of each. It knows numbers and labels, not what they measure."""
