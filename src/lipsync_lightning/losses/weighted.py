"""The sum of the loss terms that the YAML names."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from lipsync_lightning.errors import BadConfig


class WeightedLoss(nn.Module):
    """One term: a loss and its weight."""

    def __init__(self, *, weight: float, loss: nn.Module) -> None:
        super().__init__()
        self.weight = weight
        self.loss = loss


class WeightedLosses(nn.Module):
    """Sums the terms it was given. A term that is absent computes nothing and holds no network."""

    def __init__(self, *, terms: Mapping[str, WeightedLoss | None]) -> None:
        """Args: terms: by name; an experiment removes a term of the YAML it builds on by setting it to null."""
        super().__init__()
        self.terms = nn.ModuleDict({name: term for name, term in terms.items() if term is not None})

    def forward(self, inputs: Mapping[str, Callable[[], tuple[Tensor, ...]]]) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum and each term's own value.

        Args:
            inputs: for every term the caller can serve, a function that makes its arguments; called only where the term exists.
        Raises: BadConfig, for a term that the caller cannot serve.
        """
        unknown = sorted(set(self.terms) - set(inputs))
        if unknown:
            raise BadConfig(f"no inputs for the loss terms {unknown}; this module serves {sorted(inputs)}")
        values = {name: term.loss(*inputs[name]()) for name, term in self.terms.items()}  # pyright: ignore[reportCallIssue]
        total = sum(self.terms[name].weight * value for name, value in values.items())  # pyright: ignore[reportOperatorIssue]
        return total, values  # pyright: ignore[reportReturnType]
