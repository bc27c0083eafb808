"""The regression head of LAION's aesthetic predictor, which ImageReward shares."""

from pathlib import Path

from torch import Tensor, nn

from rocm_core.rewards.checkpoints import fill, read_tensors, readable

HIDDEN = (1024, 128, 64, 16)
_LINEAR = (0, 2, 4, 6, 7)  # positions in the published stack; dropout lies between the first ones


class ScoreHead(nn.Module):
    """Linear layers ``width`` → ``hidden`` → 1 with dropout and no activations between them."""

    def __init__(self, width: int, hidden: tuple[int, ...] = HIDDEN):
        super().__init__()
        sizes = (width, *hidden, 1)
        linear = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
        rates = (nn.Dropout(0.2), nn.Dropout(0.2), nn.Dropout(0.1))
        self.layers = nn.Sequential(
            linear[0], rates[0], linear[1], rates[1], linear[2], rates[2], linear[3], linear[4]
        )

    def forward(self, features: Tensor) -> Tensor:
        """(N,) from (N, width)."""
        return self.layers(features).squeeze(-1)

    @classmethod
    def read(cls, path: Path) -> "ScoreHead":
        """The head in a weights file, of the widths found there."""
        return cls.of(read_tensors(path), path)

    @classmethod
    def of(cls, tensors: dict[str, Tensor], path: Path) -> "ScoreHead":
        """The head of tensors layers.0 … layers.7, read from ``path``."""
        with readable(f"{path} holds no aesthetic head, which is layers.0 … layers.7"):
            widths = [tensors[f"layers.{i}.weight"].shape for i in _LINEAR]
        head = cls(widths[0][1], tuple(width[0] for width in widths[:-1]))
        fill(head, tensors, path)
        return head
