r"""The two-layer network :math:`f(x) = s\sum_r a_r\,\varphi(w_r\cdot x)`, in the two usual scalings."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from overparam_lib.networks._arguments import (
    Activation,
    activation_function,
    require_choice,
    require_inputs,
    require_positive,
)

__all__ = ["Reparameterized", "TwoLayer", "reparameterize"]

Parameterization = Literal["standard", "ntk"]
Layers = Literal["first", "second", "both"]

_HOMOGENEOUS = ("relu", "identity")  # φ(cz) = cφ(z) for c > 0


class TwoLayer(nn.Module):
    r"""Fully connected network with one hidden layer and no biases.

    With width :math:`m`, first layer :math:`W\in\mathbb R^{m\times d}` (rows :math:`w_r`) and output
    layer :math:`A\in\mathbb R^{K\times m}`,

    .. math:: f_c(x) = s\sum_{r=1}^m a_{c,r}\,\varphi(w_r\cdot x),

    where the parameterization fixes the scale :math:`s` and the law of the start:

    ============== ======================= ============================= ======================
    name           scale :math:`s`         row :math:`w_r(0)`            entry :math:`a_{c,r}(0)`
    ============== ======================= ============================= ======================
    ``"standard"`` :math:`1`               :math:`N(0,\kappa^2 I_d/m)`   :math:`N(0,1)`
    ``"ntk"``      :math:`1/\sqrt m`       :math:`N(0,\kappa^2 I_d)`     uniform on :math:`\pm1`
    ============== ======================= ============================= ======================

    The first is that of Li and Liang (2018), with :math:`\kappa=1`; the second that of Du et al.
    (2019) and Arora et al. (2019). :func:`reparameterize` maps one to the other.

    Parameters
    ----------
    in_features : int
        Input dimension d.
    width : int
        Number m of hidden neurons.
    num_outputs : int, optional
        Number K of outputs. None, the default, makes a scalar network, whose output has shape (n,).
    activation : str or callable, default ``"relu"``
        φ: one of ``"relu"``, ``"identity"``, ``"quadratic"``, ``"tanh"``, ``"sigmoid"``, ``"erf"``,
        ``"softplus"``, or an elementwise function of a tensor.
    parameterization : {"standard", "ntk"}, keyword-only
        Scale and law of the start, see the table.
    init_scale : float, default 1.0
        κ, the standard deviation of each first-layer weight (of √m times it under ``"standard"``).
    trained : {"first", "second", "both"}, default ``"first"``
        Which layers require a gradient. The theorems that this network serves fix the output layer.
    antisymmetric : bool, default False
        Draw half of the neurons and add, for each :math:`(w_r, a_r)`, its mirror image
        :math:`(w_r, -a_r)`: then f = 0 at the start.
    generator : torch.Generator, keyword-only
        Source of the start. Numbers are drawn in float64 on the generator's device.
    device, dtype : optional
        As in :class:`torch.nn.Linear`.

    Attributes
    ----------
    hidden_weight : torch.nn.Parameter
        W, shape (m, d).
    output_weight : torch.nn.Parameter
        A, shape (K, m), or (m,) for a scalar network.

    Raises
    ------
    ValueError
        If an argument is none of the above, or `antisymmetric` is asked for with an odd width.

    References
    ----------
    Li and Liang, "Learning overparameterized neural networks via stochastic gradient descent on
    structured data", NeurIPS 2018, section 3. Du, Zhai, Póczos and Singh, "Gradient descent provably
    optimizes over-parameterized neural networks", ICLR 2019, section 1.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> net = TwoLayer(5, 8, 3, parameterization="standard", generator=g)
    >>> net(torch.ones(2, 5)).shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        in_features: int,
        width: int,
        num_outputs: int | None = None,
        *,
        activation: str | Activation = "relu",
        parameterization: Parameterization,
        init_scale: float = 1.0,
        trained: Layers = "first",
        antisymmetric: bool = False,
        generator: torch.Generator,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        require_positive(in_features=in_features, width=width)
        if num_outputs is not None:
            require_positive(num_outputs=num_outputs)
        require_choice("parameterization", parameterization, ("standard", "ntk"))
        require_choice("trained", trained, ("first", "second", "both"))
        if not (math.isfinite(init_scale) and init_scale > 0):
            raise ValueError(f"init_scale must be positive and finite, got {init_scale!r}")
        if antisymmetric and width % 2:
            raise ValueError(f"width must be even for an antisymmetric start, got {width}")
        activation_function(activation)  # a name that is not known is refused here
        self.in_features, self.width, self.num_outputs = in_features, width, num_outputs
        self.activation, self.parameterization, self.init_scale = activation, parameterization, init_scale
        self.trained, self.antisymmetric = trained, antisymmetric

        hidden, output = self._draw(generator)
        place = {"device": device, "dtype": dtype or torch.get_default_dtype()}
        self.hidden_weight = nn.Parameter(hidden.to(**place), requires_grad=trained != "second")
        self.output_weight = nn.Parameter(output.to(**place), requires_grad=trained != "first")

    @property
    def output_scale(self) -> float:
        r"""The factor s in front of the sum: 1, or :math:`1/\sqrt m` in the NTK parameterization."""
        return 1.0 if self.parameterization == "standard" else 1 / math.sqrt(self.width)

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
        hidden = activation_function(self.activation)(self.preactivation(x))
        out = F.linear(hidden, self.output_weight)
        return out if self.parameterization == "standard" else out * self.output_scale

    def preactivation(self, x: torch.Tensor) -> torch.Tensor:
        r"""Return :math:`w_r\cdot x_i`, shape (n, m), for inputs `x` of shape (n, d)."""
        require_inputs(x, self.in_features)
        return x @ self.hidden_weight.T

    def pattern(self, x: torch.Tensor) -> torch.Tensor:
        r"""Return the activation patterns :math:`1\{w_r\cdot x_i\ge 0\}`, boolean, shape (n, m)."""
        return self.preactivation(x) >= 0

    def extra_repr(self) -> str:
        """Summarize the network in one line, for ``print``."""
        outputs = "scalar" if self.num_outputs is None else self.num_outputs
        return (
            f"{self.in_features} -> {self.width} -> {outputs}, activation={self.activation!r}, "
            f"parameterization={self.parameterization!r}, trained={self.trained!r}"
        )

    def _draw(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        where = {"generator": generator, "device": generator.device}
        drawn = self.width // 2 if self.antisymmetric else self.width
        head = () if self.num_outputs is None else (self.num_outputs,)
        hidden = self.init_scale * torch.randn(drawn, self.in_features, dtype=torch.float64, **where)
        if self.parameterization == "standard":
            hidden /= math.sqrt(self.width)
            output = torch.randn(*head, drawn, dtype=torch.float64, **where)
        else:
            output = 2.0 * torch.randint(2, (*head, drawn), **where).double() - 1.0
        if self.antisymmetric:
            hidden, output = torch.cat([hidden, hidden]), torch.cat([output, -output], dim=-1)
        return hidden, output


class Reparameterized(NamedTuple):
    """A network in the other parameterization, and what to multiply its step sizes by.

    Attributes
    ----------
    model : TwoLayer
        The same function in the other parameterization.
    step_factors : dict of str to float
        For each parameter's name, the new step size over the old one.
    """

    model: TwoLayer
    step_factors: dict[str, float]


def reparameterize(model: TwoLayer, parameterization: Parameterization) -> Reparameterized:
    r"""Write the same function in the other parameterization.

    For :math:`\varphi(cz)=c\,\varphi(z)`, :math:`c>0`, put :math:`v_r=\sqrt m\,w_r`. Then

    .. math:: \sum_r a_r\,\varphi(w_r\cdot x) = \frac1{\sqrt m}\sum_r a_r\,\varphi(v_r\cdot x),
        \qquad \nabla_{v_r} = \frac1{\sqrt m}\nabla_{w_r},

    so a gradient step of size :math:`\eta_w` on w is the step :math:`\eta_v = m\,\eta_w` on v, while
    the output layer and its step stay as they are. For example, Li and Liang's :math:`\eta=10/m` is
    the step 10 in the NTK parameterization, whatever the width.

    Parameters
    ----------
    model : TwoLayer
        A network with a positively homogeneous activation (``"relu"`` or ``"identity"``).
    parameterization : {"standard", "ntk"}
        The parameterization of the result.

    Returns
    -------
    Reparameterized
        A new network with copied weights, and the factors for its step sizes under plain gradient
        descent or SGD.

    Raises
    ------
    ValueError
        If the activation is not positively homogeneous: then the two families of functions differ.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> net = TwoLayer(5, 8, parameterization="standard", generator=g)
    >>> twin, factors = reparameterize(net, "ntk")
    >>> factors
    {'hidden_weight': 8.0, 'output_weight': 1.0}
    """
    require_choice("parameterization", parameterization, ("standard", "ntk"))
    if model.activation not in _HOMOGENEOUS:
        raise ValueError(
            f"model has activation {model.activation!r}; the parameterizations describe the same functions "
            f"only for a positively homogeneous one: {', '.join(_HOMOGENEOUS)}"
        )
    unchanged = parameterization == model.parameterization
    factor = 1.0 if unchanged else float(model.width) if parameterization == "ntk" else 1.0 / model.width
    twin = _empty_like(model, parameterization)
    with torch.no_grad():
        twin.hidden_weight.copy_(model.hidden_weight * math.sqrt(factor))
        twin.output_weight.copy_(model.output_weight)
    return Reparameterized(twin, {"hidden_weight": factor, "output_weight": 1.0})


def _empty_like(model: TwoLayer, parameterization: Parameterization) -> TwoLayer:
    return TwoLayer(
        model.in_features,
        model.width,
        model.num_outputs,
        activation=model.activation,
        parameterization=parameterization,
        init_scale=model.init_scale,
        trained=model.trained,
        antisymmetric=model.antisymmetric,
        generator=torch.Generator().manual_seed(0),  # its draws are overwritten
        device=model.hidden_weight.device,
        dtype=model.hidden_weight.dtype,
    )
