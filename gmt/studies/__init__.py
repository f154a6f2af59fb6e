"""Studies: the grid of arms, the plan of runs, and the sweep that carries it out. Imports no torch."""
