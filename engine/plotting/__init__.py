"""Figures, image grids and tables. It knows numbers and labels, not what they measure."""
