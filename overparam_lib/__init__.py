"""Over-parameterized learning in PyTorch: data, networks, training and its probes.

The library behind the book of the same subject. Import what you need from the subpackages::

    from overparam_lib.datasets import ClusteredMixture
    from overparam_lib.networks import TwoLayer
    from overparam_lib.training import train
"""

__version__ = "0.1.0"
