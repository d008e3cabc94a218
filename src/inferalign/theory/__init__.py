"""InfAlign's theory (arXiv 2412.19792) in numbers: no model, no reward, numpy and scipy alone.

How many points best-of-4 wins after training on e^(10x) at half a nat of KL:

>>> from inferalign.theory.grid import default_grid
>>> from inferalign.theory.policies import beta_for_kl, policy, win_rate
>>> from inferalign.theory.procedures import best_of_n
>>> from inferalign.theory.transforms import parse_transform
>>> transform, grid = parse_transform("exp:10"), default_grid()
>>> beta = beta_for_kl(transform, 0.5, grid)
>>> round(100 * win_rate(policy(transform, beta, grid), best_of_n(4)).win, 2)
87.15
"""
