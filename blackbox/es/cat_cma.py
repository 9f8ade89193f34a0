"""CatCMA with margin: CMA-ES for floats and integers joined with a categorical distribution for choices.

Sources: Hamano et al. 2024, "CatCMA", GECCO; Hamano et al. 2025, "CatCMA with Margin", arXiv:2504.07884.
"""
