"""Search over steps: the reply grows step by step, each step is judged, and compute goes where the scores are."""

from thinkscale.strategies.search.beam import Beam, DiverseBeam
from thinkscale.strategies.search.best_first import BestFirst
from thinkscale.strategies.search.correct import CheckAndCorrect
from thinkscale.strategies.search.ets import EfficientTreeSearch
from thinkscale.strategies.search.particles import ParticleFilter
from thinkscale.strategies.search.rebase import Rebase

__all__ = ["Beam", "BestFirst", "CheckAndCorrect", "DiverseBeam", "EfficientTreeSearch", "ParticleFilter", "Rebase"]
