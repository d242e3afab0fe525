r"""Fully connected networks of any depth, with the start's variance explicit."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from overparam_lib.networks._arguments import (
    Activation,
    activation_function,
    require_inputs,
    require_positive,
)

__all__ = ["MLP"]


class MLP(nn.Module):
    r"""Fully connected network with hidden layers of given widths; all layers are trained.

    With :math:`H` hidden layers of widths :math:`m_1,\dots,m_H`, and :math:`m_0=d`, :math:`m_{H+1}=K`,

    .. math:: x^{(0)} = x, \qquad x^{(h)} = \varphi\big(W^{(h)}x^{(h-1)}+b^{(h)}\big),\; 1\le h\le H,
        \qquad f(x) = W^{(H+1)}x^{(H)}+b^{(H+1)} .

    At the start the entries of :math:`W^{(h)}` are independent :math:`N(0,\sigma_w^2/m_{h-1})`, and the
    biases are zero. For ReLU, :math:`\sigma_w^2=2` keeps the size of the activations from layer to layer
    (He et al. 2015).

    Parameters
    ----------
    in_features : int
        Input dimension d.
    widths : sequence of int
        :math:`m_1,\dots,m_H`. Empty for a linear map.
    num_outputs : int, optional
        Number K of outputs. None, the default, makes a scalar network, whose output has shape (n,).
    activation : str or callable, default ``"relu"``
        φ, as in :class:`TwoLayer`.
    weight_variance : float, default 2.0
        :math:`\sigma_w^2`, positive.
    bias : bool, default True
        Whether the layers have biases.
    generator : torch.Generator, keyword-only
        Source of the start. Numbers are drawn in float64 on the generator's device.
    device, dtype : optional
        As in :class:`torch.nn.Linear`.

    Attributes
    ----------
    layers : torch.nn.ModuleList
        The H + 1 layers, each a :class:`torch.nn.Linear`.

    Raises
    ------
    ValueError
        If a size is not a positive integer, or an argument is none of the above.

    References
    ----------
    He, Zhang, Ren and Sun, "Delving deep into rectifiers", ICCV 2015, section 2.2.

    Examples
    --------
    >>> net = MLP(64, (512,), 10, generator=torch.Generator().manual_seed(0))
    >>> net(torch.ones(2, 64)).shape, net.num_parameters
    (torch.Size([2, 10]), 38410)
    """

    def __init__(
        self,
        in_features: int,
        widths: Sequence[int],
        num_outputs: int | None = None,
        *,
        activation: str | Activation = "relu",
        weight_variance: float = 2.0,
        bias: bool = True,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(in_features=in_features)
        for h, width in enumerate(widths):
            require_positive(**{f"widths[{h}]": width})
        if num_outputs is not None:
            require_positive(num_outputs=num_outputs)
        activation_function(activation)  # a name that is not known is refused here
        if not (math.isfinite(weight_variance) and weight_variance > 0):
            raise ValueError(f"weight_variance must be positive and finite, got {weight_variance!r}")
        self.in_features, self.widths, self.num_outputs = in_features, tuple(widths), num_outputs
        self.activation, self.weight_variance = activation, weight_variance
        sizes = (in_features, *self.widths, 1 if num_outputs is None else num_outputs)
        self.layers = nn.ModuleList(
            nn.Linear(a, b, bias=bias, device="meta", dtype=dtype)
            for a, b in zip(sizes[:-1], sizes[1:], strict=True)
        )
        self.to_empty(device=device or torch.get_default_device())  # nothing was drawn from the global state
        self._draw(generator)

    @property
    def num_parameters(self) -> int:
        r"""Number of weights and biases, :math:`N_{\mathrm{par}}`."""
        return sum(p.numel() for p in self.parameters())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Evaluate the network.

        Parameters
        ----------
        x : torch.Tensor
            Inputs, shape (n, d).

        Returns
        -------
        torch.Tensor
            Outputs, shape (n, K), or (n,) for a scalar network.

        Raises
        ------
        ValueError
            If `x` is not a matrix with d columns.
        """
        require_inputs(x, self.in_features)
        act = activation_function(self.activation)
        *hidden, last = self.layers
        for layer in hidden:
            x = act(layer(x))
        return last(x)[:, 0] if self.num_outputs is None else last(x)

    def extra_repr(self) -> str:
        """Summarize the network in one line, for ``print``."""
        return f"activation={self.activation!r}, weight_variance={self.weight_variance}"

    @torch.no_grad()
    def _draw(self, generator: torch.Generator) -> None:
        for layer in self.layers:
            where = {"generator": generator, "device": generator.device, "dtype": torch.float64}
            layer.weight.copy_(
                math.sqrt(self.weight_variance / layer.in_features) * torch.randn(layer.weight.shape, **where)
            )
            if layer.bias is not None:
                layer.bias.zero_()
