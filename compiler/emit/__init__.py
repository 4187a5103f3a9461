"""Graph to Program: nodes are placed in phases, and phases are printed as torch, C and Triton."""
