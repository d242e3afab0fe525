"""Networks whose parameterization and scale are explicit."""

from overparam_lib.networks.memorizer import Memorizer
from overparam_lib.networks.mlp import MLP
from overparam_lib.networks.two_layer import Reparameterized, TwoLayer, reparameterize

__all__ = ["MLP", "Memorizer", "Reparameterized", "TwoLayer", "reparameterize"]
